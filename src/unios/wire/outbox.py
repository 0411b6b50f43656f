"""Outbox: what one connection has still to send, by sequence (core/sequences.py), so that a signal never waits behind a flood of output.

Frames are handed to the transport whole, and only as many as keep it busy: what it has taken cannot be overtaken any more. Frames of one sequence keep
their order, so those of one request do. What waits is bounded by whoever awaits `drain`.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from unios.core.pacing import Pace
from unios.core.sequences import COUNT, Sequences
from unios.errors import Unavailable
from unios.limits import SEND_AHEAD_BYTES, SEND_QUEUE_BYTES_MAX
from unios.wire.running import PRIORITISED
from unios.wire.transport import Frame, Transport, duplicates

_BULK_BYTES: Final = 16 * 1024
"""Smaller frames say nothing of how swift a link is."""


class Outbox:
    """That of one connection, above its transport. With sequences switched off the transport's own queue is all there is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._prioritised = PRIORITISED.get()
        self._waiting: Sequences[tuple[int, int, Frame, list[int]]] = Sequences()
        """(sequence, size, frame, descriptors)"""
        self._bytes = [0] * COUNT
        self._drains: list[asyncio.Future[None]] = []
        self._turns: dict[Callable[[], None], None] = {}
        """Who waits for his turn without a task, the longest waiting first."""
        self.closed = False
        self.pace = Pace()
        transport.on_room = self._pump

    def send(self, data: Frame, descriptors: Sequence[int], sequence: int) -> None:
        """Send a frame, now or in its turn; the descriptors stay the caller's, and so does a buffer that can be written to.

        Raises Unavailable, and sends nothing, when no descriptors are to be had for it.
        """
        if self.closed:
            return
        if not self._prioritised or (not self._waiting.count and self._transport.queued <= SEND_AHEAD_BYTES):
            self._write(data, descriptors)
            return
        if isinstance(data, memoryview) and not data.readonly:
            data = bytes(data)  # the caller uses its buffer again
        size = sum(map(len, data)) if isinstance(data, tuple) else len(data)
        self._waiting.raise_flag(sequence, (sequence, size, data, duplicates(descriptors)))
        self._bytes[sequence] += size

    def _write(self, data: Frame, descriptors: Sequence[int]) -> None:
        self._transport.write(data, descriptors)
        size = len(data) if not isinstance(data, tuple) else sum(map(len, data))
        if size >= _BULK_BYTES and self.pace.sent(size, time.monotonic()) and self._prioritised:
            self._transport.send_ahead(self.pace.ahead_bytes)

    def _pump(self) -> None:
        while self._waiting.count and self._transport.queued <= SEND_AHEAD_BYTES and not self.closed:
            sequence, size, data, descriptors = self._waiting.take()
            self._bytes[sequence] -= size
            try:
                self._write(data, descriptors)
            except Unavailable as error:  # who waits for this frame would wait for ever
                self._transport.close(str(error))
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        self._wake()

    def _wake(self) -> None:
        drains, self._drains = self._drains, []
        for future in drains:
            if not future.done():
                future.set_result(None)
        self.pass_turn()

    def when_turn(self, wake: Callable[[], None]) -> None:
        """Call `wake` once when what is sent next need not wait here, or the connection has ended; those who wait are called one at a time, in their
        order. Whoever is called says `pass_turn` when he has sent what he had. Idempotent."""
        self._turns.setdefault(wake)

    def pass_turn(self) -> None:
        """Let the next one have his turn, if there is room."""
        while self._turns and (self.closed or self._transport.queued <= SEND_AHEAD_BYTES):
            wake = next(iter(self._turns))
            del self._turns[wake]
            wake()
            if not self.closed:
                return

    def forget_turn(self, wake: Callable[[], None]) -> None:
        """Do not call it any more. Idempotent."""
        self._turns.pop(wake, None)

    def queued(self, sequence: int = COUNT - 1) -> int:
        """Return how many bytes are to be sent before what that sequence sends next."""
        taken = self._transport.queued
        return taken + sum(self._bytes[: sequence + 1]) if self._waiting.count else taken

    def is_full(self, sequence: int) -> bool:
        """Return whether what that sequence sends next has so much before it that it should wait."""
        return self.queued(sequence) > SEND_QUEUE_BYTES_MAX

    async def drain(self, sequence: int) -> None:
        """Wait until less than SEND_QUEUE_BYTES_MAX is to be sent before what that sequence sends next, or the connection has ended."""
        while not self.closed and self.queued(sequence) > SEND_QUEUE_BYTES_MAX:
            await self._less()

    async def turn(self, sequence: int) -> None:
        """Wait until a frame of that sequence would not wait here, or the connection has ended: for one who can take his bytes from elsewhere so long."""
        while not self.closed and self.queued(sequence) > SEND_AHEAD_BYTES:
            await self._less()

    async def _less(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drains.append(future)
        await future

    def close(self) -> None:
        """Drop what waits; idempotent."""
        self.closed = True
        while self._waiting.count:
            for descriptor in self._waiting.take()[3]:
                os.close(descriptor)
        self._bytes = [0] * COUNT
        self._wake()
