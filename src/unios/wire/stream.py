"""A stream: the asking side of a request with many answers, which may send items along. Made and ended by wire/peer.py."""

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

import msgspec

from unios.core.sequences import ARRIVAL
from unios.errors import Unavailable
from unios.wire.allowances import Allowance
from unios.wire.byte_way import ByteWay
from unios.wire.call import preemption_point
from unios.wire.flow import Inbox, Window
from unios.wire.messages import Credit, Item, cost, pack, unpack

if TYPE_CHECKING:
    from unios.wire.peer import Peer

T = TypeVar("T")


class Stream:
    """The asking side of a request with many answers. Use `async with` or `close` it."""

    def __init__(self, peer: "Peer", id_: int, sequence: int, allowance: Allowance | None = None) -> None:
        """`allowance`: of whoever is asked for, for what is held of his here."""
        self._peer = peer
        self._id = id_
        self._sequence = sequence
        self._window = Window()
        self._inbox = Inbox(lambda size: peer.send(Credit(id_, size), sequence=ARRIVAL), allowance)
        self.result: msgspec.Raw | None = None

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    async def next(self, type_: type[T]) -> T | None:
        """Return the next answer, None at the end."""
        item = await self._inbox.get()
        if item is None:
            return None
        for descriptor in item[1]:  # nothing that is asked for in this way hands any over
            os.close(descriptor)
        answer: T = unpack(item[0], type_)
        return answer

    async def items(self, type_: type[T]) -> AsyncIterator[T]:
        while (item := await self.next(type_)) is not None:
            yield item

    async def send(self, item: object) -> None:
        """Send one item to the answering side; waits for room."""
        body = pack(item)
        size = cost(body)
        await self._window.take(size)
        if self._inbox.ended:
            raise self._inbox.failure or Unavailable("the request has been answered: it takes no more items")
        self._peer.send(Item(self._id, body), sequence=self._sequence)
        await self._peer.outbox.drain(self._sequence)
        await preemption_point(size)

    def way(self) -> ByteWay:
        """Return the way of bytes that it is: for one who sends and reads them without a task, and nothing else."""
        return ByteWay(self._peer, Item(self._id), self._sequence, self._window, self._inbox)

    def end(self) -> None:
        """Say that no more items will come."""
        self._peer.send(Item(self._id, end=True), sequence=self._sequence)

    def close(self) -> None:
        """Withdraw the request if it is still under way; idempotent."""
        self._peer.forget(self._id)
        self._inbox.discard()
