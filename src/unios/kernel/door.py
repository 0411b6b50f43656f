"""The kernel's door: the Unix socket where clients of this machine come in.

Each connection is identified once, by Linux. The number of connections is bounded: over it, the newest is told so and let go.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from unios.errors import Unavailable, UniosError
from unios.kernel.callers import Caller, identify
from unios.limits import CLIENTS_MAX
from unios.wire.doors import listen_unix
from unios.wire.home import NodeFolder
from unios.wire.peer import Call, Peer
from unios.wire.transport import SocketTransport

ClientHandler = Callable[[Caller, Call], Awaitable[object]]
TreeOf = Callable[[int, int], tuple[int, int]]


class Door:
    """Open for everybody on a node that runs as root, else for its owner only."""

    def __init__(self, folder: NodeFolder, node: str, handler: ClientHandler, tree_of: TreeOf) -> None:
        self._node = node
        self._handler = handler
        self._tree_of = tree_of
        self._clients: set[Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = listen_unix(folder.door, mode=0o666 if os.geteuid() == 0 else 0o600)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    @property
    def clients(self) -> int:
        return len(self._clients)

    def _accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        try:
            caller = identify(sock, self._node, self._tree_of)
        except OSError:
            sock.close()
            return
        full = len(self._clients) >= CLIENTS_MAX
        if len(self._clients) >= 2 * CLIENTS_MAX:
            sock.close()
            return
        peer = Peer(SocketTransport(sock), _too_many if full else lambda call: self._handler(caller, call), role="kernel")
        self._clients.add(peer)
        try:
            await peer.start()
            if full:
                await asyncio.sleep(1.0)  # time for it to ask and be told
                peer.close("too many clients")
            await peer.closed()
        except UniosError:
            pass
        finally:
            peer.close()
            self._clients.discard(peer)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        for peer in list(self._clients):
            peer.close("the kernel stops")


async def _too_many(call: Call) -> object:
    raise Unavailable(f"this node has {CLIENTS_MAX} clients, which is its limit")
