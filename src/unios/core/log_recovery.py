"""Taking a log over: the next epoch, the seal, the tail. Decides only. When it is done, the log's end stands and a writer may begin (core/log_writer.py).

1. The epoch is counted up in the record, so that the writer before can begin no other span.
2. The replicas of the last span, if it is open, are sealed with the new epoch. One answer is enough: no append of an older epoch can be on all disks after it, and
   what was acknowledged before is on every one of them. More are waited for a while (`patience`).
3. The longest answer is the end. Replicas of one span hold prefixes of one sequence: those that have less get the rest, and only then may anybody see it.

A replica that says it has lost the span has not answered. Another one who takes over meanwhile ends this.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from unios.core.log_replica import Refused
from unios.core.log_writer import Change, Stop
from unios.core.logs import LogRecord, Span, claimed

State = Literal["claiming", "sealing", "copying", "done", "stopped"]


class Seal(NamedTuple):
    """Order: seal a replica for `epoch` and ask where span `number` of epoch `of` ends; then say `sealed`, `refused` or `away`."""

    replica: str
    number: int
    of: int
    epoch: int


class Copy(NamedTuple):
    """Order: read [first, upto) of the span from `source` and append it to `target` with the new epoch; then say `copied`, or what has failed."""

    source: str
    target: str
    span: Span
    epoch: int
    first: int
    upto: int


Order = Change | Seal | Copy | Stop


class Recovery:
    """One taking over. `writer` is a name that nobody else has."""

    def __init__(self, record: LogRecord, version: int, writer: str) -> None:
        self.record, self.version = record, version
        self.writer = writer
        self.state: State = "claiming"
        self.at = record.closed_end
        self._ends: dict[str, int] = {}
        self._out: set[str] = set()
        """Those that have said that they cannot answer."""
        self._copying: set[str] = set()
        self._impatient = False

    @property
    def span(self) -> Span | None:
        """The one that has to be sealed."""
        last = self.record.last
        return last if last is not None and last.is_open else None

    @property
    def holders(self) -> tuple[str, ...]:
        """Those who are known to have all of it."""
        return tuple(sorted(replica for replica, end in self._ends.items() if end >= self.at))

    def start(self) -> list[Order]:
        return [Change(claimed(self.record, self.writer), self.version)]

    # what the store says

    def changed(self, version: int) -> list[Order]:
        """The record is as it was ordered."""
        if self.state != "claiming":
            return []
        return self._claimed(claimed(self.record, self.writer), version)

    def found(self, record: LogRecord, version: int) -> list[Order]:
        """The record is this one now, whatever came of the last order."""
        if self.state != "claiming":
            return []
        if record.writer == self.writer:
            return self._claimed(record, version)
        self.record, self.version = record, version
        return self.start()

    # what replicas say

    def sealed(self, replica: str, end: int) -> list[Order]:
        """It takes nothing of an older epoch any more; the span ends there on its disk."""
        if self.state != "sealing":
            return []
        self._out.discard(replica)
        self._ends[replica] = end
        return self._look()

    def refused(self, replica: str, refused: Refused) -> list[Order]:
        """It has a newer fence, or has lost the span."""
        if self.state == "sealing" and refused.kind == "fenced" and refused.number > self.record.epoch:
            return self._stop(refused.number)
        return self.away(replica)

    def away(self, replica: str) -> list[Order]:
        """It does not answer. It may be asked again (`patience`)."""
        if self.state != "sealing" or replica in self._ends:
            return []
        self._out.add(replica)
        return self._look()

    def patience(self) -> list[Order]:
        """Enough time has passed to go on with who has answered; without anybody, all are asked again."""
        if self.state != "sealing":
            return []
        self._impatient = True
        return self._look() or (self._seal() if not self._ends else [])

    def copied(self, target: str) -> list[Order]:
        """It has the whole span now."""
        if self.state != "copying" or target not in self._copying:
            return []
        self._copying.discard(target)
        self._ends[target] = self.at
        return self._finish()

    def not_copied(self, target: str) -> list[Order]:
        """It goes without."""
        if self.state != "copying" or target not in self._copying:
            return []
        self._copying.discard(target)
        return self._finish()

    def source_ends(self, source: str, at: int) -> list[Order]:
        """It cannot be read from `at` on: there its part ends. Nothing behind that was acknowledged, or another one who has answered has it."""
        if self.state != "copying" or source not in self._ends:
            return []
        self._ends[source] = min(self._ends[source], at)
        return self._again()

    def source_away(self, source: str) -> list[Order]:
        """It does not answer any more."""
        if self.state != "copying" or source not in self._ends:
            return []
        del self._ends[source]
        self._out.add(source)
        return self._again()

    # inside

    def _claimed(self, record: LogRecord, version: int) -> list[Order]:
        self.record, self.version = record, version
        self.at = record.closed_end
        if self.span is None:
            self.state = "done"
            return []
        self.state = "sealing"
        return self._seal()

    def _seal(self) -> list[Order]:
        span = self.span
        assert span is not None
        return [Seal(replica, span.number, span.epoch, self.record.epoch) for replica in span.replicas if replica not in self._ends]

    def _look(self) -> list[Order]:
        """Go on if all have answered, or enough and nobody is waited for."""
        span = self.span
        assert span is not None
        heard = len(self._ends) + len(self._out)
        if not self._ends or (heard < len(span.replicas) and not self._impatient):
            return []
        self.at = max(self._ends.values())
        source = self._longest()
        self._copying = {replica for replica, end in self._ends.items() if end < self.at}
        self.state = "copying"
        if not self._copying:
            return self._finish()
        return [Copy(source, target, span, self.record.epoch, self._ends[target], self.at) for target in sorted(self._copying)]

    def _again(self) -> list[Order]:
        self._copying.clear()
        self.state = "sealing"
        return self._look()

    def _longest(self) -> str:
        ends: Sequence[tuple[int, str]] = [(-end, replica) for replica, end in self._ends.items()]
        return min(ends)[1]

    def _finish(self) -> list[Order]:
        if not self._copying:
            self.state = "done"
        return []

    def _stop(self, epoch: int) -> list[Order]:
        self.state = "stopped"
        return [Stop(f"another writer has taken the log {self.record.name} over (epoch {epoch})")]
