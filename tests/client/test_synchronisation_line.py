"""A session's line, of which one thread reads what another ends."""

import socket
import threading
import time
from typing import Any

import pytest

from unios.client.synchronisation.line import Broken, Line
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Hello, framed


def greeted() -> tuple[Line, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"".join(framed(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "service"))))
    return Line(ours), theirs


def test_a_line_that_is_ended_lets_who_listens_go_and_closes_then() -> None:
    line, theirs = greeted()
    held = line._in
    seen: list[str] = []

    class Slow:
        """Reads as a thread does that loses the processor on its way to Linux: what it was to read from has to be the same when it gets there."""

        def __getattr__(self, name: str) -> Any:
            return getattr(held, name)

        def recv(self, size: int) -> bytes:
            number = held.fileno()
            reading.set()
            time.sleep(0.1)
            seen.append("open" if held.fileno() == number else "closed")
            return held.recv(size)

        def close(self) -> None:
            held.close()

    reading = threading.Event()
    line._in = Slow()  # type: ignore[assignment]

    def listen() -> None:
        with pytest.raises(Broken):
            list(line.listen(time.monotonic() + 20))
        seen.append("heard")

    listener = threading.Thread(target=listen)
    listener.start()
    assert reading.wait(5)
    began = time.monotonic()
    line.close()
    listener.join(5)
    assert seen == ["open", "heard"] and held.fileno() == -1 and time.monotonic() - began < 5
    line.close()
    theirs.close()


def test_after_a_fork_it_is_let_go_though_a_thread_of_the_parent_reads() -> None:
    line, theirs = greeted()
    with line._reading:  # as the child finds it
        line.let_go()
    assert line.is_closed
    theirs.close()
