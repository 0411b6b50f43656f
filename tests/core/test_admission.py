"""Admission, dependencies and tidying where they stand alone."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from unios.core import tidying
from unios.core.admission import Key, Room
from unios.core.processes import ProcessRecord
from unios.demands import After, Queueing, Resources


def record(pid: int, cpu: int = 1_000, memory: int = 0, **fields: Any) -> ProcessRecord:
    return ProcessRecord(pid, fields.pop("incarnation", 1), fields.pop("state", "pending"), "ann", resources=Resources(cpu, memory), **fields)


@given(st.lists(st.tuples(st.integers(300, 330), st.integers(0, 3_000), st.integers(0, 9), st.booleans()), max_size=60))
def test_never_is_more_admitted_than_there_is(steps: list[tuple[int, int, int, bool]]) -> None:
    room = Room()
    living: dict[Key, tuple[int, int]] = {}
    incarnations: dict[int, int] = {}
    for pid, cpu, memory, ends in steps:
        key = (pid, incarnations.setdefault(pid, 1))
        if ends:
            living.pop(key, None)
            incarnations[pid] += 1  # what one incarnation asks for does not change
            continue
        if key not in living and not room.take(record(pid, cpu, memory, incarnation=key[1]), 4, 20, living.__contains__):
            living[key] = (cpu, memory)
        elif key not in living:
            incarnations[pid] += 1
        assert sum(held[0] for held in living.values()) <= 4_000 and sum(held[1] for held in living.values()) <= 20


def test_what_was_not_started_gives_its_room_back_and_asking_twice_takes_it_once() -> None:
    room = Room()
    assert not room.take(record(300), 1, 0, lambda _key: True) and not room.take(record(300), 1, 0, lambda _key: True)
    assert room.take(record(301), 1, 0, lambda _key: True) == "1 of 1 core is set aside"
    room.give_back(300, 1)
    assert not room.take(record(301), 1, 0, lambda _key: True)


def test_what_ran_before_counts_even_beyond_what_there_is() -> None:
    room = Room()
    for pid in (300, 301):
        room.hold(record(pid))
    assert room.take(record(302), 1, 0, lambda _key: True)
    assert not room.take(record(303, cpu=0), 1, 0, lambda _key: True)


def ended(pid: int, at: int, **fields: Any) -> ProcessRecord:
    return record(pid, state="exited", exit_code=0, ended_ms=at, **fields)


def test_the_oldest_records_go_but_none_that_somebody_waits_for() -> None:
    waits = replace(record(400), queueing=Queueing(after=(After(300, "ok"), After(310, "ok"))))
    array = [replace(ended(310 + number, 2), queueing=Queueing(array=310, index=number)) for number in range(3)]
    records = [ended(300, 1), ended(301, 2), ended(302, 3), *array, waits]
    assert tidying.surplus(records, 1) == ["/processes/0000000301", "/specs/0000000301"]


def test_a_shared_specification_goes_with_the_last_that_has_it() -> None:
    first, second, third = ended(300, 1), ended(301, 2, spec_pid=300), ended(302, 3, spec_pid=300)
    assert tidying.surplus([first, second, third], 1) == ["/processes/0000000300", "/processes/0000000301"]
    assert tidying.surplus([third], 0) == ["/processes/0000000302", "/specs/0000000300"]


def test_what_will_be_started_again_is_kept() -> None:
    assert tidying.surplus([ended(300, 1, restart="always")], 0) == []
