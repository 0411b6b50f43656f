"""Logs: their records, and which replica sets they get. Decides only: writers and replicas act (decision 0040).

A log is a sequence of entries with offsets 0, 1, 2 ... Its record lists the spans that are kept, in order and without a gap. All but the last are closed and never
change, except in where copies of them are. The last may be open: then only the writer that has the record's epoch appends to it.

Each change here gives a new record; it counts only if it is put into the store under the condition that the old one is still there.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from unios.errors import CallerError, Compacted, Unavailable
from unios.log_limits import LOG_COPIES, LOG_NAME_BYTES_MAX, LOG_SPANS_MAX

PREFIX: Final = "/logs/"
OPEN: Final = -1


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Entries [first, end) that one writer wrote to one set of replicas."""

    number: int
    """Counts the spans of a log from 1; with `epoch` it names this one: a number may be tried again by the next writer."""
    epoch: int
    first: int
    replicas: tuple[str, ...]
    """While it is open, those that get every entry; when it is closed, first those that are known to have had all of it, then those that may have less."""
    end: int = OPEN

    @property
    def is_open(self) -> bool:
        return self.end == OPEN


class LogRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A log as the system knows it, at /logs/<user>/<name>."""

    name: str
    user: str
    copies: int = LOG_COPIES
    least: int = LOG_COPIES
    """With fewer replicas no span is begun."""
    epoch: int = 0
    """Counts the writers."""
    writer: str = ""
    """The one who has the epoch; another one's name never is the same."""
    first: int = 0
    """What is before it is trimmed."""
    numbers: int = 0
    """The number of the last span that there was."""
    spans: tuple[Span, ...] = ()

    @property
    def last(self) -> Span | None:
        return self.spans[-1] if self.spans else None

    @property
    def closed_end(self) -> int:
        """Where the closed part ends."""
        return next((span.end for span in reversed(self.spans) if not span.is_open), self.spans[0].first if self.spans else self.first)


class Candidate(NamedTuple):
    """A node that could have a replica, and its machine."""

    node: str
    machine: str


def check_name(name: str) -> None:
    """Raise CallerError unless a log may be called so."""
    if (
        not name
        or len(quote(name, safe="")) > LOG_NAME_BYTES_MAX
        or not name.isprintable()
        or any(part in ("", ".", "..") for part in name.split("/"))
    ):
        raise CallerError(f"{name[:80]!r} is no name for a log: printable, parts separated by /, at most {LOG_NAME_BYTES_MAX} bytes")


def log_key(user: str, name: str) -> str:
    return f"{PREFIX}{quote(user, safe='')}/{name}"


def claimed(record: LogRecord, writer: str) -> LogRecord:
    """A new writer takes over: whoever had the epoch cannot change the record any more."""
    return msgspec.structs.replace(record, epoch=record.epoch + 1, writer=writer)


def moved(record: LogRecord, *, at: int, holders: Sequence[str], replicas: Sequence[str]) -> LogRecord:
    """The last span, if open, ends at `at`, and `holders` have all of it; the next one, on `replicas`, begins there. Without replicas none begins."""
    spans = list(record.spans)
    if spans and spans[-1].is_open:
        last = spans.pop()
        if at > last.first:
            others = (node for node in last.replicas if node not in holders)
            spans.append(msgspec.structs.replace(last, end=at, replicas=(*holders, *others)))
    numbers = record.numbers
    if replicas:
        if len(spans) >= LOG_SPANS_MAX:
            raise Unavailable(f"the log {record.name} has changed its writer or its replicas {LOG_SPANS_MAX} times since it was trimmed: trim it")
        numbers += 1
        spans.append(Span(numbers, record.epoch, at, tuple(replicas)))
    return msgspec.structs.replace(record, spans=tuple(spans), numbers=numbers)


def trimmed(record: LogRecord, upto: int) -> LogRecord:
    """What is before `upto` is needed no more. Idempotent, and never goes back."""
    last = record.last
    first = max(record.first, upto if last is not None and last.is_open else min(upto, record.closed_end))
    kept = tuple(span for span in record.spans if span.is_open or span.end > first)
    if not kept and record.spans:
        kept = record.spans[-1:]  # it says where the log ends
    return msgspec.structs.replace(record, first=first, spans=kept)


def replaced(record: LogRecord, span: Span, *, gone: Collection[str], by: str) -> LogRecord:
    """A copy of a closed span has been made on `by`, in the place of `gone`, which are kept in mind while there are too few others.

    Raises Compacted if the span is not there any more.
    """
    for index, found in enumerate(record.spans):
        if (found.number, found.epoch) == (span.number, span.epoch) and not found.is_open:
            kept = [node for node in found.replicas if node not in gone and node != by]
            replicas = (by, *kept) if len(kept) + 1 >= record.copies else (by, *(node for node in found.replicas if node != by))
            spans = (*record.spans[:index], msgspec.structs.replace(found, replicas=replicas), *record.spans[index + 1 :])
            return msgspec.structs.replace(record, spans=spans)
    raise Compacted(f"span {span.number} of the log {record.name} is not there any more")


def find(record: LogRecord, offset: int) -> Span | None:
    """Return the span that an offset is in, None if it is not written yet. Raises Compacted if it is trimmed."""
    if offset < record.first:
        raise Compacted(f"the log {record.name} is trimmed up to {record.first}: {offset} is gone")
    return next((span for span in record.spans if span.first <= offset and (span.is_open or offset < span.end)), None)


def choose(candidates: Iterable[Candidate], *, copies: int, keep: Collection[str] = (), avoid: Collection[str] = ()) -> tuple[str, ...]:
    """Return the nodes for the next span, at most `copies`: of different machines as far as there are, those of `keep` first, then in the order given.

    Those of `avoid`, which have failed lately, are taken only where there is nobody else.
    """
    ranked = sorted(candidates, key=lambda candidate: (candidate.node in avoid, candidate.node not in keep))
    found: list[Candidate] = []
    for again in (False, True):
        for candidate in ranked:
            taken = any(candidate.machine == other.machine for other in found)
            if len(found) < copies and candidate not in found and (again or not taken):
                found.append(candidate)
    return tuple(candidate.node for candidate in found)


class Repair(NamedTuple):
    """Have `target` copy a closed span from one of `sources`; it stands in for `gone`."""

    span: Span
    sources: tuple[str, ...]
    target: str
    gone: tuple[str, ...]


def plan_repairs(record: LogRecord, candidates: Sequence[Candidate], bad: Collection[tuple[int, str]] = ()) -> list[Repair]:
    """Return a copy for each closed span that has too few replicas on nodes that are there; the one with the fewest first.

    `bad`: (number of a span, node) whose copy is found to be lost or not whole. A span without any is left: it comes back with a node that has it, or never.
    """
    alive = {candidate.node for candidate in candidates}
    found = []
    for span in record.spans:
        left = tuple(node for node in span.replicas if node in alive and (span.number, node) not in bad)
        if span.is_open or span.end <= record.first or not left or len(left) >= record.copies:
            continue
        others = [candidate for candidate in candidates if candidate.node not in left]
        near = {candidate.machine for candidate in candidates if candidate.node in left}
        others.sort(key=lambda candidate: (candidate.machine in near, candidate.node not in span.replicas))
        if others:
            found.append(Repair(span, left, others[0].node, tuple(node for node in span.replicas if node not in left)))
    return sorted(found, key=lambda repair: len(repair.sources))
