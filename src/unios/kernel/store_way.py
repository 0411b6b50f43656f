"""The way from a kernel to the store: straight where its machine has one, else over a link to a kernel whose machine has."""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from unios.core import sequences
from unios.core.nodes import covers
from unios.errors import Unavailable, UniosError
from unios.kernel import runfiles
from unios.kernel.clocks import boot_ms
from unios.kernel.port_operations import STORE
from unios.kernel.system import SQLITE
from unios.limits import STORE_BACK_MS, STORE_COMES_LOOK_S
from unios.store.client import StoreClient
from unios.store.sharing import Shared, SharingClient
from unios.wire.doors import connect_unix
from unios.wire.operations import Connect, Connected
from unios.wire.peer import Peer
from unios.wire.pipes import StreamTransport, join
from unios.wire.transport import SocketTransport

if TYPE_CHECKING:
    from unios.kernel.node import Node


class StoreWay:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._shared: Shared | None = None

    def client(self) -> StoreClient:
        """Return the kernel's own client. Where the machine has no store it has a connection over a link, which the node's services share."""
        if self._node.system.has_store:
            return StoreClient(self.peer)
        client = SharingClient(self.peer)
        self._shared = client.shared
        return client

    async def peer(self) -> Peer:
        """Return a connection to the store for this kernel. Unavailable."""
        role = f"kernel of {self._node.name}"
        await self._look()
        peer = Peer(SocketTransport(await self._here()) if self._node.system.has_store else await self._link(), role=role)
        await peer.start()
        return peer

    async def straight(self) -> Peer:
        """Return a connection to the store's process of this machine, which there is though the machine is not said to have one any more. Unavailable."""
        peer = Peer(SocketTransport(await self._here()), role=f"kernel of {self._node.name}")
        await peer.start()
        return peer

    async def elsewhere(self) -> Peer:
        """Return a connection to the store by way of another machine, whatever this one has. Unavailable."""
        peer = Peer(await self._link(), role=f"kernel of {self._node.name}")
        await peer.start()
        return peer

    async def connection(self, *, near: bool = False) -> socket.socket:
        """Return a connection to the store for a service or another kernel. `near`: not by way of yet another machine. Unavailable."""
        await self._look()
        if self._node.system.has_store:
            return await self._here()
        if near:
            raise Unavailable(f"the machine of {self._node.name} has no store")
        ours, far = socket.socketpair()
        if self._shared is not None:
            self._shared.serve(SocketTransport(far))
        else:
            join(SocketTransport(far), await self._link())
        return ours

    async def _look(self) -> None:
        """The machine's gateway may have been given up, or be there again, since the last look at what the machine knows."""
        with contextlib.suppress(OSError, UniosError):
            await self._node.engine_moving.look_if_changed()

    async def _here(self) -> socket.socket:
        """Connect to the store of this machine; one that is being started again is waited for, STORE_BACK_MS at most. Unavailable."""
        folder = self._node.home.store
        until = boot_ms() + STORE_BACK_MS
        while True:
            try:
                return connect_unix(folder / "sock", timeout_s=0)
            except OSError as error:
                why = runfiles.text(folder / "failed")
                if why or boot_ms() >= until:
                    raise Unavailable(why or f"the store is being restarted: {error.strerror}") from error
            await asyncio.sleep(STORE_COMES_LOOK_S)

    async def _link(self) -> StreamTransport:
        """Reach the store through a kernel of a machine that has one."""
        node = self._node
        why, of_keeper = "no node of its machine is known", ""
        for name in self._nodes():
            if node.system.has_store and node.system.machines.get(name) == node.system.machine:
                continue  # it has no other way than this one
            try:
                stream = await node.links.stream(name, "ports.relay", Connect(STORE), user=node.user, sequence=sequences.STORE)
                if not self.keeps(name):
                    stream.close()
                    why = f"{name} is no node that this one may take the store from"
                    continue
                await stream.next(Connected)
                return StreamTransport(stream)
            except UniosError as error:
                why = str(error)
                of_keeper = of_keeper or (why if self.keeps(name) else "")  # the others can only say that it is not theirs
        raise Unavailable(f"the store cannot be reached: {of_keeper or why}")

    def _nodes(self) -> list[str]:
        """Return whom to ask, in that order. With etcd any machine may have a gateway, and says so itself."""
        node = self._node
        linked = [name for name in node.links.names() if self.keeps(name)]
        embedded = node.system.engine == SQLITE
        known = [name for name, machine in node.system.machines.items() if embedded and machine == node.system.store_machine and name not in linked]
        return linked + [name for name in known or node.system.members if name not in linked and name != node.name]

    def keeps(self, name: str) -> bool:
        """Whether the certificate of the node at the other end of that link is of a machine that may have the store, and good for all for whom this node
        speaks."""
        peer, node = self._node.links.identity(name), self._node
        if peer is None or not covers(peer.users, node.identity.users):
            return False
        return node.system.engine != SQLITE or peer.machine == node.system.store_machine
