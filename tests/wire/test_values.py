"""Values: pickles between processes of one user, and of no other; what cannot travel is said."""

import datetime
import multiprocessing
import pickle
import threading
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.errors import CallerError, Denied, ProtocolError
from unios.limits import MESSAGE_BYTES_STRANGER_MAX
from unios.wire import values
from unios.wire.values import BESIDE_BYTES, PICKLE_BYTES, Value, decode, encode


class Evil:
    ran: list[str] = []

    def __reduce__(self) -> Any:
        return it_ran, ()


def it_ran() -> None:
    Evil.ran.append("it ran")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_plain_values_arrive_as_they_were_whoever_reads_them(value: Any) -> None:
    assert decode(encode(value, trusted=False), trusted=False) == value
    assert decode(encode(value, trusted=False), trusted=True) == value
    assert decode(encode(value, trusted=True), trusted=True) == value


def test_what_msgpack_has_more_arrives_too() -> None:
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert decode(encode([(1, 2), now], trusted=False), trusted=False) == [[1, 2], now]


@pytest.mark.parametrize("size", [0, PICKLE_BYTES * 2])
def test_a_pickle_of_another_user_is_refused_and_does_not_run(size: int) -> None:
    Evil.ran = []
    evil = encode([Evil(), b"x" * size], trusted=True)
    with pytest.raises(Denied, match="it is a program"):
        decode(evil, trusted=False)
    for buffers in ([memoryview(pickle.dumps(Evil()))], []):
        for body in (b"\xc4\x00", b"\xa0", b"\xc5\x00\x00", b"\xc6\x00\x00\x00\x00", b"\xc0", b"\xc1", b""):
            with pytest.raises((Denied, ProtocolError)):
                decode(Value(msgspec.Raw(body), buffers), trusted=False)
    assert not Evil.ran
    decode(evil, trusted=True)
    assert Evil.ran == ["it ran"]


def test_nothing_says_of_a_value_that_it_is_trusted_but_who_received_it() -> None:
    assert not encode(1, trusted=True).trusted and not Value(msgspec.Raw(b"\xc0")).trusted


@pytest.mark.parametrize("value", [threading.Lock(), multiprocessing.Lock(), lambda: 1, (one for one in ()), memoryview(b"abcd")[::2]])
def test_what_cannot_be_pickled_is_said(value: Any) -> None:
    with pytest.raises(CallerError, match="this cannot be sent"):
        encode(value, trusted=True)


@pytest.mark.parametrize("value", [object(), {1, object()}, 1 << 70, "\udcff", Evil(), 1j])
def test_what_is_not_plain_is_not_sent_to_another_user_and_that_is_said(value: Any) -> None:
    with pytest.raises(CallerError, match="cannot be sent to another user's process"):
        encode(value, trusted=False)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for trusted in (True, False):
        with pytest.raises(CallerError):
            encode(deep, trusted=trusted)


def test_what_is_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallerError, match="the limit is"):
        encode(bytes(MESSAGE_BYTES_STRANGER_MAX), trusted=False)
    monkeypatch.setattr(values, "MESSAGE_BYTES_MAX", 1_000_000)
    with pytest.raises(CallerError, match="the limit is"):
        encode(pickle.PickleBuffer(bytearray(1_000_001)), trusted=True)


def test_large_buffers_and_large_pickles_lie_beside_uncopied() -> None:
    buffer = bytearray(BESIDE_BYTES)
    value = encode([pickle.PickleBuffer(buffer), memoryview(buffer), memoryview(b"small")], trusted=True)
    assert [found.nbytes for found in value.buffers] == [BESIDE_BYTES] * 2 and not value.is_fixed
    buffer[0] = 7
    assert decode(value, trusted=True)[0][0] == 7
    fixed = value.fixed()
    buffer[0] = 8
    assert decode(fixed, trusted=True)[1][0] == 7 and fixed.is_fixed
    assert bytes(decode(value, trusted=True)[2]) == b"small"
    large = encode(b"x" * PICKLE_BYTES, trusted=True)
    assert len(large.buffers) == 1 and large.is_fixed and decode(large, trusted=True) == b"x" * PICKLE_BYTES
    stranger = encode(b"x" * PICKLE_BYTES, trusted=False)
    assert len(stranger.buffers) == 1 and decode(stranger, trusted=False) == b"x" * PICKLE_BYTES


def test_a_class_that_is_not_here_is_named() -> None:
    data = pickle.dumps(Evil, 5).replace(b"Evil", b"Gone")
    with pytest.raises(CallerError, match="Gone"):
        decode(Value(msgspec.Raw(msgspec.msgpack.encode(data))), trusted=True)


class Interrupts:
    def __reduce__(self) -> Any:
        return interrupted, ()


class InterruptsAtOnce:
    def __reduce__(self) -> NoReturn:
        raise Interrupted


class Interrupted(Exception):
    pass


def interrupted() -> None:
    raise Interrupted


@pytest.mark.parametrize("kind", [Interrupts, InterruptsAtOnce])
def test_what_a_class_raises_while_it_is_written_or_read_goes_on_as_it_is(kind: type[Any]) -> None:
    with pytest.raises(Interrupted):
        decode(encode(kind(), trusted=True), trusted=True)


@given(st.binary(max_size=60), st.lists(st.binary(max_size=20), max_size=2))
def test_any_bytes_of_another_user_are_a_plain_value_or_refused(data: bytes, beside: list[bytes]) -> None:
    for body in (data, b"\x92\xa1v" + data):
        try:
            decode(Value(msgspec.Raw(body), [memoryview(one) for one in beside]), trusted=False)
        except (Denied, ProtocolError):
            pass


class Counted:
    """Counts how often it is written, as a reference to an object does, which is lent with each pickle."""

    written = 0

    def __reduce__(self) -> tuple[Any, ...]:
        Counted.written += 1
        return Counted, ()


@pytest.mark.parametrize("beside", [b"", bytes(PICKLE_BYTES), pickle.PickleBuffer(bytearray(BESIDE_BYTES)), pickle.PickleBuffer(bytearray(10))])
def test_a_value_is_written_once_whatever_lies_beside_it(beside: Any) -> None:
    Counted.written = 0
    assert len(decode(encode((Counted(), beside), trusted=True)._replace(trusted=True), trusted=True)) == 2
    assert Counted.written == 1
