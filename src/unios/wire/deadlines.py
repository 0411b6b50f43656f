"""Deadlines: until when the calls of one connection have to be answered. One timer for all: nearly every call is answered long before its own would fire,
and a timer that is cancelled stays in the loop's heap until it is due.
"""

import asyncio
from collections.abc import Callable

GiveUp = Callable[[int, str, int], None]
"""The call's number, its operation, and its time in ms."""


class Deadlines:
    """Those of one connection; belongs to the loop's thread."""

    def __init__(self, give_up: GiveUp) -> None:
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, tuple[float, str, int]] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, id_: int, op: str, timeout_ms: int) -> None:
        """Give that call up in `timeout_ms`, unless it is dropped before."""
        at = self._loop.time() + timeout_ms / 1000
        self._due[id_] = (at, op, timeout_ms)
        if self._alarm is None or at < self._alarm.when():
            self._set(at)

    def drop(self, id_: int) -> None:
        """It needs no deadline any more. Idempotent."""
        self._due.pop(id_, None)

    def rest(self) -> None:
        """If no call waits, do without the timer: for a connection at rest, which it would wake for nothing."""
        if not self._due and self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def close(self) -> None:
        """None needs one any more."""
        self._due.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._loop.time()
        for id_, (at, op, timeout_ms) in list(self._due.items()):
            if at <= now and self._due.pop(id_, None) is not None:  # who was given up before it may have closed the connection
                self._give_up(id_, op, timeout_ms)
        if self._due and self._alarm is None:
            self._set(min(at for at, _op, _timeout_ms in self._due.values()))
