"""Visitors: mounts of other nodes, served by the node that owns the tree. What they are answered is in the log before, since they outlive this machine."""

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from unios.errors import CallerError, Denied
from unios.fuse import abi, replies
from unios.fuse.abi import Op
from unios.fuse.decoding import decode
from unios.fuse.requests import Request
from unios.services.files.knowing import Knowing
from unios.services.files.owning import Owning
from unios.services.files.replicating import Replicating, Then
from unios.services.files.serving import Serving
from unios.wire.filing import Ask, Stay, Told, Unmounted
from unios.wire.operations import Accepted, Empty
from unios.wire.peer import Call

GRACE_S: Final = 10.0
"""So long a node whose connection has ended may take to come back, before its locks and open files are gone."""
THREADS: Final = 4
WRITING: Final = frozenset({Op.WRITE, Op.FALLOCATE})
"""Whoever has written goes on when this machine does not: so he is answered when the bytes are on other disks too."""
UNANSWERED: Final = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})
NAMED: Final = frozenset({Op.LOOKUP, Op.RENAME, Op.RENAME2, Op.LINK, Op.UNLINK})


class Visitor:
    """A mount of another node. Its Linux keeps nothing: it asks each time."""

    kept = replies.NOT_KEPT
    open_flags = int(abi.Opened.DIRECT_IO)

    def __init__(self, number: int, node: str, serving: Serving, replicating: Replicating, sync: Callable[[int, Then], None]) -> None:
        self.number, self.node = number, node
        self.knowing = Knowing(serving.volume)
        self._volume, self._replicating, self._sync, self._loop = serving.volume, replicating, sync, replicating.loop
        self._waiting: dict[int, asyncio.Future[Told]] = {}
        self._lock = threading.Lock()

    def wait(self, unique: int) -> "asyncio.Future[Told]":
        """Return what a request will be answered."""
        made: asyncio.Future[Told] = self._loop.create_future()
        with self._lock:
            self._waiting[unique] = made
        return made

    def answer(self, request: Request, *parts: bytes | memoryview) -> None:
        self._tell(request, Told(0, b"".join(parts)))

    def refuse(self, request: Request, number: int) -> None:
        self._tell(request, Told(number))

    def _tell(self, request: Request, told: Told) -> None:
        with self._lock:
            waiting = self._waiting.pop(request.unique, None)
        if waiting is None:
            return

        def settle(error: OSError | None) -> None:
            self._loop.call_soon_threadsafe(_settle, waiting, told if error is None else Told(error.errno or errno.EIO))

        dirty = request.op == Op.READ and self._volume.staging.is_dirty(request.node)
        if (dirty or request.op in WRITING) and not told.error:
            self._sync(request.node, settle)
        else:
            self._replicating.when(self._volume.journal.at, settle)

    def opens(self, ino: int, flags: int) -> None: ...

    def closes(self, ino: int, flags: int) -> None: ...


def _settle(waiting: "asyncio.Future[Told]", told: Told) -> None:
    if not waiting.done():
        waiting.set_result(told)


class Visitors:
    """Those of one tree. `holds`: whether nobody else can own it now."""

    def __init__(self, owning: Owning, holds: Callable[[], bool]) -> None:
        self._owning, self._holds = owning, holds
        self._serving, self._replicating = owning.serving, owning.replicating
        self._loop = owning.loop
        self._pool = ThreadPoolExecutor(THREADS, "visitors")
        self._all: dict[int, Visitor] = {}
        self._here: dict[str, int] = {}
        """How many connections of each node there are."""

    async def serve(self, stamp: Accepted, call: Call) -> object:
        """Answer the file service of another node."""
        if not stamp.privileged:
            raise Denied("the tree of files is asked by the system's own services; a program uses a mount")
        match call.op:
            case "ask":
                return await self._ask(stamp, call.decode(Ask))
            case "stay":
                await self._stay(stamp.node, call.decode(Stay), call)
                return Empty()
            case "unmounted":
                self._leave(call.decode(Unmounted).mount)
                return Empty()
        raise CallerError(f"the file service has no operation {call.op[:80]}")

    async def _ask(self, stamp: Accepted, ask: Ask) -> Told:
        while not self._holds():
            await asyncio.sleep(0.02)
        data = bytearray(ask.data)
        if ask.again:
            data[15] |= abi.RESENT >> 56
        request = decode(memoryview(data))
        visitor = self._visitor(stamp.node, ask.mount, known=ask.known)
        if request.op in UNANSWERED:
            self._pool.submit(self._one, visitor, request)
            return Told(-1)
        waiting = visitor.wait(request.unique)

        def begin() -> None:
            self._pool.submit(self._one, visitor, request)

        self._owning.recall(self._involved(request), begin)
        return await waiting

    def _visitor(self, node: str, number: int, *, known: bool) -> Visitor:
        if (visitor := self._all.get(number)) is not None:
            return visitor
        with self._serving.volume.lock:
            visitor = self._all.get(number)
            if visitor is None:
                visitor = self._all[number] = Visitor(number, node, self._serving, self._replicating, self._owning.sync)
                if known:
                    visitor.knowing.adopted()
            return visitor

    def _one(self, visitor: Visitor, request: Request) -> None:
        self._serving.one(visitor, request)

    def _involved(self, request: Request) -> tuple[int, ...]:
        """Return the files of which the newest bytes, or length, matter to a request."""
        found = [request.node]
        if request.op in NAMED:
            found.append(self._serving.volume.state.entries(request.node).get(request.body.name, 0))
        return tuple(ino for ino in found if ino)

    @property
    def numbers(self) -> set[int]:
        """Those of all of them."""
        return set(self._all)

    async def _stay(self, node: str, stay: Stay, call: Call) -> None:
        for number in stay.mounts if stay.known else ():
            await asyncio.to_thread(self._visitor, node, number, known=True)
        self._here[node] = self._here.get(node, 0) + 1
        try:
            await call.peer.closed()
        finally:
            self._here[node] -= 1
            self._loop.call_later(GRACE_S, self._look, node)

    def _look(self, node: str) -> None:
        if not self._here.get(node):
            for number in [number for number, visitor in self._all.items() if visitor.node == node]:
                self._leave(number)

    def _leave(self, number: int) -> None:
        visitor = self._all.pop(number, None)
        if visitor is not None:
            with self._serving.volume.lock:
                self._serving.locking.gone(number)
                visitor.knowing.leave()

    def __len__(self) -> int:
        return len(self._all)
