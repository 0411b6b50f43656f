"""The caller's side of a kernel in asyncio, as services use it: a connection that comes back, ports to listen on and to connect to.

When the kernel restarts, the connection is made again and every port is opened again under the same name; connections that were
brokered before go on, since their descriptors are the callers' own.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from unios.client.listening import stamp_of
from unios.errors import OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.wire import chained
from unios.wire.beating import beat_while_turning
from unios.wire.doors import connect_unix, receive_descriptors
from unios.wire.holding import Holding
from unios.wire.home import NodeFolder
from unios.wire.operations import Accepted, Connect, Listen
from unios.wire.peer import Call, Peer
from unios.wire.transport import SocketTransport

T = TypeVar("T")
PortHandler = Callable[[Accepted, Call], Awaitable[object]]


class Kernel:
    """A connection to one kernel. `run` keeps it; calls wait until it is there."""

    def __init__(self, folder: NodeFolder, *, role: str) -> None:
        self.folder = folder
        self.role = role
        self._peer: Peer | None = None
        self._up = asyncio.Event()
        self._ports: dict[str, tuple[int, PortHandler]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding = Holding()

    async def run(self) -> None:
        """Keep the connection; ends only by cancellation."""
        while True:
            try:
                peer = Peer(SocketTransport(connect_unix(self.folder.door)), role=self.role)
                await peer.start()
                self._peer = peer
                for name in self._ports:
                    await self._open(name)
                self._up.set()
                await peer.closed()
            except (OSError, UniosError):
                pass
            self._up.clear()
            await asyncio.sleep(0.02)

    async def call(self, op: str, body: object = None, type_: type[T] | Any = Any, *, node: str = "", timeout_ms: int = 5_000) -> Any:
        """Ask the kernel, or through it the kernel of `node`."""
        return await (await self._connected()).call(op, body, type_, node=node, timeout_ms=timeout_ms)

    async def call_for_descriptors(self, op: str, body: object, *, timeout_ms: int = 5_000) -> tuple[Any, list[int]]:
        """Ask this kernel; return the raw answer and its descriptors, which are the caller's to close."""
        return await (await self._connected()).call_with_descriptors(op, body, timeout_ms=timeout_ms)

    async def call_with(self, descriptor: int, op: str, body: object, *, timeout_ms: int = 5_000) -> None:
        """Tell this kernel something, with a duplicate of a descriptor."""
        await (await self._connected()).call(op, body, descriptors=(descriptor,), timeout_ms=timeout_ms)

    async def _connected(self) -> Peer:
        await self._up.wait()
        if self._peer is None:
            raise Unavailable("the kernel is gone")
        return self._peer

    async def connect(self, name: str, *, wait_ms: int = 0) -> Peer:
        """Return a started peer on a connection to a port."""
        peer = await self._connected()
        _raw, descriptors = await peer.call_with_descriptors("ports.connect", Connect(name, wait_ms), timeout_ms=wait_ms + 5_000)
        connection = Peer(SocketTransport(socket.socket(fileno=descriptors[0])), role=self.role)
        await connection.start()
        return connection

    async def listen(self, name: str, mode: int, handler: PortHandler) -> None:
        """Open a port, now and after every restart of the kernel; each request on it goes to `handler(stamp, call)`."""
        self._ports[name] = (mode, handler)
        if self._up.is_set():
            await self._open(name)

    async def _open(self, name: str) -> None:
        if self._peer is None:
            return
        mode, handler = self._ports[name]
        _raw, descriptors = await self._peer.call_with_descriptors("ports.listen", Listen(name, mode), timeout_ms=5_000)
        self._spawn(self._accept(socket.socket(fileno=descriptors[0]), handler))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket, handler: PortHandler) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        with listener:
            while True:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_reader(listener.fileno(), _settle, ready)
                try:
                    await ready
                finally:
                    loop.remove_reader(listener.fileno())
                try:
                    packet, descriptors = receive_descriptors(listener, 4096, 1)
                except BlockingIOError:
                    continue
                except OSError:
                    return
                if not packet:
                    return
                stamp = stamp_of(packet)
                if stamp is not None and descriptors:
                    self._spawn(self._serve(stamp, socket.socket(fileno=descriptors[0]), handler))
                else:  # this process is out of descriptors, or has a kernel that it does not understand: one connection is lost, not the port
                    for descriptor in descriptors:
                        os.close(descriptor)

    async def _serve(self, stamp: Accepted, sock: socket.socket, handler: PortHandler) -> None:
        held = None if stamp.privileged else self._holding.of(stamp.user)
        peer = Peer(SocketTransport(sock), lambda call: handler(stamp, call), role=self.role, allowance=held, held=lambda _user: held)
        with contextlib.suppress(ProtocolError, Unavailable, OutcomeUnknown):
            await peer.start()
            await peer.closed()


def _settle(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def serve(folder: NodeFolder, beat: Callable[[], None], beat_s: float, service: Callable[[Kernel], Awaitable[bool | None]], role: str) -> int:
    """Run a service until it is stopped: its loop beats, its connection comes back, its failure is its end (it is restarted).

    A service that returns True is not needed (any more): the exit code is 0.
    """
    needless = False

    async def work() -> None:
        nonlocal needless
        kernel = Kernel(folder, role=role)
        beat_while_turning(beat_s, beat)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(kernel.run())
            needless = bool(await service(kernel))
            running.cancel()

    chained.run(work())
    if needless:
        return 0
    print(f"{role} ({os.getpid()}) ended by itself", file=sys.stderr)
    return 1
