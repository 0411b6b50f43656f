"""What must hold of a log whatever happens: nothing acknowledged is lost, one order for all, one writer, trimmed is trimmed."""

from collections.abc import Callable

from unios.core.logs import LogRecord


class LogLedger:
    """Hears of everything; `fail`s at the first thing that must not be."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self.truth: dict[int, bytes] = {}
        """By offset, what was acknowledged or seen there."""
        self.acknowledged: set[int] = set()
        self.recovered = 0
        """The newest epoch whose recovery is done."""
        self.first = 0
        """What is before it was trimmed, and that was acknowledged by the store."""
        self.node_first: dict[str, int] = {}
        """The same by node, as its disk has it."""
        self.reads = 0

    def _settle(self, offset: int, entry: bytes, who: str) -> None:
        there = self.truth.setdefault(offset, entry)
        if there != entry:
            self._fail(f"{who} has {entry!r} at {offset}, where {there!r} was seen or acknowledged")

    def acknowledge(self, offset: int, entry: bytes, epoch: int, recovered: int) -> None:
        """A writer was told that its entry is in the log. `recovered`: the newest recovery that was done when the entry was handed in."""
        if recovered > epoch:
            self._fail(f"an entry that a writer of epoch {epoch} began to append after epoch {recovered} had recovered the log was acknowledged")
        self._settle(offset, entry, f"the writer of epoch {epoch}")
        self.acknowledged.add(offset)

    def seen(self, offset: int, entry: bytes, who: str, first: int) -> None:
        """A reader was given an entry. `first`: what had been trimmed when it read the record."""
        self.reads += 1
        if offset < first:
            self._fail(f"{who} was given {offset}, and the log was trimmed up to {first} before it read the record")
        self._settle(offset, entry, who)

    def shown(self, node: str, offset: int) -> None:
        """A node has shown an entry."""
        if offset < self.node_first.get(node, 0):
            self._fail(f"{node} shows {offset} again, which it had trimmed")

    def changed(self, before: LogRecord, after: LogRecord) -> None:
        """The record: epochs, numbers and trims grow; spans join; a closed one never changes its bounds."""
        if after.epoch < before.epoch or after.numbers < before.numbers or after.first < before.first:
            self._fail(f"the record goes back: {before} -> {after}")
        closed = {span.number: (span.first, span.end) for span in before.spans if not span.is_open}
        for span in after.spans:
            if closed.get(span.number, (span.first, span.end)) != (span.first, span.end):
                self._fail(f"a closed span has changed: {before} -> {after}")
        for one, next_one in zip(after.spans, after.spans[1:], strict=False):
            if one.end != next_one.first:
                self._fail(f"spans do not join: {after}")
        self.first = max(self.first, after.first)
