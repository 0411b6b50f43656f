"""Beating: an event loop that beats while it turns, at the price of a look at the clock.

A timer for each beat costs a round of the loop, and a process at rest is woken for little else. Here the wait for events itself is cut at each beat and
gone on with: who does not get round to wait does not beat, and that is what a beat is to say. A beat is late by what the loop has to do between two
waits and comes once after a pause, as a tick does (wire/ticks.py). It falls on the same grid, or before, when the process has been woken anyway.
"""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any, Final

from unios.wire.ticks import phase, until_next

EARLY: Final = 0.8
LATEST: Final = 1.04
"""Of a period: how long after a beat another may be early, and the longest time between two of a process that waits."""


class BeatingSelector(selectors.EpollSelector):
    """Waits for events, and beats meanwhile from `begin` to `end`."""

    def __init__(self) -> None:
        super().__init__()
        self._beat: Callable[[], None] | None = None
        self._period_s = self._early_s = self._due_s = 0.0

    def begin(self, beat: Callable[[], None], period_s: float) -> None:
        """Call `beat` now and every `period_s` as long as somebody waits."""
        self._beat, self._period_s = beat, period_s
        self._go(beat, time.monotonic())

    def end(self) -> None:
        """Beat no more. Idempotent."""
        self._beat = None

    def _go(self, beat: Callable[[], None], now_s: float) -> None:
        beat()
        period_s = self._period_s
        soonest_s = now_s + (1 - EARLY) * period_s  # one that was early stands for the one that it came before
        self._due_s = min(soonest_s + until_next(soonest_s, period_s, phase()), now_s + LATEST * period_s)
        self._early_s = min(now_s + EARLY * period_s, self._due_s)

    def select(self, timeout: float | None = None) -> list[Any]:
        """As of any selector: return what is ready, [] after `timeout`."""
        if self._beat is None:
            return super().select(timeout)
        now_s = time.monotonic()
        end_s = None if timeout is None else now_s + timeout
        while True:
            if now_s >= self._early_s:
                self._go(self._beat, now_s)
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
