"""Passing on: the answers of a stream become those of a request, without a task and uncopied, as relaying kernels do with output.

Little goes on in the step in which it comes. Bulk goes in steps of the request's own sequence, so that what is more urgent goes between two of them, and
nothing is queued behind what the asker has not taken: it stays in the stream's inbox, for which no credit is granted.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Final

from unios.wire.messages import ITEM_COST, Reply, framed
from unios.wire.running import context_of

if TYPE_CHECKING:
    from unios.wire.call import Call
    from unios.wire.stream import Stream

STEP_BYTES: Final = 16 * 1024
"""So much is passed on in one step, and one item more."""


class Passage:
    """One of them; `over` is done when all answers have been passed on. `close` it then, or before to break it off."""

    def __init__(self, stream: "Stream", call: "Call") -> None:
        self._inbox, self._call, self._window = stream._inbox, call, call._window
        self._came, self._way = stream.way(), call.way()
        self._context = context_of(call.sequence)
        self._loop = asyncio.get_running_loop()
        self._is_due = False
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._came.on_arrival(self._arrived)

    def _arrived(self) -> None:
        if self._is_due:
            return
        if self._inbox.held <= STEP_BYTES:
            self._step()
        else:
            self._later()

    def _later(self) -> None:
        self._is_due = True
        self._loop.call_soon(self._go_on, context=self._context.copy())

    def _opened(self) -> None:
        """Called from where credit or room comes in, which is urgent: what is passed on is not."""
        self._loop.call_soon(self._go_on, context=self._context.copy())

    def _go_on(self) -> None:
        self._is_due = False
        self._step()
        self._way.pass_turn()

    def _step(self) -> None:
        if self.over.done():
            return
        passed = 0
        while self._inbox.held:
            if not self._way.is_open:
                self._is_due = True
                self._way.when_open(self._opened)
                return
            if passed >= STEP_BYTES:
                self._later()
                return
            body, descriptors = self._inbox.pop()
            for descriptor in descriptors:  # none cross machines
                os.close(descriptor)
            size = len(memoryview(body)) + ITEM_COST
            self._window.room -= size
            passed += size
            self._call.peer.outbox.send(framed(Reply(self._call.id, body, more=True)), (), self._call.sequence)
        if self._inbox.ended:
            self.over.set_result(None)

    def close(self) -> None:
        """Pass nothing on any more. Idempotent."""
        if not self.over.done():
            self.over.cancel()
        self._came.close()
        self._way.close()
