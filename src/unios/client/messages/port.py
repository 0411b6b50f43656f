"""Port: the caller's end of a port, blocking. Any number of threads may call at a time; client/messages/ends.py does the talking.

A forked child has a session of its own. What a signal's handler may do: raise (the call is withdrawn, and the port stays whole). Call on the same port it may not.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from unios.client.messages.ends import Ends, Opened
from unios.client.messages.outcomes import RAISED, RemoteTraceback, outcome
from unios.errors import CallerError
from unios.wire.conversations import Asked

_EVER_S: Final = 1e9
"""A deadline later than this, 31 years, is none: Linux counts no further everywhere."""
__all__ = ["RAISED", "Items", "Pending", "Port", "RemoteTraceback"]


class Port:
    """What `connect` returns. `port.NAME(...)` calls NAME; `options` gives the same port with other ways of calling."""

    def __init__(
        self,
        name: str,
        *,
        home: "Path | str | None" = None,
        node: str = "",
        timeout: float | None = None,
        keeps: bool = False,
        opened: Opened = None,
    ) -> None:
        """Connect; waits up to `timeout` seconds (None: for ever) for somebody to listen. NotFound, Denied, Unavailable.

        `keeps`: large buffers of answers are only kept here and sent on uncopied, not written to. `opened`: gives the one-way message (operation, arguments)
        that is the first on each new connection.
        """
        self._ends = Ends(name, home, node, keeps, opened)
        self._timeout: float | None = None
        self._again = False
        self._ends.open(deadline_of(timeout))

    @property
    def name(self) -> str:
        return self._ends.name

    def options(self, *, timeout: float | None = None, idempotent: bool = False) -> "Port":
        """Return this port with a deadline of so many seconds for each call, and with calls that may be done again after a loss."""
        port = object.__new__(Port)
        port._ends, port._timeout, port._again = self._ends, timeout, idempotent
        return port

    def call(self, op: str, /, *args: object, **kwargs: object) -> Any:
        """Call and return what the handler returned; raise what it raised.

        OutcomeUnknown: no answer came by the deadline, or whoever answered was replaced meanwhile; it may have been done. Values that cannot travel: CallerError.
        """
        ends, timeout = self._ends, self._timeout
        deadline = None if timeout is None else deadline_of(timeout)
        asked = ends.ask(op, (args, kwargs), deadline, again=self._again)
        try:
            if not ends.wait_for(asked, deadline):
                raise ends.give_up(asked)
        except BaseException:
            if not asked.ended:  # a signal's handler has raised
                ends.give_up(asked, "it was cancelled")
            raise
        return outcome(asked)

    def begin(self, op: str, /, *args: object, **kwargs: object) -> "Pending":
        """Call without waiting: many may be under way at a time, over REQUESTS_PER_PEER_MAX this waits for one. They are answered in their order.

        Large buffers among the arguments may not be changed before the answer is there: after a break they are sent again.
        """
        ends, deadline = self._ends, self._deadline()
        return Pending(ends, ends.ask(op, (args, kwargs), deadline, again=self._again), deadline)

    def send(self, op: str, /, *args: object, **kwargs: object) -> None:
        """Send a message that is not answered. It is lost if the connection or the owner is lost before he reads it; what it raises nobody hears.

        OutcomeUnknown if that is noticed while it is sent.
        """
        self._ends.ask(op, (args, kwargs), self._deadline(), oneway=True)

    def stream(self, op: str, /, *args: object, **kwargs: object) -> "Items":
        """Call what yields: return an iterator over the items. Whoever stops reading (`close`, or drops it) stops the handler: at most a window is under way."""
        ends, deadline = self._ends, self._deadline()
        return Items(ends, ends.ask(op, (args, kwargs), deadline, stream=True, again=self._again), deadline)

    def _deadline(self) -> float | None:
        return deadline_of(self._timeout)

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_"):
            raise AttributeError(op)

        def call(*args: object, **kwargs: object) -> Any:
            return self.call(op, *args, **kwargs)

        return call

    def __reduce__(self) -> tuple[Any, ...]:
        """A port travels as its name: who receives it connects with rights of his own, when he first calls."""
        return _travelled, (self._ends.name, self._timeout, self._again)

    def fileno(self) -> int:
        """Return the descriptor of the connection, -1 while there is none: for watching its end (POLLRDHUP). What comes over it is not yours to read."""
        line = self._ends.line
        return -1 if line is None or line.is_closed else line.sock.fileno()

    def __repr__(self) -> str:
        return f"<unios port {self._ends.name!r}>"

    def __enter__(self) -> "Port":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; calls that wait end with OutcomeUnknown. Idempotent; a later call connects again."""
        self._ends.close()


def _travelled(name: str, timeout: float | None, again: bool) -> Port:
    port = object.__new__(Port)
    port._ends, port._timeout, port._again = Ends(name, None, ""), timeout, again
    return port


def deadline_of(timeout: float | None) -> float | None:
    """Return when so many seconds from now are over (time.monotonic), None: never. CallerError for what is no number of seconds."""
    if timeout is None:
        return None
    if timeout < _EVER_S:
        return time.monotonic() + timeout
    if timeout != timeout:
        raise CallerError("nan is no number of seconds")
    return None


class Pending:
    """A call under way."""

    def __init__(self, ends: Ends, asked: Asked, deadline: float | None) -> None:
        self._ends, self._asked, self._deadline = ends, asked, deadline

    def done(self) -> bool:
        """Return whether `result` returns at once; does not look whether anything has come."""
        return self._asked.ended

    def result(self, timeout: float | None = None) -> Any:
        """Return what the handler returned or raise what it raised; OutcomeUnknown at the deadline, after which an answer is dropped.

        `timeout`: TimeoutError after so many seconds; the call goes on.
        """
        asked = self._asked
        until = deadline_of(timeout)
        if until is not None and (self._deadline is None or until < self._deadline):
            if not self._ends.wait(asked, lambda: asked.ended, until):
                raise TimeoutError
        elif not self._ends.wait_for(asked, self._deadline):
            raise self._ends.give_up(asked)
        return self._ends.outcome(asked)

    def cancel(self) -> None:
        """Withdraw the call: if it has not begun it will not, and what it answers is dropped. A handler that runs goes on to its end. Idempotent."""
        if not self._asked.ended:
            self._ends.give_up(self._asked, "it was cancelled")


class Items:
    """An iterator over the items of a stream; `close` stops whoever makes them."""

    def __init__(self, ends: Ends, asked: Asked, deadline: float | None) -> None:
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
                return ends.next_item(asked, self._deadline)
            self._over = True
            ends.outcome(asked)
        except StopIteration as error:  # of the handler: as a generator's, it would be taken for the end
            raise RuntimeError("the handler raised StopIteration") from error
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
        with contextlib.suppress(AttributeError):  # a signal's handler raised before it was one
            if not self._asked.ended and not self._over:
                self._over = True
                self._ends.abandon(self._asked)
