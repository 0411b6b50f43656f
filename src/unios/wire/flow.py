"""Flow: back-pressure of one request under way. A window counts what may still be sent, an inbox holds what has come and is not read yet."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from unios.errors import OutcomeUnknown, ProtocolError, UniosError
from unios.limits import FRAME_BYTES_MAX, STREAM_WINDOW_BYTES
from unios.wire.allowances import Allowance
from unios.wire.messages import cost

OVERFLOW: Final = (
    "this node holds as much of what this user has sent as it may, and nobody has read it: wait for what is under way, or send less at a time"
)


class Window:
    """Room left to send items of one request."""

    __slots__ = ("_changed", "on_room", "room")

    def __init__(self) -> None:
        self.room = STREAM_WINDOW_BYTES
        self._changed = asyncio.Event()
        self.on_room: Callable[[], None] | None = None
        """Called once, at the next grant: for one who waits without a task."""

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
        on_room, self.on_room = self.on_room, None
        if on_room is not None:
            on_room()


class Inbox:
    """Items received and not yet read, bounded by the credit that was granted."""

    __slots__ = ("_allowance", "_arrived", "_items", "_owed", "ended", "failure", "grant", "held", "on_arrival")

    def __init__(self, grant: Callable[[int], None], allowance: Allowance | None = None) -> None:
        """`allowance`: of whoever sends the items, for all that is held of his here."""
        self._allowance = allowance
        self.grant = grant
        self._items: deque[tuple[msgspec.Raw, list[int]]] = deque()
        self._arrived = asyncio.Event()
        self._owed = 0
        self.held = 0
        """Bytes of items that are not read yet, as `cost` counts them."""
        self.ended = False
        self.failure: UniosError | None = None
        self.on_arrival: Callable[[], None] | None = None
        """Called when an item has come, and at the end: for one who reads without a task."""

    def put(self, body: msgspec.Raw, descriptors: list[int]) -> bool:
        """Take an item in; False, and it is not taken, if more is held of its sender's than may be."""
        size = cost(body)
        if self._allowance is not None and not self._allowance.take(size):
            return False
        self._items.append((body, descriptors))
        self.held += size
        if self.held > STREAM_WINDOW_BYTES + FRAME_BYTES_MAX:
            raise ProtocolError("the peer sent items without credit")
        self._tell()
        return True

    def overflow(self) -> None:
        """End it since no more may be held: what has come is not whole, so none of it is given."""
        self.discard()
        self.end(OutcomeUnknown(OVERFLOW))

    def end(self, failure: UniosError | None = None) -> None:
        self.ended, self.failure = True, failure
        self._tell()

    def _tell(self) -> None:
        self._arrived.set()
        if self.on_arrival is not None:
            self.on_arrival()

    async def get(self) -> tuple[msgspec.Raw, list[int]] | None:
        """Return the next item, None at the end; raise what ended it."""
        while not self._items:
            if self.ended:
                if self.failure is not None:
                    raise self.failure
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self.pop()

    def first(self, count: int) -> list[msgspec.Raw]:
        """Return the bodies of up to so many of the next items; they stay."""
        if len(self._items) <= 1 or count == 1:
            return [self._items[0][0]] if self._items else []
        return [body for body, _descriptors in islice(self._items, count)]

    def pop(self) -> tuple[msgspec.Raw, list[int]]:
        """Take the next item, which there must be: it has been read, and room for as much more is granted."""
        item = self._items.popleft()
        size = cost(item[0])
        self._owed += size
        self._give_back(size)
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
        self._give_back(self.held)

    def _give_back(self, size: int) -> None:
        self.held -= size
        if self._allowance is not None:
            self._allowance.give(size)
