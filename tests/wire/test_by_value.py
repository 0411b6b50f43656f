"""Values that bring along what others do not find by name: written by one program, read by others."""

import pickle
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unios.errors import CallerError
from unios.wire import values
from unios.wire.values import BESIDE_BYTES, PICKLE_BYTES, Value, _may_name_the_program, decode, encode

WRITER = """
import dataclasses, enum, pickle, sys, threading
from unios.wire.values import decode, encode
factor = 3
lock = threading.Lock()
@dataclasses.dataclass
class Point:
    x: int
    def scaled(self): return times(self.x)
class Colour(enum.Enum):
    RED = 1
class Guarded:
    def held(self): return lock
def times(x): return x * factor
def whole(value): return encode(value, trusted=True, by_value=True)
if sys.argv[1] == "write":
    values = [[Point(2), Colour.RED, times, lambda: factor, Point], Guarded()]
    for value in map(whole, values):
        print(pickle.dumps([bytes(value.body), [bytes(one) for one in value.buffers]]).hex())
    for value in values[0][:3]:
        assert type(decode(whole(value), trusted=True)) is type(value)
    assert decode(whole([times, Colour.RED]), trusted=True) == [times, Colour.RED]
else:
    import msgspec
    from unios.wire.values import Value
    body, beside = pickle.loads(bytes.fromhex(sys.argv[2]))
    got = decode(Value(msgspec.Raw(body), [memoryview(one) for one in beside]), trusted=True)
    if sys.argv[1] == "guarded":
        assert type(got) is Guarded
    else:
        assert got[0] == Point(2) and got[1] is Colour.RED and got[2] is times and got[4] is Point and got[3]() == 3
"""


def told(program: Path, *words: str) -> list[str]:
    done = subprocess.run([sys.executable, str(program), *words], capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return done.stdout.split()


def value_of(text: str) -> Value:
    body, beside = pickle.loads(bytes.fromhex(text))
    return Value(msgspec.Raw(body), [memoryview(one) for one in beside])


def test_what_is_of_the_program_itself_is_read_by_any_other_and_by_the_same_program_as_its_own(tmp_path: Path) -> None:
    (program := tmp_path / "program.py").write_text(WRITER)
    whole, guarded = told(program, "write")
    point, colour, times, scaled, kind = decode(value_of(whole), trusted=True)
    assert point.x == 2 and point.scaled() == 6 and times(5) == 15 and scaled() == 3 and type(point) is kind and colour is type(colour).RED
    again = encode([point, times], trusted=True, by_value=True)  # from here, where it is not found by name either
    assert decode(again, trusted=True)[0] == point and type(decode(again, trusted=True)[0]) is kind
    (twin := tmp_path / "twin.py").write_text(WRITER)
    told(twin, "whole", whole)  # another process, another folder: the same program
    told(twin, "guarded", guarded)
    with pytest.raises(CallerError, match="Guarded"):  # it holds what cannot be pickled, and goes by name as ever
        decode(value_of(guarded), trusted=True)


def test_what_was_brought_finds_its_own_where_its_program_runs_when_it_is_passed_on(tmp_path: Path) -> None:
    (program := tmp_path / "program.py").write_text(WRITER)
    got = decode(value_of(told(program, "write")[0]), trusted=True)
    again = encode(got, trusted=True, by_value=True)
    told(program, "whole", pickle.dumps([bytes(again.body), [bytes(one) for one in again.buffers]]).hex())


@pytest.mark.parametrize("by_value", [False, True])
def test_what_cannot_be_pickled_either_way_is_said(by_value: bool) -> None:
    for value in (threading.Lock(), [threading.Lock(), lambda: 1]):
        with pytest.raises(CallerError, match=r"this cannot be sent: .*(lock|lambda)"):
            encode(value, trusted=True, by_value=by_value)


def test_buffers_lie_beside_a_pickle_by_value_once_and_uncopied() -> None:
    buffer = bytearray(BESIDE_BYTES)
    value = encode([pickle.PickleBuffer(buffer), memoryview(buffer), lambda: 7], trusted=True, by_value=True)
    assert [one.nbytes for one in value.buffers] == [BESIDE_BYTES] * 2
    buffer[0] = 9
    one, two, function = decode(value, trusted=True)
    assert one[0] == two[0] == 9 and function() == 7


def test_buffers_are_those_of_the_pickle_that_is_sent_where_it_goes_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec("lock = __import__('threading').Lock()\nclass Guarded:\n    def held(self): return lock\n", main.__dict__)
    buffers = [bytearray(BESIDE_BYTES), bytearray(BESIDE_BYTES)]
    value = encode([memoryview(buffers[0]), main.Guarded(), memoryview(buffers[1])], trusted=True, by_value=True)
    assert [one.obj for one in value.buffers] == buffers
    assert type(decode(value, trusted=True)[1]) is main.Guarded


def test_plain_values_are_written_by_pickle_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_by_value", None)
    for value in ({"a": [1, 2.5, "ü"]}, "of __main__", b"x" * PICKLE_BYTES, [memoryview(b"y" * BESIDE_BYTES)], threading.Event):
        encode(value, trusted=True, by_value=True)


class Named:
    pass


Named.__module__, Named.__qualname__ = "__main__", "Named"


@pytest.mark.parametrize("size", [1, 3, 300, 70_000, 300_000])
@pytest.mark.parametrize(
    "made", [lambda size: size * b"a", lambda size: size * "b", lambda size: bytearray(size), lambda size: list(range(size)), lambda size: size * "é"]
)
def test_a_name_in_the_program_is_found_wherever_it_lies_between_what_is_long(size: int, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Named", Named, raising=False)
    one, other = made(size), made(size)
    for value in ([one, Named, other], [Named, one], [one, Named], [one, 0x95, other, Named], [one, other, one, other, 0x42, Named]):
        assert _may_name_the_program(value, pickle.dumps(value, 5))
    for value in ([one, other], [one, 0x95, other], [one, other, 3000, one, None, made(size)]):
        assert not _may_name_the_program(value, pickle.dumps(value, 5))


def test_what_is_nothing_but_bytes_or_text_names_nothing() -> None:
    for value in (b"\x8c\x08__main__" * 10, bytearray(b"\x8c\x08__main__")):
        assert not _may_name_the_program(value, pickle.dumps(value, 5))
