"""Values of tasks: what cannot be pickled is named, and nothing that a value does while it is tried changes that."""

import pickle
import sys
import threading
from typing import Any

import pytest

from unios.client.tasks import functions as module
from unios.client.tasks import values
from unios.client.tasks.functions import Functions, Shipped
from unios.client.tasks.values import pack, pack_failure, unpack, unpack_failure
from unios.limits import TASK_BUFFER_BYTES_MIN


def test_large_buffers_lie_beside_the_pickle_and_are_nobody_elses() -> None:
    data = bytearray(b"a" * TASK_BUFFER_BYTES_MIN)
    parts = pack([pickle.PickleBuffer(data), 1], "it", copy=True)
    data[:] = bytes(len(data))
    assert len(parts) == 2 and bytes(unpack(parts)[0]) == b"a" * TASK_BUFFER_BYTES_MIN
    assert len(pack([pickle.PickleBuffer(data)], "it", whole=True)) == 1


def test_a_buffer_that_is_only_read_here_but_changed_elsewhere_is_copied_and_bytes_are_not() -> None:
    data, fixed = bytearray(b"a" * TASK_BUFFER_BYTES_MIN), b"b" * TASK_BUFFER_BYTES_MIN
    parts = pack([pickle.PickleBuffer(memoryview(data).toreadonly()), pickle.PickleBuffer(fixed)], "it", copy=True)
    data[:] = bytes(len(data))
    assert bytes(unpack(parts)[0]) == b"a" * TASK_BUFFER_BYTES_MIN
    assert isinstance(parts[2], memoryview) and parts[2].obj is fixed


def test_what_cannot_be_pickled_of_a_closure_is_named_beside_a_variable_that_is_not_bound_yet() -> None:
    lock = threading.Lock()

    def look() -> Any:
        return later, lock

    with pytest.raises(pickle.PicklingError, match="variable lock is <unlocked"):
        pack(look, "the function look")
    later = 1
    assert look()[0] == later


class Mute(Exception):
    """Neither travels nor says anything."""

    def __reduce__(self) -> Any:
        raise self

    def __str__(self) -> str:
        raise ValueError("it does not say")


def test_an_exception_that_can_neither_travel_nor_speak_is_named_all_the_same() -> None:
    failure = unpack_failure(pack_failure(Mute()))
    assert isinstance(failure, pickle.PicklingError) and "Mute, which cannot say more" in str(failure)
    with pytest.raises(pickle.PicklingError, match="Mute, which cannot say more"):
        pack(Mute(), "it")


class Leaves(Exception):
    """Ends whoever makes it again."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def test_an_exception_that_ends_whoever_makes_it_again_is_named() -> None:
    failure = unpack_failure(pack_failure(Leaves()))
    assert isinstance(failure, pickle.PicklingError) and "Leaves" in str(failure) and "SystemExit: 3" in str(failure)


def test_a_function_is_pickled_once_if_it_is_found_by_its_name_and_each_time_if_it_takes_something_along() -> None:
    functions, number = Functions(), 1
    assert functions.pickled(pickle.dumps) is functions.pickled(pickle.dumps) and functions.pickled(pickle.dumps).own_bytes == 0
    one, other = functions.pickled(lambda: number), functions.pickled(lambda: number)
    assert one is not other and one.own_bytes == len(one.body)


def test_what_is_over_the_bound_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "TASK_BYTES_MAX", 100_000)
    assert len(pack(bytes(99_000), "it")[0]) > 99_000
    with pytest.raises(pickle.PicklingError, match=r"the result of f, a bytes, has 1000\d\d bytes when it is pickled; 100000 is the limit"):
        pack(bytes(100_000), "the result of f, a bytes,")
    with pytest.raises(pickle.PicklingError, match="100000 is the limit"):
        pack([pickle.PickleBuffer(bytes(60_000)), pickle.PickleBuffer(bytearray(60_000))], "it")


def test_no_more_buffers_travel_beside_a_pickle_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "TASK_PARTS_MAX", 4)
    many = [bytearray([number]) * 20_000 for number in range(5)]
    parts = pack([pickle.PickleBuffer(one) for one in many], "it")
    assert len(parts) == 3
    assert [bytes(one) for one in unpack(parts)] == [bytes(one) for one in many]


def test_functions_that_are_kept_are_bounded_on_both_sides_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FUNCTIONS_KEPT", 2)
    functions, sent, kept = Functions(), Shipped(), Shipped()
    for function in (pickle.dumps, pickle.loads, pickle.dump):
        pickled = functions.pickled(function)
        sent.put(pickled.digest, None)
        kept.put(pickled.digest, pickled.body)
    first, second = (functions.pickled(one).digest for one in (pickle.dumps, pickle.loads))
    assert len(functions._named) == 2
    for side in (sent, kept):
        assert first not in side and second in side
    assert kept.callable(second) is kept.callable(second) is pickle.loads


def test_code_that_travels_by_value_keeps_the_name_of_its_file_and_lines() -> None:
    def outer() -> None:
        def inner() -> None:
            raise ValueError("in a function within a function")

        inner()

    outer.__module__ = "__main__"  # as what the program itself defines
    travelled = unpack(pack(outer, "it"))
    assert travelled.__code__ is not outer.__code__
    with pytest.raises(ValueError, match="within a function") as caught:
        travelled()
    failure = unpack_failure(pack_failure(caught.value))
    assert f'File "{__file__}", line {outer.__code__.co_firstlineno + 2}, in inner' in str(failure.__cause__)
    assert 'raise ValueError("in a function within a function")' in str(failure.__cause__)
