"""Beating: an event loop that beats while it turns, at the price of a look at the clock.

A timer for each beat costs a round of the loop, and a process at rest is woken for little else. Here the wait for events itself is cut at each beat and
gone on with: who does not get round to wait does not beat, and that is what a beat is to say. A beat is late by what the loop has to do between two
waits and comes once after a pause, as a tick does (wire/ticks.py); it falls on the same grid.
"""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

from unios.wire.ticks import phase, until_next


class BeatingSelector(selectors.EpollSelector):
    """Waits for events, and beats meanwhile from `begin` to `end`."""

    def __init__(self) -> None:
        super().__init__()
        self._beat: Callable[[], None] | None = None
        self._period_s = self._due_s = 0.0

    def begin(self, beat: Callable[[], None], period_s: float) -> None:
        """Call `beat` now and every `period_s` as long as somebody waits."""
        self._beat, self._period_s = beat, period_s
        beat()
        self._due_s = self._next(time.monotonic())

    def end(self) -> None:
        """Beat no more. Idempotent."""
        self._beat = None

    def _next(self, now_s: float) -> float:
        return now_s + until_next(now_s, self._period_s, phase())

    def select(self, timeout: float | None = None) -> list[Any]:
        """As of any selector: return what is ready, [] after `timeout`."""
        if self._beat is None:
            return super().select(timeout)
        now_s = time.monotonic()
        end_s = None if timeout is None else now_s + timeout
        while True:
            if now_s >= self._due_s:
                self._beat()
                self._due_s = self._next(now_s)
            if end_s is not None and end_s <= self._due_s:
                return super().select(end_s - now_s)
            found = super().select(self._due_s - now_s)
            if found:
                return found
            now_s = time.monotonic()


class BeatingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on that selector."""

    def __init__(self) -> None:
        self.beats = BeatingSelector()
        super().__init__(self.beats)


def beat_while_turning(period_s: float, beat: Callable[[], None]) -> Callable[[], None]:
    """Let the running loop, a BeatingLoop, beat from now on; return what ends that."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, BeatingLoop)
    loop.beats.begin(beat, period_s)
    return loop.beats.end
