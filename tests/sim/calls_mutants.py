"""Mutants of conversations: each has one protection switched off, and the simulation of calls must find what it lets through."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from unios.wire.conversations import Again, Answering, Asked, Asking, Begun
from unios.wire.messages import Fault, Hello, Reply, Request
from unios.wire.values import Value


def duplicate_delivery() -> Any:
    """A request that comes again is done again."""

    def begin(self: Answering, request: Request, value: Value | None = None) -> Begun | Again | None:
        self._open.pop(request.id, None)
        self._kept.pop(request.id, None)
        return original(self, request, value)

    original = Answering.begin
    return mock.patch.object(Answering, "begin", begin)


def incarnation_ignored() -> Any:
    """A request is sent again to whoever answers now, whether he is the same or not."""

    def greeted(self: Asking, theirs: Hello) -> tuple[list[Asked], list[Asked]]:
        self._incarnation = theirs.facts["incarnation"]
        return list(self.open.values()), []

    return mock.patch.object(Asking, "greeted", greeted)


def nothing_again() -> Any:
    """What was sent over a connection that has ended is not sent again."""

    def greeted(self: Asking, theirs: Hello) -> tuple[list[Asked], list[Asked]]:
        again, failed = original(self, theirs)
        return [asked for asked in again if not asked.sent], failed

    original = Asking.greeted
    return mock.patch.object(Asking, "greeted", greeted)


def answers_not_kept() -> Any:
    """An answer is forgotten as soon as it is given: who asks again waits for ever."""

    def end(self: Answering, begun: Begun, message: Reply | Fault, value: Value | None, *, keep: bool = True) -> None:
        self._open.pop(begun.id, None)
        self._acked = max(self._acked, begun.id)

    return mock.patch.object(Answering, "end", end)


CALLS_MUTANTS: dict[str, Callable[[], Any]] = {
    "duplicate-delivery": duplicate_delivery,
    "incarnation-ignored": incarnation_ignored,
    "nothing-sent-again": nothing_again,
    "answers-not-kept": answers_not_kept,
}
