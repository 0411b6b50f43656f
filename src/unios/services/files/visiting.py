"""Visiting: the mounts of a node that does not own the tree. What Linux asks goes to the owner as it is, and his answer back; nothing is kept here.

An owner that goes away is asked again when there is another, or the same one anew: what had been done is not done twice.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

from unios.client.aio import Kernel
from unios.errors import UniosError
from unios.fuse.channel import Channel
from unios.fuse.channel import Unmounted as ChannelUnmounted
from unios.fuse.requests import Request
from unios.services.files.mounts import give_up
from unios.services.files.visitors import UNANSWERED
from unios.wire.filing import PORT, Ask, Stay, Told, Unmounted
from unios.wire.operations import Empty
from unios.wire.peer import Peer

AGAIN_S: Final = 0.02
FROZEN_S: Final = 0.02
CONNECT_MS: Final = 1_000


class Visiting:
    """The way to the owner, for all mounts of this node."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._peer: Peer | None = None
        self._connecting = asyncio.Lock()
        self.owners = 0
        """How many connections to an owner there have been."""
        self.mounts: set[int] = set()
        """The numbers of those that are served."""
        self._staying: set[asyncio.Task[None]] = set()

    async def peer(self) -> Peer:
        """Return a connection to the owner, whoever that is; waits for one. UniosError."""
        async with self._connecting:
            if self._peer is None or self._peer.is_closed:
                peer = await self._kernel.connect(PORT, wait_ms=CONNECT_MS)
                task = asyncio.get_running_loop().create_task(self._stay(peer))
                self._staying.add(task)
                task.add_done_callback(self._staying.discard)
                self._peer, self.owners = peer, self.owners + 1
            return self._peer

    async def _stay(self, peer: Peer) -> None:
        """Be there, and be there again when the connection has ended: an owner that hears nothing of a node forgets what its programs hold."""
        with contextlib.suppress(UniosError):
            await peer.call("stay", Stay(self._kernel.folder.name, tuple(self.mounts), self.owners > 1), Empty)
        while self.mounts and self._peer is peer:
            with contextlib.suppress(UniosError):
                await self.peer()
            await asyncio.sleep(AGAIN_S)

    async def tell(self, mount: int, data: bytes) -> None:
        """Pass on what has no answer, once: what is counted must not be counted twice."""
        with contextlib.suppress(UniosError):
            await (await self.peer()).call("ask", Ask(mount, data), Told)

    async def ask(self, mount: int, data: bytes, *, known: bool) -> Told:
        """Ask, until there is an answer."""
        again, owners = False, self.owners
        while True:
            try:
                peer = await self.peer()
                told: Told = await peer.call("ask", Ask(mount, data, again, known or self.owners > max(1, owners)), Told)
                return told
            except UniosError:
                again = True
                await asyncio.sleep(AGAIN_S)


class VisitingMount:
    """One mount. `holds`: whether this node's lease does; while it does not nothing is passed on. `gone` is called when it is mounted no more."""

    def __init__(
        self,
        number: int,
        channel: Channel,
        visiting: Visiting,
        loop: asyncio.AbstractEventLoop,
        holds: Callable[[], bool],
        gone: Callable[["VisitingMount"], None],
        *,
        known: bool,
    ) -> None:
        self.number, self.channel = number, channel
        self._visiting, self._holds, self._gone, self._known = visiting, holds, gone, known
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self.keeps = False
        visiting.mounts.add(number)

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"mount-{self.number}", daemon=True).start()

    def _run(self) -> None:
        try:
            while (request := self.channel.read()) is not None:
                while not self._holds():
                    time.sleep(FROZEN_S)
                self._loop.call_soon_threadsafe(self._begin, request, self.channel.raw)
        except ChannelUnmounted:
            self._loop.call_soon_threadsafe(self._leave)
        except BaseException:  # noqa: BLE001 as in LocalMount
            give_up()

    def _begin(self, request: Request, data: bytes) -> None:
        task = self._loop.create_task(self._ask(request, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, request: Request, data: bytes) -> None:
        if request.op in UNANSWERED:
            await self._visiting.tell(self.number, data)
            return
        told = await self._visiting.ask(self.number, data, known=self._known)
        with contextlib.suppress(ChannelUnmounted):
            if told.error:
                self.channel.refuse(request, told.error)
            else:
                self.channel.answer(request, told.data)

    def _leave(self) -> None:
        self._visiting.mounts.discard(self.number)

        async def tell() -> None:
            with contextlib.suppress(UniosError):
                await (await self._visiting.peer()).call("unmounted", Unmounted(self.number), Empty)

        task = self._loop.create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._gone(self)
