"""Connections of clients to the store in the simulation of watches: in order, each message once or not at all, cut at any moment. The shipped client and
the shipped requests of the store are at their ends."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

import msgspec

from tests.sim.world import World
from unios.errors import OutcomeUnknown, Unavailable, UniosError
from unios.store.server import Requests

WINDOW: Final = 3
"""So many items of a stream may be under way or unread."""
HELD_MS: Final = 20.0


class Ended(Protocol):
    """A connection, as its two directions know it."""

    rng: random.Random
    is_closed: bool


class Pipe:
    """One direction. What is under way when a cut begins waits for its end; when the connection ends it is lost."""

    def __init__(self, world: World, line: Ended, source: str, target: str) -> None:
        self._world, self._line, self._way = world, line, (source, target)
        self._queue: deque[Callable[[], None]] = deque()

    def push(self, deliver: Callable[[], None]) -> None:
        self._queue.append(deliver)
        if len(self._queue) == 1:
            self._later()

    def _later(self) -> None:
        self._world.after(self._world.slow * self._line.rng.expovariate(1 / 2.0), self._carry)

    def _carry(self) -> None:
        if self._line.is_closed:
            return
        if not self._world.passes(*self._way):
            self._world.after(HELD_MS, self._carry)
            return
        self._queue.popleft()()
        if self._queue:
            self._later()


class Line:
    """One connection, as the client has it: `Peer`'s methods that a StoreClient calls."""

    def __init__(self, world: World, name: str, number: int, requests: Requests) -> None:
        self.world, self.name, self._requests = world, name, requests
        self.rng = random.Random(f"{world.seed} {name} {number}")
        self.is_closed = False
        self.why = ""
        self._ends: list[Callable[[], None]] = []
        self.up = Pipe(world, self, name, "store")
        self.down = Pipe(world, self, "store", name)

    def close(self, why: str = "closed here") -> None:
        """End it for both sides. Idempotent."""
        if not self.is_closed:
            self.is_closed, self.why = True, why
            for end in self._ends:
                end()
            self._ends.clear()

    def at_end(self, work: Callable[[], None]) -> None:
        self._ends.append(work)

    async def call(self, op: str, body: object, type_: Any, *, timeout_ms: int) -> Any:
        """Ask once. Raises OutcomeUnknown if no answer comes."""
        if self.is_closed:
            raise Unavailable(f"the connection has ended: {self.why}")
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def ended() -> None:
            if not answered.done():
                answered.set_exception(OutcomeUnknown("the connection ended"))

        def settle(result: Any) -> None:
            if not answered.done():
                answered.set_exception(result) if isinstance(result, UniosError) else answered.set_result(result)

        self.at_end(ended)
        self.up.push(lambda: ServedCall(self, self._requests, op, body).begin(lambda result: self.down.push(lambda: settle(result))))
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                return await answered
        except TimeoutError:
            raise OutcomeUnknown("no answer in time") from None

    def stream(self, op: str, body: object) -> "ItemStream":
        if self.is_closed:
            raise Unavailable(f"the connection has ended: {self.why}")
        return ItemStream(self, self._requests, op, body)


class ItemStream:
    """A request with many answers, at the asking side."""

    def __init__(self, line: Line, requests: Requests, op: str, body: object) -> None:
        self._line = line
        self._came: asyncio.Queue[Any] = asyncio.Queue()
        self._call = ServedCall(line, requests, op, body, self._came.put_nowait)
        line.at_end(lambda: self._came.put_nowait(Unavailable("the connection ended")))
        line.up.push(lambda: self._call.begin(lambda result: line.down.push(lambda: self._came.put_nowait(result))))

    async def items(self, type_: Any) -> AsyncIterator[Any]:
        """Yield what comes. Raises what the store says, or Unavailable when the connection ends."""
        while True:
            item = await self._came.get()
            if not isinstance(item, msgspec.Raw):
                raise item if isinstance(item, UniosError) else Unavailable("the stream ended")
            self._line.up.push(self._call.credit)
            yield msgspec.msgpack.decode(item, type=type_)

    def close(self) -> None:
        self._line.up.push(self._call.end)


class ServedCall:
    """A request at the answering side, as the store's `Requests` see it. `item`: takes an item of a stream where it was asked for."""

    def __init__(self, line: Line, requests: Requests, op: str, body: object, item: Callable[[Any], None] | None = None) -> None:
        self.op, self._line, self._requests, self._body, self._item = op, line, requests, body, item
        self.body = b""
        """Its size is counted, in bytes; it is never read."""
        self._room = WINDOW
        self._credited = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, answer: Callable[[Any], None]) -> None:
        async def serve() -> None:
            try:
                answer(await self._requests.handle(self))  # type: ignore[arg-type]
            except UniosError as refused:
                answer(refused)

        self._task = asyncio.get_running_loop().create_task(serve())
        self._line.at_end(self.end)

    def decode(self, _type: Any) -> Any:
        return self._body

    def send_now(self, raw: msgspec.Raw) -> bool:
        """Send an item if there is room."""
        if self._room <= 0 or self._item is None:
            return False
        self._room -= 1
        take = self._item
        self._line.down.push(lambda: take(raw))
        return True

    async def send(self, raw: msgspec.Raw) -> None:
        """Send an item when there is room."""
        while not self.send_now(raw):
            self._credited.clear()
            await self._credited.wait()

    def credit(self) -> None:
        self._room += 1
        self._credited.set()

    def end(self) -> None:
        """It is withdrawn."""
        if self._task is not None:
            self._task.cancel()
