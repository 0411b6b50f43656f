"""Shrinks a schedule that fails: leaves out what the failure does not need.

Delta debugging (Zeller and Hildebrandt 2002, ddmin), and then what is left is made smaller: fewer times, shorter. A schedule counts as failing if the same
invariant is broken. As chance inside the run is drawn anew when a step is missing, some other seeds are tried for what fails no more.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from tests.sim.schedule import Schedule, Step

Judge = Callable[[Schedule], str]
"""Runs a schedule; returns which invariant is broken, "" if none is."""
RUNS_MAX: Final = 600
NOISES: Final = 3
"""So many seeds are tried."""


class Shrinker:
    """That of one failure."""

    def __init__(self, judge: Judge, kind: str, runs_max: int = RUNS_MAX) -> None:
        self._judge = judge
        self._kind = kind
        self._runs_max = runs_max
        self.runs = 0

    def _failing(self, schedule: Schedule, steps: list[Step]) -> Schedule | None:
        """Return a schedule of these steps that fails, None if none was found."""
        for noise in range(NOISES):
            if self.runs >= self._runs_max:
                return None
            self.runs += 1
            tried = msgspec.structs.replace(schedule, steps=tuple(steps), seed=schedule.seed + noise * 1_000_003)
            if self._judge(tried) == self._kind:
                return tried
        return None

    def shrink(self, schedule: Schedule) -> Schedule:
        """Return the shortest schedule that was found and fails: it itself if nothing can be left out."""
        parts = 2
        while len(schedule.steps) > 1 and self.runs < self._runs_max:
            shorter = next(filter(None, (self._failing(schedule, left) for left in _without(list(schedule.steps), parts))), None)
            if shorter is not None:
                schedule, parts = shorter, max(parts - 1, 2)
            elif parts >= len(schedule.steps):
                break
            else:
                parts = min(2 * parts, len(schedule.steps))
        return self._plainer(schedule)

    def _plainer(self, schedule: Schedule) -> Schedule:
        """Halve what lasts, as long as it fails."""
        for at in range(len(schedule.steps)):
            for name in ("lasts_ms", "rounds", "count"):
                while (step := schedule.steps[at]).arguments.get(name, 0) >= 2:
                    changed: dict[str, Any] = {**step.arguments, name: step.arguments[name] // 2}
                    steps = [*schedule.steps[:at], msgspec.structs.replace(step, arguments=changed), *schedule.steps[at + 1 :]]
                    found = self._failing(schedule, steps)
                    if found is None:
                        break
                    schedule = found
        return schedule


def _without(steps: list[Step], parts: int) -> Iterator[list[Step]]:
    """Yield the steps without one of so many parts of them, the last part first: what fails needs mostly what was before."""
    for part in reversed(range(parts)):
        start, end = part * len(steps) // parts, (part + 1) * len(steps) // parts
        if start < end:
            yield [*steps[:start], *steps[end:]]
