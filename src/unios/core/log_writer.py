"""The writer of a log: sends entries to all replicas of its span, acknowledges what all have on disk, moves on when a replica is lost. Decides only.

- An entry is acknowledged when every replica of the open span has it on disk, and in the order of offsets.
- The span is closed at what is acknowledged, by the same change of the record that begins the next one. What is not acknowledged keeps its offset and is sent again.
- While the record is being changed nothing is acknowledged: what the old replicas say then comes too late.
- A replica is asked for one thing at a time. What the shell could not bring to it, and cannot again, it reports as `lost`.
- If the record has another writer's epoch, this one stops for good. It never acknowledges again.

It begins where a recovery ended (core/log_recovery.py).
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from unios.core.log_replica import Refused
from unios.core.logs import Candidate, LogRecord, Span, choose, moved
from unios.errors import Unavailable
from unios.log_limits import LOG_BATCH_BYTES, LOG_BATCH_ENTRIES_MAX, LOG_CALM_TICKS

State = Literal["short", "preparing", "recording", "open", "stopped"]
"""short: there are not enough nodes. preparing: the next span is made on its replicas. recording: the record is being changed."""


class Create(NamedTuple):
    """Order: have a replica prepare a span; then say `prepared` or `lost`."""

    replica: str
    number: int
    epoch: int
    first: int


class Send(NamedTuple):
    """Order: have a replica append; then say `answered` or `lost`. Bringing it twice does no harm."""

    replica: str
    number: int
    epoch: int
    first: int
    entries: tuple[bytes, ...]
    confirmed: int


class Tell(NamedTuple):
    """Order: tell a replica what is acknowledged. It may get lost."""

    replica: str
    number: int
    epoch: int
    confirmed: int


class Change(NamedTuple):
    """Order: put the record if it is still at that version. Then say `changed` or, if it was not or nobody knows, what is there: `found`."""

    record: LogRecord
    version: int


class Acknowledge(NamedTuple):
    """Order: what is before that offset is acknowledged."""

    upto: int


class Stop(NamedTuple):
    """Order: this writer is none any more; what it has not acknowledged may be in the log or not."""

    why: str


Order = Create | Send | Tell | Change | Acknowledge | Stop


class _Cursor:
    """Of one replica. `done` is on its disk; `asked`: an answer is to come."""

    __slots__ = ("asked", "done", "told")

    def __init__(self, first: int) -> None:
        self.done, self.asked, self.told = first, False, first


class Writer:
    """One writer with one epoch. `at`: where the log ends. `holders`: those who have all of the last span, if that is open."""

    def __init__(self, record: LogRecord, version: int, *, at: int, holders: Sequence[str], nodes: Iterable[Candidate]) -> None:
        self.epoch = record.epoch
        self.record, self.version = record, version
        self.state: State = "short"
        self.confirmed = at
        self._pending: list[bytes] = []
        self.pending_bytes = 0
        self._holders = tuple(holders)
        self._nodes = tuple(nodes)
        self._avoid: set[str] = set()
        self._span: Span | None = None
        """The open one, or the one that shall be."""
        self._cursors: dict[str, _Cursor] = {}
        self._calm = 0
        """Ticks since the last span began."""

    @property
    def end(self) -> int:
        """Where the next entry will be."""
        return self.confirmed + len(self._pending)

    @property
    def replicas(self) -> tuple[str, ...]:
        return self._span.replicas if self._span is not None else ()

    # what is asked of it

    def start(self) -> list[Order]:
        """Begin the first span."""
        return self._move(self._holders)

    def submit(self, entries: Iterable[bytes]) -> list[Order]:
        """Append; they are acknowledged in their turn. The first gets offset `end` as it was before."""
        before = len(self._pending)
        self._pending.extend(entries)
        self.pending_bytes += sum(map(len, self._pending[before:]))
        return self._send()

    def tick(self, nodes: Iterable[Candidate]) -> list[Order]:
        """`nodes`: those that are there now, the nearest first. Tell what was acknowledged; begin a span if it had to wait, or if it can have more replicas now."""
        self._nodes = tuple(nodes)
        if self.state == "short":
            return self._move(self._holders)
        if self.state != "open":
            return []
        there = {node.node for node in self._nodes}
        self._avoid &= there  # one that went away and comes back is as good as any
        self._calm = self._calm + 1
        if self._calm >= LOG_CALM_TICKS:
            self._avoid.clear()
        if len(self.replicas) < self.record.copies and len([node for node in there if node not in self._avoid]) > len(self.replicas):
            return self._move(self.replicas)
        return [order for replica, cursor in self._cursors.items() for order in self._tell(replica, cursor)]

    # what replicas say

    def prepared(self, replica: str, number: int) -> list[Order]:
        """It has made the span."""
        span = self._span
        if self.state != "preparing" or span is None or number != span.number or replica not in self._cursors:
            return []
        self._cursors[replica].asked = False
        if any(cursor.asked for cursor in self._cursors.values()):
            return []
        return self._record()

    def answered(self, replica: str, number: int, end: int) -> list[Order]:
        """It has all before `end` on disk."""
        cursor = self._cursor(replica, number)
        if cursor is None:
            return []
        if end < cursor.done:
            return self.lost(replica, number)
        cursor.asked, cursor.done = False, min(end, self.end)
        return [*self._acknowledge(), *self._send()]

    def refused(self, replica: str, number: int, refused: Refused) -> list[Order]:
        """It does not take what was sent. A newer epoch ends this writer; all else costs the replica its place."""
        if self._span is None or number != self._span.number:
            return []
        if refused.kind == "fenced" and refused.number > self.epoch:
            return self._stop(f"another writer has taken the log {self.record.name} over (epoch {refused.number})")
        return self.lost(replica, number)

    def lost(self, replica: str, number: int) -> list[Order]:
        """It does not answer, or has a hole, or has lost the span."""
        if self._span is None or number != self._span.number or replica not in self._cursors or self.state not in ("preparing", "open"):
            return []
        self._avoid.add(replica)
        return self._move(self._holders if self.state == "preparing" else self.replicas)

    # what the store says

    def changed(self, version: int) -> list[Order]:
        """The record is as it was ordered."""
        if self.state != "recording":
            return []
        self.version = version
        self.state = "open"
        self._calm = 0
        return self._send()

    def found(self, record: LogRecord, version: int) -> list[Order]:
        """The record is this one now, whatever came of the last order."""
        if self.state != "recording":
            return []
        if record.epoch != self.epoch:
            return self._stop(f"another writer has taken the log {record.name} over (epoch {record.epoch})")
        self.record = record
        if record.last is not None and record.last == self._span:
            return self.changed(version)
        self.version = version
        return self._record()

    # inside

    def _cursor(self, replica: str, number: int) -> _Cursor | None:
        if self.state != "open" or self._span is None or number != self._span.number:
            return None
        return self._cursors.get(replica)

    def _move(self, holders: Sequence[str]) -> list[Order]:
        """Choose replicas for the next span, which begins at what is acknowledged, and have them prepare it."""
        self._holders = tuple(holders)
        keep = [node for node in self.replicas if node not in self._avoid]
        chosen = choose(self._nodes, copies=self.record.copies, keep=keep, avoid=self._avoid)
        fit = tuple(node for node in chosen if node not in self._avoid)
        chosen = fit if len(fit) >= self.record.least else chosen
        self._cursors = {}
        if len(chosen) < self.record.least:
            self._span, self.state = None, "short"
            return []
        self.state = "preparing"
        self._span = Span(self.record.numbers + 1, self.epoch, self.confirmed, chosen)
        self._cursors = {replica: _Cursor(self.confirmed) for replica in chosen}
        for cursor in self._cursors.values():
            cursor.asked = True
        return [Create(replica, self._span.number, self.epoch, self.confirmed) for replica in chosen]

    def _record(self) -> list[Order]:
        assert self._span is not None
        self.state = "recording"
        try:
            self.record = moved(self.record, at=self.confirmed, holders=self._holders, replicas=self._span.replicas)
        except Unavailable as error:
            return self._stop(str(error))
        return [Change(self.record, self.version)]

    def _send(self) -> list[Order]:
        if self.state != "open" or self._span is None:
            return []
        orders: list[Order] = []
        for replica, cursor in self._cursors.items():
            if not cursor.asked and cursor.done < self.end:
                cursor.asked, cursor.told = True, self.confirmed
                entries = self._batch(cursor.done - self.confirmed)
                orders.append(Send(replica, self._span.number, self.epoch, cursor.done, entries, self.confirmed))
        return orders

    def _batch(self, start: int) -> tuple[bytes, ...]:
        size, stop = 0, start
        for entry in self._pending[start : start + LOG_BATCH_ENTRIES_MAX]:
            size += len(entry)
            if stop > start and size > LOG_BATCH_BYTES:
                break
            stop += 1
        return tuple(self._pending[start:stop])

    def _acknowledge(self) -> list[Order]:
        upto = min(cursor.done for cursor in self._cursors.values())
        if upto <= self.confirmed:
            return []
        self.pending_bytes -= sum(map(len, self._pending[: upto - self.confirmed]))
        del self._pending[: upto - self.confirmed]
        self.confirmed = upto
        return [Acknowledge(upto)]

    def _tell(self, replica: str, cursor: _Cursor) -> list[Order]:
        assert self._span is not None
        if cursor.told >= self.confirmed:
            return []
        cursor.told = self.confirmed
        return [Tell(replica, self._span.number, self.epoch, self.confirmed)]

    def _stop(self, why: str) -> list[Order]:
        self.state = "stopped"
        return [Stop(why)]
