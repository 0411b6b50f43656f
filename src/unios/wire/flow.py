"""Flow: back-pressure of one request under way. A window counts what may still be sent, an inbox holds what has come and is not read yet."""

import asyncio
import os
from collections import deque
from collections.abc import Callable

import msgspec

from unios.errors import ProtocolError, UniosError
from unios.limits import FRAME_BYTES_MAX, STREAM_WINDOW_BYTES
from unios.wire.messages import cost


class Window:
    """Room left to send items of one request."""

    __slots__ = ("_changed", "room")

    def __init__(self) -> None:
        self.room = STREAM_WINDOW_BYTES
        self._changed = asyncio.Event()

    async def take(self, size: int) -> None:
        await self.opened()
        self.room -= size

    async def opened(self) -> None:
        """Wait until there is room."""
        while self.room <= 0:
            self._changed.clear()
            await self._changed.wait()

    def grant(self, size: int) -> None:
        self.room += size
        self._changed.set()


class Inbox:
    """Items received and not yet read, bounded by the credit that was granted."""

    __slots__ = ("_arrived", "_held", "_items", "_owed", "ended", "failure", "grant")

    def __init__(self, grant: Callable[[int], None]) -> None:
        self.grant = grant
        self._items: deque[tuple[msgspec.Raw, list[int]]] = deque()
        self._arrived = asyncio.Event()
        self._owed = 0
        self._held = 0
        self.ended = False
        self.failure: UniosError | None = None

    def put(self, body: msgspec.Raw, descriptors: list[int]) -> None:
        self._items.append((body, descriptors))
        self._held += cost(body)
        if self._held > STREAM_WINDOW_BYTES + FRAME_BYTES_MAX:
            raise ProtocolError("the peer sent items without credit")
        self._arrived.set()

    def end(self, failure: UniosError | None = None) -> None:
        self.ended, self.failure = True, failure
        self._arrived.set()

    async def get(self) -> tuple[msgspec.Raw, list[int]] | None:
        """Return the next item, None at the end; raise what ended it."""
        while not self._items:
            if self.ended:
                if self.failure is not None:
                    raise self.failure
                return None
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        size = cost(item[0])
        self._owed += size
        self._held -= size
        # Each grant costs both sides about what a chunk does: while there is more to read here, the sender is not kept waiting by a rarer one.
        if self._owed >= STREAM_WINDOW_BYTES // (2 if self._items else 4):
            self.grant(self._owed)
            self._owed = 0
        return item

    def discard(self) -> None:
        for _body, descriptors in self._items:
            for descriptor in descriptors:
                os.close(descriptor)
        self._items.clear()
