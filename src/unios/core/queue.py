"""Queue: which of the waiting processes is placed next, where, and why the others wait. Decides only; services/queueing.py carries it out.

A process waits while it is pending and has no node. Told each record as it changes, the queue keeps those that wait in lines: one line for all of one
user, priority and kind, first come first served, so that a look costs by the lines and not by the processes.

Order: who was lost with a node first; then by priority, which rises by one for each QUEUE_AGING_MS of waiting; then the user with the least recent use
(core/share.py); then the oldest. No starvation: a process that has waited until its priority is over PRIORITY_MAX is overdue, and the overdue go by age
alone. Hence nothing that is submitted more than (PRIORITY_MAX + 1) * QUEUE_AGING_MS later is placed before it, unless that cannot delay it.

Back-fill (EASY: D. Lifka, The ANL/IBM SP scheduling system, 1995): the first that finds no room gets a reservation, on the node where it can begin
earliest by the time limits of what runs there. Another may go before it elsewhere, or there if by its own time limit it ends before, or takes only what
will be left. What has no time limit counts as running for ever. Only the first has a reservation: later ones may be delayed.

Never more is placed on a node than it offers (core/capacity.py). What asks for nothing waits for nothing.
"""

import bisect
import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from unios.core import claims
from unios.core.capacity import Books, Use
from unios.core.dependencies import Dependencies
from unios.core.processes import ProcessRecord
from unios.core.reservation import Reservation, reserve
from unios.core.rules import Quota
from unios.core.share import Shares
from unios.counted import cores, counted
from unios.demands import PRIORITY_MAX, Placing, Resources
from unios.limits import QUEUE_AGING_MS, QUEUE_LOOK_MAX

OVERDUE: Final = PRIORITY_MAX + 1
LINES_LOOKED_AT: Final = 32
Choose = Callable[[ProcessRecord, list[str]], tuple[str, str]]
"""From a process and the nodes that have room for it to the one that it gets, and why. Never raises."""
Rank = tuple[int, int, float, int, int]
Group = tuple[str, int, bool]
"""user, priority, whether lost: within one only the age decides"""


class Placement(NamedTuple):
    """Order: assign it to that node and start it there."""

    pid: int
    incarnation: int
    node: str
    why: str


class Failing(NamedTuple):
    """Order: it can never begin; say so."""

    pid: int
    incarnation: int
    reason: str


class Kind(NamedTuple):
    """What those in one line have in common."""

    user: str
    priority: int
    lost: bool
    resources: Resources
    pinned: str
    wishes: Placing
    time_limit_ms: int
    array: int
    refused: tuple[str, ...]


Head = tuple[int, int, Kind]
"""Since when the first of a line waits, its pid, and the line's kind."""


class Line:
    """Those of one kind, the oldest first."""

    __slots__ = ("_heap", "members", "shown")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self.members: dict[int, ProcessRecord] = {}
        self.shown: Head | None = None
        """As it stands in its group."""

    def add(self, record: ProcessRecord) -> None:
        if record.pid not in self.members:
            heapq.heappush(self._heap, (since(record), record.pid))
        self.members[record.pid] = record

    def head(self) -> ProcessRecord | None:
        while self._heap:
            at, pid = self._heap[0]
            record = self.members.get(pid)
            if record is not None and since(record) == at:
                return record
            heapq.heappop(self._heap)
        return None


class _Least:
    """The least of some numbers, which come and go."""

    __slots__ = ("_counts", "value")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.value = 0

    def add(self, number: int) -> None:
        self._counts[number] = self._counts.get(number, 0) + 1
        self.value = number if len(self._counts) == 1 else min(self.value, number)

    def drop(self, number: int) -> None:
        self._counts[number] -= 1
        if not self._counts[number]:
            del self._counts[number]
            if self._counts and number == self.value:
                self.value = min(self._counts)


def since(record: ProcessRecord) -> int:
    """Return since when it waits, as wall clock: its submission, or its last start if it waits to be started again."""
    return max(record.created_ms, record.started_ms)


def _place(head: Head) -> tuple[int, int]:
    return head[:2]


def waits(record: ProcessRecord) -> bool:
    return record.state == "pending" and not record.node and record.wanted != "stopped"


def asks_for_nothing(resources: Resources) -> bool:
    return not resources.cpu_milli and not resources.memory_bytes and not resources.devices


def was_lost(record: ProcessRecord) -> bool:
    """Return whether it waits because of a loss: its incarnation says more than its restarts."""
    return record.incarnation - 1 > record.restarts


def kind_of(record: ProcessRecord) -> Kind:
    placing = record.placing
    wishes = Placing(placing.policy, placing.forbidden, placing.near, placing.apart)
    queueing = record.queueing
    array = queueing.array if queueing.array_limit else 0
    return Kind(
        record.user, queueing.priority, was_lost(record), record.resources, record.pinned, wishes, queueing.time_limit_ms, array, record.refused
    )


class Queue:
    """That of a system, as one observer sees it. `books` and `shares` are told of the same records by whoever tells the queue."""

    def __init__(self, books: Books, shares: Shares) -> None:
        self._books = books
        self._shares = shares
        self.dependencies = Dependencies()
        self.quotas: dict[str, Quota] = {}
        self._kinds: dict[int, Kind] = {}
        self._lines: dict[Kind, Line] = {}
        self._groups: dict[Group, list[Head]] = {}
        """The heads of the lines, sorted."""
        self._least: dict[Group, _Least] = {}
        """What of processors the lines of each group ask for."""
        self._held: dict[int, ProcessRecord] = {}
        self._depending: dict[int, ProcessRecord] = {}
        self._dependents: dict[int, set[int]] = {}
        """By what they wait for: a pid, or the first of an array."""
        self._failing: dict[int, str] = {}

    # what is told

    def put(self, pid: int, record: ProcessRecord | None) -> None:
        """That is the record now; None: it is gone. Idempotent."""
        array = self.dependencies.put(pid, record)
        self._take_out(pid)
        if record is not None and waits(record):
            self._put_in(record)
        for key in (pid, array):
            for other in tuple(self._dependents.get(key, ())):
                dependent = self._depending.get(other)
                if dependent is not None:
                    self._take_out(other)
                    self._put_in(dependent)

    def _put_in(self, record: ProcessRecord) -> None:
        fate = self.dependencies.all_of(record)
        if fate.impossible:
            self._failing[record.pid] = fate.reason
        elif record.queueing.held:
            self._held[record.pid] = record
        if fate.impossible or not fate.met:
            self._depending[record.pid] = record
            for after in record.queueing.after:
                self._dependents.setdefault(after.pid, set()).add(record.pid)
        elif not record.queueing.held:
            kind = self._kinds[record.pid] = kind_of(record)
            self._lines.setdefault(kind, Line()).add(record)
            self._show(kind)

    def _take_out(self, pid: int) -> None:
        self._failing.pop(pid, None)
        self._held.pop(pid, None)
        depending = self._depending.pop(pid, None)
        for after in depending.queueing.after if depending else ():
            others = self._dependents.get(after.pid, set())
            others.discard(pid)
            if not others:
                self._dependents.pop(after.pid, None)
        kind = self._kinds.pop(pid, None)
        if kind is not None:
            line = self._lines[kind]
            del line.members[pid]
            self._show(kind)
            if not line.members:
                del self._lines[kind]

    def _show(self, kind: Kind) -> None:
        """Put the head of a line where it belongs in its group."""
        line, group = self._lines[kind], kind[:3]
        record = line.head()
        head = (since(record), record.pid, kind) if record is not None else None
        if head == line.shown:
            return
        heads = self._groups.setdefault(group, [])
        least = self._least.setdefault(group, _Least())
        if line.shown is not None:
            del heads[bisect.bisect_left(heads, line.shown[:2], key=_place)]
            least.drop(kind.resources.cpu_milli)
        if head is not None:
            bisect.insort(heads, head, key=_place)
            least.add(kind.resources.cpu_milli)
        line.shown = head
        if not heads:
            del self._groups[group], self._least[group]

    # questions

    def __len__(self) -> int:
        return len(self._kinds) + len(self._held.keys() | self._depending.keys())

    def has_ready(self) -> bool:
        """Return whether anything waits for room: not held, with nothing to wait for."""
        return bool(self._kinds)

    def records(self) -> Iterator[ProcessRecord]:
        """Return all that wait, in no order."""
        for line in self._lines.values():
            yield from line.members.values()
        yield from (self._held | self._depending).values()

    def named(self) -> set[int]:
        """Return the pids and arrays that somebody waits for."""
        return set(self._dependents)

    def rank(self, record: ProcessRecord, now_ms: int, use: float) -> Rank:
        """Return where it stands: the least goes first."""
        at = since(record)
        risen = record.queueing.priority + max(0, now_ms - at) // QUEUE_AGING_MS
        if risen >= OVERDUE:
            risen, use = OVERDUE, 0.0
        return (0 if was_lost(record) else 1, -risen, use, at, record.pid)

    def use_of(self, user: str, now_ms: int) -> float:
        return self._shares.use(user, now_ms, self._books.users.get(user, Use()).cpu_milli)

    def over_quota(self, record: ProcessRecord) -> str:
        """Return which quota it would exceed beside what its user has, "" for none."""
        quota = self.quotas.get(record.user)
        if quota is None:
            return ""
        use = self._books.users.get(record.user, Use())
        if quota.processes and use.processes + 1 > quota.processes:
            return f"over quota: {record.user} may have {counted(quota.processes, 'process', several='processes')} at a time"
        if quota.cpu_milli and record.resources.cpu_milli and use.cpu_milli + record.resources.cpu_milli > quota.cpu_milli:
            ever = record.resources.cpu_milli <= quota.cpu_milli
            but = f"has {use.cpu_milli / 1_000:g}" if ever else f"this asks for {record.resources.cpu_milli / 1_000:g}"
            return f"over quota: {record.user} may have {cores(quota.cpu_milli)} at a time and {but}"
        if quota.memory_bytes and record.resources.memory_bytes and use.memory_bytes + record.resources.memory_bytes > quota.memory_bytes:
            ever = record.resources.memory_bytes <= quota.memory_bytes
            but = f"has {mib(use.memory_bytes)}" if ever else f"this asks for {mib(record.resources.memory_bytes)}"
            return f"over quota: {record.user} may have {mib(quota.memory_bytes)} of memory at a time and {but}"
        return ""

    def over_array_limit(self, record: ProcessRecord) -> bool:
        queueing = record.queueing
        return bool(queueing.array_limit) and self._books.arrays[queueing.array, record.user] >= queueing.array_limit

    def able(self, ready: Iterable[str], record: ProcessRecord) -> list[str]:
        """Return the ready nodes that could run it if they were empty."""
        return [name for name in ready if self._books.may_run(name, record) and self._books.could_hold(name, record.resources)]

    def hopeful(self, ready: Iterable[str], record: ProcessRecord) -> list[str]:
        """Return those of them that have not said that they cannot run it: where room would help it."""
        return [name for name in self.able(ready, record) if name not in record.refused]

    # orders

    def failing(self, may_act_for: Callable[[str], bool]) -> list[Failing]:
        """Return those that can never begin. They are told again until their records say so."""
        found = []
        for pid, reason in self._failing.items():
            record = self._depending[pid]
            if may_act_for(record.user):
                found.append(Failing(pid, record.incarnation, reason))
        return found

    def place_now(self, record: ProcessRecord, ready: list[str], choose: Choose) -> tuple[str, str]:
        """Return the node that a process gets that has only just come, and why; ("", "") if it has to queue.

        It may not overtake: only if nobody waits for room, or if it asks for nothing. If by these books there is no room and nobody waits, it is
        tried all the same, once: they may be behind, and the node knows.
        """
        if not asks_for_nothing(record.resources) and self._somebody_waits_for_room(ready):
            return "", ""
        if record.queueing.held or not self.dependencies.all_of(record).met:
            return "", ""
        if self.over_quota(record) or self.over_array_limit(record):
            return "", ""
        able = self.able(ready, record)
        room = [name for name in able if self._books.has_room(name, record.resources)]
        return choose(record, room or able)

    def _somebody_waits_for_room(self, ready: list[str]) -> bool:
        """Return whether the first of any line could begin if there were room. With very many lines it is taken for granted."""
        if len(self._lines) > LINES_LOOKED_AT:
            return True
        heads = (line.head() for line in self._lines.values())
        return any(self.hopeful(ready, head) and not self.over_quota(head) and not self.over_array_limit(head) for head in heads if head is not None)

    def plan(self, ready: list[str], now_ms: int, may_act_for: Callable[[str], bool], choose: Choose, most: int) -> list[Placement]:
        """Return at most `most` placements in order. What is placed counts as assigned from now on: tell it again (`put`) what became of it."""
        uses: dict[str, float] = {}
        fronts: list[tuple[Rank, Group, int]] = []
        for group, heads in self._groups.items():
            if may_act_for(group[0]):
                fronts.append((self._rank_of(heads[0], now_ms, uses), group, 0))
        heapq.heapify(fronts)
        placements: list[Placement] = []
        reservation: Reservation | None = None
        looks = 0
        free = self._most_free(ready)
        while fronts and len(placements) < most and looks < QUEUE_LOOK_MAX:
            rank, group, at = fronts[0]
            if reservation is not None and self._least[group].value > free:
                heapq.heappop(fronts)  # nothing of it can go beside the one that is waited for
                continue
            kind = self._groups[group][at][2]
            if placements and (now := self._rank_of(self._groups[group][at], now_ms, uses)) > rank:  # its user has got something meanwhile
                heapq.heapreplace(fronts, (now, group, at))
                continue
            record = self._lines[kind].members[self._groups[group][at][1]]
            placement: Placement | None = None
            able: list[str] = []
            if reservation is None or record.resources.cpu_milli <= free:
                placement, able = self._try(record, ready, reservation, choose, now_ms)
            if placement is None:
                at += 1
                looks += 1
                if able and reservation is None:
                    reservation = reserve(self._books, able, record, now_ms)
            else:
                placements.append(placement)
                self._assign(record, placement, reservation, now_ms)
                uses.pop(record.user, None)
                free = self._most_free(ready)
            left = self._groups.get(group, ())
            if at < len(left):
                heapq.heapreplace(fronts, (self._rank_of(left[at], now_ms, uses), group, at))
            else:
                heapq.heappop(fronts)
        return placements

    def _rank_of(self, head: Head, now_ms: int, uses: dict[str, float]) -> Rank:
        """Return the rank of the head of a line. `uses`: what is known of the users' use already."""
        kind = head[2]
        use = uses.get(kind.user)
        if use is None:
            use = uses[kind.user] = self.use_of(kind.user, now_ms)
        return self.rank(self._lines[kind].members[head[1]], now_ms, use)

    def _most_free(self, ready: list[str]) -> int:
        """Return the most thousandths of a core that are free on one node."""
        nodes = [(name, node) for name in ready if (node := self._books.node(name))]
        return max((node.cores * 1_000 - self._books.set_aside(name).cpu_milli for name, node in nodes), default=0)

    def _try(
        self, record: ProcessRecord, ready: list[str], reservation: Reservation | None, choose: Choose, now_ms: int
    ) -> tuple[Placement | None, list[str]]:
        """Return where it goes now; or None, and the nodes on which room would help.

        One that has refused it counts for nothing here, but is tried when `choose` names it: its user may have been added there.
        """
        if self.over_quota(record) or self.over_array_limit(record):
            return None, []
        able = self.able(ready, record)
        room = [name for name in able if self._books.has_room(name, record.resources)]
        if reservation is not None and not asks_for_nothing(record.resources):
            room = [name for name in room if reservation.allows(name, record, now_ms)]
        node, why = choose(record, room) if room else ("", "")
        if not node:  # who has room has refused it
            return None, [name for name in able if name not in room and name not in record.refused]
        return Placement(record.pid, record.incarnation, node, why), able

    def _assign(self, record: ProcessRecord, placement: Placement, reservation: Reservation | None, now_ms: int) -> None:
        if reservation is not None:
            reservation.took(placement.node, record, now_ms)
        placed = claims.placed(record, placement.node, record.reason, placement.why)
        self._books.put(placed)
        self.put(record.pid, placed)


def mib(size: int) -> str:
    """Return a number of bytes for a person."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            value = size / (1 << shift)
            return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"
    return counted(size, "byte")
