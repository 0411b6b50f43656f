"""Pending: calls and streams of a port that are under way, as their caller holds them."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unios.wire.conversations import Asked

if TYPE_CHECKING:
    from unios.client.messages.port import Ends


class Pending:
    """A call under way."""

    def __init__(self, ends: "Ends", asked: Asked, deadline: float | None) -> None:
        self._ends, self._asked, self._deadline = ends, asked, deadline

    def done(self) -> bool:
        """Return whether `result` returns at once; does not look whether anything has come."""
        return self._asked.ended

    def result(self, timeout: float | None = None) -> Any:
        """Return what the handler returned or raise what it raised; OutcomeUnknown at the deadline, after which an answer is dropped.

        `timeout`: TimeoutError after so many seconds; the call goes on.
        """
        asked = self._asked
        until = None if timeout is None else time.monotonic() + timeout
        if until is not None and (self._deadline is None or until < self._deadline):
            if not self._ends.wait(asked, lambda: asked.ended, until):
                raise TimeoutError
        elif not self._ends.wait(asked, lambda: asked.ended, self._deadline):
            raise self._ends.give_up(asked)
        return self._ends.outcome(asked)

    def cancel(self) -> None:
        """Withdraw the call: if it has not begun it will not, and what it answers is dropped. A handler that runs goes on to its end. Idempotent."""
        if not self._asked.ended:
            self._ends.give_up(self._asked, "it was cancelled")


class Items:
    """An iterator over the items of a stream; `close` stops whoever makes them."""

    def __init__(self, ends: "Ends", asked: Asked, deadline: float | None) -> None:
        self._ends, self._asked, self._deadline = ends, asked, deadline
        self._over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        asked, ends = self._asked, self._ends
        if self._over:
            raise StopIteration
        try:
            if not ends.wait(asked, lambda: bool(asked.items) or asked.ended, self._deadline):
                raise ends.give_up(asked)
            if asked.items:
                return ends.next_item(asked)
            self._over = True
            ends.outcome(asked)
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """Read no more: the handler is stopped at its next item. Idempotent."""
        self._over = True
        if not self._asked.ended:
            self._ends.give_up(self._asked, "it was closed")

    def __enter__(self) -> "Items":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._asked.ended and not self._over:
            self._over = True
            self._ends.abandon(self._asked)
