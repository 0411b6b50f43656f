"""A request as its handler sees it: what came with it, many answers or one, and the asker's items. Used by wire/peer.py, which makes and ends it."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from unios.core.sequences import ARRIVAL, BACKGROUND, sequence_of
from unios.errors import CallerError, Unavailable, UniosError
from unios.limits import SEND_AHEAD_BYTES
from unios.undecodable import UNDECODABLE
from unios.wire.allowances import Allowance
from unios.wire.byte_way import ByteWay
from unios.wire.flow import Inbox, Window
from unios.wire.messages import ITEM_COST, Credit, Reply, Request, cost, pack
from unios.wire.running import RUNNING, become
from unios.wire.transport import Frame

if TYPE_CHECKING:
    from unios.wire.peer import Peer

T = TypeVar("T")
LARGE_ITEM_BYTES = 4 * 1024


async def preemption_point(size: int) -> None:
    """After each item of a background sequence, and each large one: let go on whatever is more urgent."""
    if size >= LARGE_ITEM_BYTES or RUNNING.get() >= BACKGROUND:
        await asyncio.sleep(0)


class Call:
    """A request as its handler sees it."""

    def __init__(self, peer: "Peer", request: Request, descriptors: list[int], allowance: Allowance | None = None, size: int = 0) -> None:
        """`allowance`: of whoever asks, for what is held of his here; so many bytes of it are taken for the request."""
        self.peer = peer
        self.op = request.op
        self.node = request.node
        self.user = request.user
        self.hops = request.hops
        self.body = request.body
        self.descriptors = descriptors
        self.sequence = sequence_of(request.op)
        self._id = request.id
        self._allowance, self._size = allowance, size
        self._flow: tuple[Window, Inbox] | None = None
        self._over = False
        self.withdrawn: UniosError | None = None
        """Why its task was cancelled."""

    def _flows(self) -> tuple[Window, Inbox]:
        """Return the windows of its items, made when they are needed: most requests have none."""
        if self._flow is None:
            peer, id_ = self.peer, self._id
            self._flow = (Window(), Inbox(lambda size: peer.send(Credit(id_, size, to_asker=True), sequence=ARRIVAL), self._allowance))
            if self._over:
                self._flow[1].end(Unavailable(f"{self.op} has ended"))
        return self._flow

    @property
    def _window(self) -> Window:
        return self._flows()[0]

    @property
    def _inbox(self) -> Inbox:
        return self._flows()[1]

    def end(self) -> None:
        """It is over: let go of what came with it, and of whoever still reads its items."""
        self._over = True
        if self._allowance is not None:
            self._allowance.give(self._size)
            self._size = 0
        if self._flow is not None:
            self._inbox.discard()
            self._inbox.end(Unavailable(f"{self.op} has ended"))
        for descriptor in self.take_descriptors():
            os.close(descriptor)

    def become(self, sequence: int) -> None:
        """Serve it in another sequence than its operation's. To be called before anything is sent: its answers keep their order."""
        self.sequence = sequence
        become(sequence)

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came with the request; they are the handler's to close from now on."""
        taken, self.descriptors = self.descriptors, []
        return taken

    def decode(self, type_: type[T]) -> T:
        """Return the body; CallerError if it is not of that type."""
        try:
            return msgspec.msgpack.decode(self.body, type=type_)
        except UNDECODABLE as error:
            raise CallerError(f"the arguments of {self.op} are wrong: {error}") from error

    async def send(self, item: object, descriptors: Sequence[int] = ()) -> None:
        """Send one of many answers; waits for room. The descriptors stay the caller's."""
        body = pack(item)
        size = cost(body)
        await self._window.take(size)
        self.peer.send(Reply(self._id, body, more=True, descriptors=len(descriptors)), descriptors, sequence=self.sequence)
        await self.peer.outbox.drain(self.sequence)
        await preemption_point(size)

    @property
    def id(self) -> int:
        return self._id

    async def turn(self) -> None:
        """Wait until an answer would go out at once: there is credit, and nothing is to be sent before it."""
        while self._window.room <= 0 or (not self.peer.outbox.closed and self.peer.outbox.queued(self.sequence) > SEND_AHEAD_BYTES):
            await self._window.opened()
            await self.peer.outbox.turn(self.sequence)

    @property
    def chunk_bytes(self) -> int:
        """The largest piece in which bulk is to be sent now."""
        return self.peer.outbox.pace.chunk_bytes

    async def send_framed(self, frame: Frame, size: int) -> None:
        """Send an answer that is framed already, with a body of `size` bytes; to be called after `turn`, so that it need not be kept."""
        self._window.room -= size + ITEM_COST
        self.peer.outbox.send(frame, (), self.sequence)
        await preemption_point(size)

    def way(self) -> ByteWay:
        """Return the way of bytes that it is: for one who sends and reads them without a task, and nothing else."""
        return ByteWay(self.peer, Reply(self._id, more=True), self.sequence, *self._flows())

    def send_now(self, body: msgspec.Raw) -> bool:
        """Send one of many answers if that need not wait; return whether it has been sent."""
        window = self._window
        if window.room <= 0 or self.peer.outbox.is_full(self.sequence):
            return False
        window.room -= cost(body)
        self.peer.send(Reply(self._id, body, more=True), sequence=self.sequence)
        return True

    def answer(self, result: object) -> None:
        """Answer a request that is served without a task; an error that is the answer, or that keeps it from being sent, is told as such."""
        if self.peer._calls.pop(self._id, None) is None:
            return  # the connection has ended, or the asker has withdrawn it
        self.end()
        if isinstance(result, Exception):
            self.peer._fault(self, result)
            return
        try:
            self.peer.send(Reply(self._id, pack(result)), sequence=self.sequence)
        except Exception as error:  # noqa: BLE001 it is over the bound, say: nobody else would tell the asker
            self.peer._fault(self, error)

    def on_arrival(self, wake: Callable[[], None]) -> None:
        """Call `wake` from now on once for all of the asker's items that came together, and at the end: for one who takes them with `arrived`."""
        self.way().on_arrival(wake)

    def arrived(self) -> Iterator[msgspec.Raw]:
        """Take the items that have come, one after the other as they are asked for."""
        while self._inbox.held:
            yield self._inbox.pop()[0]

    @property
    def has_no_more(self) -> bool:
        """Whether all of the asker's items have been taken, and none will come."""
        return self._inbox.ended and not self._inbox.held

    async def receive(self, type_: type[T]) -> T | None:
        """Return the asker's next item, None when it has no more."""
        item = await self._inbox.get()
        if item is None:
            return None
        try:
            return msgspec.msgpack.decode(item[0], type=type_)
        except UNDECODABLE as error:
            raise CallerError(f"an item sent to {self.op} is wrong: {error}") from error
