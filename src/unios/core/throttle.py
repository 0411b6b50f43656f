"""Throttle: when a tree that forks against its bound is slowed down, and by how much. Decides only; light, since every init imports it.

A fork beyond the bound of processes fails late in Linux, after the memory's tables have been copied. A thousand processes that try again and again stand in line for
locks which every program on the machine needs that maps the same libraries, and each that gets one waits for its turn among them before it gives it back: nothing on
the machine starts or ends for minutes. Whoever does that runs a share of the time only; the rest of it he is frozen, which is at a moment when he holds no lock.

| seen | done |
|---|---|
| refused forks, up to REFUSED_BURST at once and REFUSED_PER_S on | nothing: a program that meets its bound |
| more | held, until all stand still, and then HELD_TIMES as long as they ran |
| it ran RUN_S again, and until all stood still more than REFUSED_PER_S were refused | held again |
| it ran so, and fewer were | let go |
"""

from typing import Final

REFUSED_PER_S: Final = 250
REFUSED_BURST: Final = 500
RUN_S: Final = 0.05
HELD_TIMES: Final = 9
HELD_S_MAX: Final = 10.0


class Throttle:
    """That of one tree. Times in seconds of one clock that does not jump; counts are of forks refused since the group was made."""

    def __init__(self, refused: int) -> None:
        self._seen = refused
        self._level = 0.0
        self._at = 0.0
        self._ran_from = 0.0
        self._refused_from = refused

    def begins(self, now: float, refused: int) -> bool:
        """Return whether a tree that runs is to be held."""
        self._level = max(0.0, self._level - (now - self._at) * REFUSED_PER_S) + refused - self._seen
        self._at, self._seen = now, refused
        return self._level > REFUSED_BURST

    def lets_run(self, now: float, refused: int) -> None:
        """Note that a tree that was held runs, for RUN_S."""
        self._ran_from, self._refused_from = now, refused

    def held_s(self, now: float) -> float:
        """Return how long it stays held, now that all of it stands still; it has run from `lets_run` until now, or for the first time."""
        ran = now - self._ran_from if self._ran_from else RUN_S
        return min(HELD_S_MAX, HELD_TIMES * max(RUN_S, ran))

    def goes_on(self, now: float, refused: int) -> bool:
        """Return whether it went on while it ran: then it is held again, else it may run as any other, and another Throttle begins."""
        return refused - self._refused_from > REFUSED_PER_S * (now - self._ran_from)
