"""A line that looks for what comes before it sleeps: soon it does not where that is in vain, deadlines hold, and nothing that comes is missed."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from unios.client.messages import line as lines
from unios.client.messages.line import Closed, Late, Line
from unios.wire.frames import frame
from unios.wire.messages import Reply, encode, pack

ANSWER = frame(encode(Reply(1, pack(None))))


class Counting:
    """Counts how often a line looks without waiting, and how often it waits."""

    def __init__(self, line: Line) -> None:
        self.looked = self.waited = 0
        self._pull = line._pull
        line._pull = self

    def __call__(self, buffers: Any, space: int, flags: int) -> Any:
        if flags & socket.MSG_DONTWAIT:
            self.looked += 1
        else:
            self.waited += 1
        return self._pull(buffers, space, flags)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, Line]]:
    monkeypatch.setattr(lines, "_PROCESSORS", 2)
    raw, other = socket.socketpair()
    yield raw, Line(other, local=True, trusted=True)
    raw.close()


def test_what_comes_soon_is_taken_without_waiting(pair: tuple[socket.socket, Line]) -> None:
    raw, line = pair
    counting = Counting(line)
    for _ in range(1000):
        raw.sendall(ANSWER)
        assert len(line.read(time.monotonic() + 10)) == 1
    assert (counting.looked, counting.waited) == (1000, 0)


def test_who_looks_in_vain_stops_looking_and_tries_it_again_seldom(pair: tuple[socket.socket, Line]) -> None:
    _raw, line = pair
    counting = Counting(line)
    for _ in range(1280):
        with pytest.raises(Late):
            line.read(time.monotonic())
    assert counting.looked <= (lines._VAIN_MAX + 1280 // lines._LOOKED_EACH) * lines._LOOKS
    assert counting.looked > lines._VAIN_MAX * lines._LOOKS, "it never tries again"


def test_who_looks_again_and_finds_something_goes_on_looking(pair: tuple[socket.socket, Line]) -> None:
    raw, line = pair
    for _ in range(lines._VAIN_MAX):
        with pytest.raises(Late):
            line.read(time.monotonic())
    counting = Counting(line)
    for _ in range(2 * lines._LOOKED_EACH):
        raw.sendall(ANSWER)
        line.read()
    assert counting.waited < 2 * lines._LOOKED_EACH - 50
    assert counting.looked >= 50


@pytest.mark.parametrize(("local", "trusted", "processors"), [(False, True, 2), (True, False, 2), (True, True, 1)])
def test_nobody_looks_where_it_cannot_help(local: bool, trusted: bool, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another node it takes too long, a stranger could make others burn time by it, and on one processor the other side waits for it."""
    monkeypatch.setattr(lines, "_PROCESSORS", processors)
    raw, other = socket.socketpair()
    line = Line(other, local=local, trusted=trusted)
    counting = Counting(line)
    with raw:
        for _ in range(300):
            with pytest.raises(Late):
                line.read(time.monotonic())
        assert not counting.looked


def test_a_late_reader_leaves_the_line_whole_and_a_closed_one_ends_it(pair: tuple[socket.socket, Line]) -> None:
    raw, line = pair
    with pytest.raises(Late):
        line.read(time.monotonic() + 0.01)
    raw.sendall(ANSWER)
    assert len(line.read(time.monotonic() + 10)) == 1
    threading.Timer(0.05, raw.close).start()
    with pytest.raises(Closed):
        line.read(time.monotonic() + 10)


class Interrupted(Exception):
    """What a signal's handler raises."""


def test_who_is_interrupted_while_nothing_comes_has_read_nothing_and_keeps_the_line(
    pair: tuple[socket.socket, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, line = pair

    def interrupted(_deadline: float) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(line, "_readable", interrupted)
        with pytest.raises(Interrupted):
            line.read(time.monotonic() + 10)
    assert not line.is_closed
    raw.sendall(ANSWER)
    assert len(line.read(time.monotonic() + 10)) == 1


def test_who_is_interrupted_while_he_reads_ends_the_line(pair: tuple[socket.socket, Line], monkeypatch: pytest.MonkeyPatch) -> None:
    raw, line = pair
    pull = line._pull

    def interrupted(*given: Any) -> Any:
        pull(*given)
        raise Interrupted

    raw.sendall(ANSWER)
    monkeypatch.setattr(line, "_pull", interrupted)
    with pytest.raises(Interrupted):
        line.read(time.monotonic() + 10)
    assert line.is_closed
