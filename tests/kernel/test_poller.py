"""The loop of guard and inits where descriptors run out; the rest of it is shown by the guard's tests."""

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from unios.kernel import poller


class Exhausted:
    """A listener for which there is no descriptor until `left` attempts have failed."""

    def __init__(self, listener: socket.socket, left: int) -> None:
        self._listener, self.left, self.attempts = listener, left, 0

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> Any:
        self.attempts += 1
        if self.attempts <= self.left:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()


def test_without_a_descriptor_a_listener_rests_and_then_takes_who_has_waited(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    loop, taken = poller.Poller(), list[socket.socket]()
    listener = Exhausted(poller.listen(folder, "sock"), left=2)
    poller.serve(loop, listener, lambda: 0, taken.append)  # type: ignore[arg-type]
    client = poller.connect(f"{tmp_path}/sock")
    turns = 0
    while not taken:
        loop.turn()
        turns += 1
    assert listener.attempts == 3
    assert turns <= 6  # each attempt is one turn and each rest another; without the rest it would be woken at once, again and again
    client.close()
    taken[0].close()
    os.close(folder)


def test_a_listener_that_rests_wakes_the_loop_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "ACCEPT_REST_MS", 3_600_000)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    loop = poller.Poller()
    listener = Exhausted(poller.listen(folder, "sock"), left=10**9)
    poller.serve(loop, listener, lambda: 0, lambda _sock: None)  # type: ignore[arg-type]
    client = poller.connect(f"{tmp_path}/sock")
    due: list[int] = []
    loop.turn()
    loop.after(0.03, lambda: due.append(listener.attempts))
    while not due:
        loop.turn()
    assert due == [1]
    client.close()
    os.close(folder)
