"""The kernel's door: the Unix socket where clients of this machine come in.

Each connection is identified once, by Linux. Connections are bounded, in all and for each user, and the privileged have places of their own: over a
bound the newest is told so and let go, so that no user's idle connections keep others out.
"""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from unios.errors import Unavailable, UniosError
from unios.kernel.callers import Caller, identify
from unios.limits import CLIENT_FRAMES_BYTES_MAX, CLIENTS_KEPT, CLIENTS_MAX, CLIENTS_PER_USER_MAX, CLIENTS_REFUSED_MAX
from unios.wire.acceptor import Acceptor
from unios.wire.allowances import Allowance
from unios.wire.doors import listen_unix
from unios.wire.holding import Holding
from unios.wire.home import NodeFolder
from unios.wire.peer import Call, Peer
from unios.wire.transport import SocketTransport

ClientHandler = Callable[[Caller, Call], Awaitable[object]]
TreeOf = Callable[[int, int], tuple[int, int]]
REFUSAL_S: Final = 1.0
"""So long one for whom there is no place has to ask and be told."""


class Door:
    """Open for everybody on a node that runs as root, else for its owner only."""

    def __init__(self, folder: NodeFolder, node: str, handler: ClientHandler, tree_of: TreeOf, holding: Holding) -> None:
        """`holding`: what this kernel holds of what users have sent, over links too."""
        self._node, self._holding = node, holding
        self._handler = handler
        self._tree_of = tree_of
        self._clients: set[Peer] = set()
        self._of_user: Counter[int] = Counter()
        """How many connections are served, by uid."""
        self._ordinary = 0
        """How many of those are not privileged."""
        self._allowances: dict[int, Allowance] = {}
        """For what is half there, by uid; of those who are served and not privileged."""
        self._refused = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._acceptor = Acceptor(listen_unix(folder.door, mode=0o666 if os.geteuid() == 0 else 0o600), self._take)

    @property
    def clients(self) -> int:
        return len(self._clients)

    def _take(self, sock: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        try:
            caller = identify(sock, self._node, self._tree_of)
        except OSError:
            sock.close()
            return
        why = self._why_full(caller)
        if why:
            await self._refuse(sock, why)
            return
        self._count(caller, 1)
        allowance = None if caller.privileged else self._allowances.setdefault(caller.uid, Allowance(CLIENT_FRAMES_BYTES_MAX))
        held = None if caller.privileged else self._holding.of(caller.user)
        try:
            await self._keep(
                Peer(
                    SocketTransport(sock),
                    lambda call: self._handler(caller, call),
                    role="kernel",
                    allowance=allowance,
                    held=lambda _user: held,  # who asks is who connected, whatever he says
                )
            )
        finally:
            self._count(caller, -1)

    def _why_full(self, caller: Caller) -> str:
        """Return why there is no place for one more of that user; "" if there is one."""
        if self._of_user.total() >= CLIENTS_MAX or not (caller.privileged or self._ordinary < CLIENTS_MAX - CLIENTS_KEPT):
            return f"this node has {self._of_user.total()} clients, which is its limit"
        if not caller.privileged and self._of_user[caller.uid] >= CLIENTS_PER_USER_MAX:
            return f"{caller.user} has {CLIENTS_PER_USER_MAX} connections to this node, which is the limit"
        return ""

    def _count(self, caller: Caller, by: int) -> None:
        self._of_user[caller.uid] += by
        self._ordinary += 0 if caller.privileged else by
        if not self._of_user[caller.uid]:
            del self._of_user[caller.uid]
            self._allowances.pop(caller.uid, None)

    async def _keep(self, peer: Peer, seconds: float | None = None) -> None:
        self._clients.add(peer)
        try:
            await peer.start()
            if seconds is not None:
                await asyncio.sleep(seconds)
                peer.close("too many clients")
            await peer.closed()
        except UniosError:
            pass
        finally:
            peer.close()
            self._clients.discard(peer)

    async def _refuse(self, sock: socket.socket, why: str) -> None:
        """Let it ask and tell it why not, unless too many are being told."""

        async def too_many(call: Call) -> object:
            raise Unavailable(why)

        if self._refused >= CLIENTS_REFUSED_MAX:
            sock.close()
            return
        self._refused += 1
        try:
            await self._keep(Peer(SocketTransport(sock), too_many, role="kernel"), REFUSAL_S)
        finally:
            self._refused -= 1

    def close(self) -> None:
        self._acceptor.close()
        for peer in list(self._clients):
            peer.close("the kernel stops")
