"""Mutants of the shipped deciders of logs: each has one protection switched off, and the simulation of logs must find what it lets through."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec

from unios.core import log_frames, log_recovery, log_writer, logs
from unios.core.log_recovery import Recovery
from unios.core.log_replica import KEEP, Answer, Commit, Order, Refused, Replica
from unios.core.log_writer import Acknowledge, Writer
from unios.core.logs import LogRecord


def ack_before_durable() -> Any:
    """A replica answers when it has written, and not when it has synced."""

    def begin(self: Replica) -> list[Order]:
        orders = original(self)
        if any(isinstance(order, Commit) for order in orders):
            orders += [Answer(each.token, self._spans[each.number].taken) for each in self._syncing if each.entries]
        return orders

    original = Replica._begin
    return mock.patch.object(Replica, "_begin", begin)


def seal_skipped() -> Any:
    """Who takes over asks where the log ends, and seals nothing."""

    def seal(self: Replica, token: object, *, epoch: int, number: int, of: int) -> list[Order]:
        span = self._spans.get(number)
        return [Answer(token, Refused("gone") if span is None or span.epoch != of else span.end)]

    return mock.patch.object(Replica, "seal", seal)


def epoch_not_checked() -> Any:
    """A replica takes whatever fits, from whomever."""
    return mock.patch.object(Replica, "_refusal", return_value=None)


def torn_tail_accepted() -> Any:
    """No frame is checked."""
    return mock.patch.object(log_frames.zlib, "crc32", return_value=0)


def epoch_not_counted() -> Any:
    """Who takes over goes on with the epoch that there is."""

    def claimed(record: LogRecord, writer: str) -> LogRecord:
        return msgspec.structs.replace(record, epoch=max(1, record.epoch), writer=writer)

    return mock.patch.multiple(log_recovery, claimed=claimed)


def first_answer_counts() -> Any:
    """An entry is acknowledged when one replica has it."""

    def acknowledge(self: Writer) -> list[log_writer.Order]:
        upto = max(cursor.done for cursor in self._cursors.values())
        if upto <= self.confirmed:
            return []
        for cursor in self._cursors.values():
            cursor.done = max(cursor.done, upto)
        del self._pending[: upto - self.confirmed]
        self.confirmed = upto
        return [Acknowledge(upto)]

    return mock.patch.object(Writer, "_acknowledge", acknowledge)


def unconfirmed_shown() -> Any:
    """A replica shows all that it has."""

    def readable(self: Replica, *, number: int, of: int, offset: int, closed: int = KEEP) -> int | Refused:
        span = self._spans.get(number)
        return original(self, number=number, of=of, offset=offset, closed=closed or (span.end if span else 0))

    original = Replica.readable
    return mock.patch.object(Replica, "readable", readable)


def late_answers_count() -> Any:
    """A writer that is changing its replicas goes on to acknowledge what the old ones say."""

    def move(self: Writer, holders: Any) -> list[log_writer.Order]:
        old = [cursor.done for cursor in self._cursors.values()]
        orders = original(self, holders)
        upto = max((self.confirmed, *old))
        if upto == self.confirmed:
            return orders
        told, self.confirmed = [Acknowledge(upto)], self.confirmed
        return [*told, *orders]

    original = Writer._move
    return mock.patch.object(Writer, "_move", move)


def trim_forgotten() -> Any:
    """What is trimmed is not written down."""

    def commit_of(self: Replica, now: Any) -> Commit:
        return original(self, now)._replace(first=KEEP) if self._spans else original(self, now)

    original = Replica._commit_of
    return mock.patch.object(Replica, "_commit_of", commit_of)


def lost_span_is_empty() -> Any:
    """A replica that has lost the span says that it ends where it began."""

    def refused(self: Recovery, replica: str, refused: Refused) -> list[log_recovery.Order]:
        if refused.kind == "gone" and self.state == "sealing":
            assert self.span is not None
            return self.sealed(replica, self.span.first)
        return original(self, replica, refused)

    original = Recovery.refused
    return mock.patch.object(Recovery, "refused", refused)


def trim_goes_back() -> Any:
    """The last one who trims decides."""

    def trimmed(record: LogRecord, upto: int) -> LogRecord:
        return msgspec.structs.replace(original(record, upto), first=upto)

    original = logs.trimmed
    return mock.patch("tests.sim.log_clients.trimmed", trimmed)


def duplicate_delivery() -> Any:
    """Entries that come again are appended again."""

    def take(self: Replica, token: object, number: int, span: Any, epoch: int, first: int, entries: Any) -> list[Order]:
        return original(self, token, number, span, epoch, max(first, span.taken), entries)

    original = Replica._take
    return mock.patch.object(Replica, "_take", take)


LOG_MUTANTS: dict[str, Callable[[], Any]] = {
    "ack-before-durable": ack_before_durable,
    "seal-skipped": seal_skipped,
    "epoch-not-checked": epoch_not_checked,
    "torn-tail-accepted": torn_tail_accepted,
    "epoch-not-counted": epoch_not_counted,
    "first-answer-counts": first_answer_counts,
    "unconfirmed-shown": unconfirmed_shown,
    "late-answers-count": late_answers_count,
    "trim-forgotten": trim_forgotten,
    "trim-goes-back": trim_goes_back,
    "duplicate-delivery": duplicate_delivery,
    "lost-span-is-empty": lost_span_is_empty,
}
