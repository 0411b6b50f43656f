"""Streaming: a stream that is being answered. Has a thread of its own, so that its connection goes on being read, and outlives that connection.

Items are numbered, and kept until they were taken. A new connection is sent those that its caller has not got, before any later one: `sending` sees to that.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unios.client.messages import memory
from unios.client.messages.line import Closed, Line
from unios.errors import CallerError
from unios.limits import SESSION_KEPT_S
from unios.wire.conversations import Begun
from unios.wire.messages import Reply
from unios.wire.values import Value, encode

if TYPE_CHECKING:
    from unios.client.messages.sessions import Session


def tell(line: Line, message: Any, value: Value | None) -> None:
    """Send a Reply, its buffers with it, or a Fault. Closed; CallerError if there is no memory."""
    if isinstance(message, Reply) and value is not None and value.buffers:
        reply = message
        line.send_value(lambda places, count: Reply(reply.id, reply.body, reply.more, count, places), value.buffers)
    else:
        line.send(message)


def fixed(line: Line, value: Value) -> tuple[Value, bool]:
    """Return a value as it is to be sent, and whether it can be sent again later: not if the program may change it meanwhile.

    What goes to another node is copied for that, as breaks happen there; on one node that would cost more than all the rest.
    """
    if value.is_fixed:
        return value, True
    return (value, False) if line.local else (value.fixed(memory.is_fixed), True)


class Streaming:
    """One stream. `line`: where it is heard now."""

    def __init__(self, session: "Session", begun: Begun, line: Line) -> None:
        self._session, self._begun = session, begun
        self.line = line
        self.sending = threading.Lock()
        """Held while items are sent, and by whoever sends some of them again."""
        self._iterating = threading.Lock()
        """Held while the handler runs."""
        self._iterator: Iterator[Any] | None = None

    def run(self, items: Any) -> None:
        """Send all items. Raises what the handler raises."""
        try:
            self._iterator = iter(items)
        except TypeError:
            raise CallerError("this handler gives no stream") from None
        try:
            while self._has_room() and self._next():
                pass
        finally:
            with self._iterating:
                self._close()

    def stop(self) -> None:
        """Nobody reads any more: stop the handler, though this stream's thread may be held up by a caller who takes nothing."""
        if self._begun.cancelled and self._iterating.acquire(blocking=False):
            try:
                self._close()
            except BaseException:  # what it raises nobody hears, and whoever stops it goes on
                if threading.current_thread() is threading.main_thread():  # but a signal's handler may have raised there
                    raise
            finally:
                self._iterating.release()

    def _close(self) -> None:
        iterator, self._iterator = self._iterator, None
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()

    def _has_room(self) -> bool:
        """Wait for room; False if nobody reads any more."""
        session, begun = self._session, self._begun
        with session.changed:
            while begun.room <= 0 and not begun.cancelled:
                away = session.line is None
                if away and time.monotonic() - session.left_s > SESSION_KEPT_S:
                    session.answering.cancel(begun.id)
                else:
                    session.changed.wait(SESSION_KEPT_S if away else None)
        return not begun.cancelled

    def _next(self) -> bool:
        with self._iterating:
            if self._iterator is None:
                return False
            try:
                item = next(self._iterator)
            except StopIteration:
                return False
        session, begun = self._session, self._begun
        with self.sending:
            value, keep = fixed(self.line, encode(item, trusted=self.line.trusted))
            with session.changed:
                if begun.cancelled:
                    return False
                message = session.answering.item(begun, value, keep=keep)
            with contextlib.suppress(Closed):  # kept, if it can be; its caller asks again for it
                tell(self.line, message, value)
        return True
