"""Reservation: what is kept free for the first in the queue that finds no room, so that those who go before it cannot delay it. Decides only.

It stands on one node: where the process can begin earliest by the time limits of what runs there (the shadow time, after D. Lifka, 1995); if that is
known nowhere, where the least is missing. On that node another may begin if it ends before the shadow time, or if it needs only what is left when the
process has begun beside all that outlasts the shadow time.
"""

import bisect
from collections.abc import Iterable

from unios.core.capacity import Books, Held
from unios.core.processes import ProcessRecord
from unios.demands import Resources

NEVER = float("inf")


class Reservation:
    """For one process, during one look over the queue."""

    def __init__(self, books: Books, node: str, shadow_ms: float, record: ProcessRecord, outlast: Iterable[Held]) -> None:
        self.node = node
        self.shadow_ms = shadow_ms
        found = books.node(node)
        assert found is not None
        stay = [held.resources for held in outlast]
        self._cpu = found.cores * 1_000 - record.resources.cpu_milli - sum(resources.cpu_milli for resources in stay)
        memory = found.memory_bytes or (1 << 62)
        self._memory = memory - record.resources.memory_bytes - sum(resources.memory_bytes for resources in stay)
        self._devices = bool(record.resources.devices)

    def allows(self, node: str, record: ProcessRecord, now_ms: int) -> bool:
        """Return whether that process can begin there without delaying the one for which this is."""
        return node != self.node or self._ends_before(record, now_ms) or self._is_left(record.resources)

    def took(self, node: str, record: ProcessRecord, now_ms: int) -> None:
        """It begins there."""
        if node == self.node and not self._ends_before(record, now_ms):
            self._cpu -= record.resources.cpu_milli
            self._memory -= record.resources.memory_bytes

    def _ends_before(self, record: ProcessRecord, now_ms: int) -> bool:
        limit = record.queueing.time_limit_ms
        return self.shadow_ms != NEVER and bool(limit) and now_ms + limit <= self.shadow_ms

    def _is_left(self, wanted: Resources) -> bool:
        if wanted.devices and self._devices:
            return False
        return wanted.cpu_milli <= max(0, self._cpu) and wanted.memory_bytes <= max(0, self._memory)


def end_of(held: Held, now_ms: int) -> float:
    """Return when it ends at the latest, as wall clock."""
    if not held.time_limit_ms:
        return NEVER
    return max(now_ms, (held.started_ms or now_ms) + held.time_limit_ms)


def reserve(books: Books, able: list[str], record: ProcessRecord, now_ms: int) -> Reservation:
    """Return the reservation for a process that would fit on each of `able`, were it empty, and has room on none."""
    best: tuple[float, int, str] | None = None
    outlasting: list[Held] = []
    for name in able:
        ends = sorted((end_of(held, now_ms), pid, held) for pid, held in books.held_on(name))
        shadow, count = _shadow(books, name, record.resources, [(end, pid) for end, pid, _held in ends])
        node = books.node(name)
        missing = books.set_aside(name).cpu_milli + record.resources.cpu_milli - (node.cores if node else 0) * 1_000
        if best is None or (shadow, missing, name) < best:
            best = (shadow, missing, name)
            outlasting = [held for _end, _pid, held in ends[count:]] if shadow != NEVER else [held for end, _pid, held in ends if end == NEVER]
    assert best is not None
    return Reservation(books, best[2], best[0], record, outlasting)


def _shadow(books: Books, name: str, wanted: Resources, ends: list[tuple[float, int]]) -> tuple[float, int]:
    """Return when there is room at the latest, and how many have ended by then. More ends never make less room: halving finds it."""
    known = [(end, pid) for end, pid in ends if end != NEVER]

    def enough(count: int) -> bool:
        return books.would_have_room(name, wanted, [pid for _end, pid in known[:count]])

    count = bisect.bisect_left(range(len(known) + 1), True, key=enough)
    return (known[count - 1][0], count) if 0 < count <= len(known) else (NEVER, 0)
