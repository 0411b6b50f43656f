"""What stands behind a store's socket, and how another engine takes its place while whoever asks keeps his connection.

While it is held everything that is asked waits, but renewals of leases, which are answered as before: no lease may end by it. What waits is asked of the
engine that stands behind the socket then. Watches are cut off by the engine that goes.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from unios.errors import CallerError, Elsewhere, OutcomeUnknown, Unavailable
from unios.store.requests import MoveRequest
from unios.store.tally import Tally
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.store.server import Answering

GOES_ON: Final = ("store.renew", "store.move", "store.give_up")
"""What is answered also while everything else waits."""
GIVE_UP_S: Final = 0.1
"""So long it is said that the gateway has been given up, before its process ends."""
LASTS: Final = ("store.watch", "store.dump", *GOES_ON)
"""What is not waited for: a watch lasts, a copy is of its own moment."""


class Side(NamedTuple):
    """An engine at work. `run` serves until it is cancelled; `close` comes after that."""

    requests: "Answering"
    run: Callable[[], Coroutine[Any, Any, None]]
    close: Callable[[], Awaitable[None]]


Mover = Callable[["Switch", MoveRequest], Awaitable[str]]
"""Has another engine take the place of the one that is there; returns which it is."""
GIVEN_UP: Final = "this machine's gateway to etcd has been given up: the store is asked by way of another machine"


class Switch:
    """Answers as the engine does that stands behind it now."""

    def __init__(self, side: Side, mover: Mover | None = None) -> None:
        self._side = side
        self._mover = mover
        self._moving = asyncio.Lock()
        self._move_task: asyncio.Task[str] | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._before: list[Side] = []
        self._given_up = False

    @property
    def side(self) -> Side:
        """Return what is asked now."""
        return self._side

    @property
    def tally(self) -> Tally:
        return self._side.requests.tally

    async def handle(self, call: Call) -> object:
        """Serve one request, when nothing is held any more."""
        if call.op == "store.move":
            return await self._move(call.decode(MoveRequest))
        if call.op == "store.give_up":
            return await self._give_up()
        if call.op not in GOES_ON:
            await self._open.wait()
        if self._given_up:
            raise Elsewhere(GIVEN_UP)
        if call.op == "store.renew":
            return await self._renew(call)
        if call.op in LASTS:
            return await self._side.requests.handle(call)
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._side.requests.handle(call)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _renew(self, call: Call) -> object:
        """Serve a renewal; one that the engine that goes has not answered is asked of the one that comes: it may be done twice."""
        while True:
            side = self._side
            try:
                return await side.requests.handle(call)
            except (Unavailable, OutcomeUnknown):
                if side is self._side:
                    raise

    def at_once(self, call: Call) -> bool:
        """Nothing but renewals while everything is held."""
        return (self._open.is_set() or call.op in GOES_ON) and not self._given_up and self._side.requests.at_once(call)

    async def _move(self, request: MoveRequest) -> str:
        if self._mover is None:
            raise CallerError("this store cannot be moved to another engine")
        self._move_task = asyncio.get_running_loop().create_task(self._move_alone(self._mover, request))
        return await asyncio.shield(self._move_task)  # who asked may go: it is done all the same

    async def _move_alone(self, mover: Mover, request: MoveRequest) -> str:
        async with self._moving:
            return await mover(self, request)

    async def _give_up(self) -> int:
        """Answer what is under way, and from then on nothing; then this process ends."""
        async with self._moving, self.held():
            self._given_up = True
        asyncio.get_running_loop().call_later(GIVE_UP_S, os.kill, os.getpid(), signal.SIGTERM)
        return 0

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Let nothing through; begins when what was under way has been answered."""
        self._open.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._open.set()

    def put(self, side: Side, running: asyncio.Task[None]) -> None:
        """From now on that engine is asked, which runs already."""
        before, self._before = self._task, [*self._before, self._side]
        self._side, self._task = side, running
        if before is not None:
            before.cancel()

    async def run(self) -> None:
        """Serve until cancelled, with whichever engine. Raises what ended one that was not replaced."""
        self._task = asyncio.get_running_loop().create_task(self._side.run())
        try:
            while True:
                task = self._task
                await asyncio.wait([task])
                if task is self._task:
                    task.result()
                    raise Unavailable("the engine has ended")
                await self._close_replaced()
        finally:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([self._task])

    async def _close_replaced(self) -> None:
        while self._before:
            await self._before.pop().close()

    async def close(self) -> None:
        await self._close_replaced()
        await self._side.close()
