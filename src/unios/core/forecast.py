"""Forecast: about when each of those that wait begins. Decides only.

What runs is taken to end at its time limit, or after as long as the last ones of that user and program ran, whichever is less. Where neither is known
there is no estimate from there on. The cores of the nodes are taken as one heap, in the order of the queue (list scheduling, Graham 1969), so it is a
guess and not a promise: "about".
"""

import heapq
from collections.abc import Iterable

from unios.core.capacity import Held
from unios.core.processes import ENDED, ProcessRecord

_WEIGHT = 0.3
"""Of the latest run in the mean (exponentially weighted)."""
_KINDS_MAX = 1_000


class Lengths:
    """How long programs ran lately, by user and program."""

    def __init__(self) -> None:
        self._mean_ms: dict[tuple[str, bytes], float] = {}

    def put(self, now: ProcessRecord | None) -> None:
        """A record has changed."""
        if now is None or now.state not in ENDED or not now.started_ms or not now.ended_ms or not now.argv:
            return
        key = (now.user, now.argv[0])
        ran = float(max(0, now.ended_ms - now.started_ms))
        old = self._mean_ms.pop(key, ran)
        self._mean_ms[key] = old + _WEIGHT * (ran - old)
        if len(self._mean_ms) > _KINDS_MAX:
            del self._mean_ms[next(iter(self._mean_ms))]

    def guess_ms(self, record: ProcessRecord) -> int:
        """Return how long it will probably run; 0 if nobody knows."""
        return self._guess(record.user, record.argv[0] if record.argv else b"", record.queueing.time_limit_ms)

    def end_of(self, held: Held, now_ms: int) -> int:
        """Return when what runs will probably end, as wall clock; 0 if nobody knows."""
        length = self._guess(held.user, held.program, held.time_limit_ms)
        return max(now_ms, (held.started_ms or now_ms) + length) if length else 0

    def _guess(self, user: str, program: bytes, limit: int) -> int:
        mean = self._mean_ms.get((user, program))
        if mean is None:
            return limit
        return max(1, min(int(mean), limit) if limit else int(mean))


def begins(cores: int, running: Iterable[tuple[int, int]], waiting: Iterable[tuple[int, int, int]], now_ms: int) -> dict[int, int]:
    """Return pid -> when it begins, as wall clock, for those of which it can be said.

    `running`: (cores, end) of what runs, end 0 if unknown. `waiting`, in order: (pid, cores, length), length 0 if unknown.
    """
    free: list[float] = []
    for count, end in running:
        free += [max(end, now_ms) if end else float("inf")] * count
    free = heapq.nsmallest(cores, free) if len(free) > cores else free + [now_ms] * (cores - len(free))
    heapq.heapify(free)
    found: dict[int, int] = {}
    for pid, count, length in waiting:
        if count > len(free):
            continue  # it fits nowhere
        start = max((heapq.heappop(free) for _ in range(count)), default=float(now_ms))
        if start == float("inf"):
            return found
        found[pid] = int(start)
        for _ in range(count):
            heapq.heappush(free, start + length if length else float("inf"))
    return found
