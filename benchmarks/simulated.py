"""Simulated nodes: what a node's kernel and services have of the store, and do to it, by the shipped mirrors, views and gateways, without their processes.

A node here has the records that a node writes, a lease, the kernel's mirrors and the views of its two services. It runs nothing, and its renewals are asked
for by whoever drives it.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from unios import __version__
from unios.core.nodes import Alive, NodeRecord, alive_key, node_key
from unios.core.processes import ProcessRecord
from unios.core.quorum import PREFIX as QUORUM
from unios.core.quorum import QuorumRecord
from unios.core.rules import PREFIX as RULES
from unios.core.rules import Rule
from unios.errors import NotFound, OutcomeUnknown, Unavailable
from unios.ids import LeaseId
from unios.kernel.node import CALM_MS
from unios.kernel.ports import PortRecord, port_key
from unios.services import recovery
from unios.services.view import View
from unios.store.client import StoreClient
from unios.store.mirror import Mirror
from unios.store.model import Put, Transaction
from unios.store.sharing import Shared, SharingClient
from unios.wire.peer import Peer
from unios.wire.transport import SocketTransport

LEASE_MS = 3_600_000
"""Renewals are counted, not timed: no lease of a simulated node ends because this machine is slow."""
GIB = 2**30
USERS = ("root", "*")

Open = Callable[[], Awaitable[Peer]]


ATTEMPTS = 50


async def persisted(work: Callable[[], Awaitable[object]]) -> None:
    """Do it again while the store, on processors that hundreds of gateways share, answers too late."""
    for _attempt in range(ATTEMPTS):
        try:
            await work()
            return
        except (Unavailable, OutcomeUnknown, NotFound):
            await asyncio.sleep(0.2)
    raise RuntimeError("the store does not answer")


class SimulatedNode:
    """One of them. `connect`: to the store's process. `far`: that is of another machine, and the node has one connection for kernel and services."""

    def __init__(self, number: int, connect: Open, *, far: bool) -> None:
        self.name = f"node{number}"
        self.store = SharingClient(connect) if far else StoreClient(connect, timeout_ms=60_000)
        open_service = _by_way_of(self.store.shared) if isinstance(self.store, SharingClient) else connect
        self._lease = LeaseId(0)
        self._mirrors: list[Mirror[Any]] = [
            Mirror(self.store, "/nodes/", NodeRecord),
            Mirror(self.store, "/alive/", Alive),
            Mirror(self.store, "/processes/", ProcessRecord, calm_ms=CALM_MS, hurries=True),
            Mirror(self.store, "/ports/", PortRecord),
            Mirror(self.store, RULES, Rule),  # type: ignore[arg-type]
            Mirror(self.store, QUORUM, QuorumRecord),
        ]
        kernel: Any = SimpleNamespace(folder=SimpleNamespace(name=self.name), connect=lambda _name: open_service())
        self.views = [View(kernel), View(kernel, calm_ms=recovery.CALM_MS)]
        self._tasks: list[asyncio.Task[None]] = []

    async def register(self) -> None:
        """Write what a node writes when it comes."""
        self._lease = await self.store.lease_grant(LEASE_MS)
        record = NodeRecord(
            self.name,
            f"machine-{self.name}",
            1,
            addresses=(f"10.0.{len(self.name)}.{self._lease % 250}:7700",),
            users=USERS,
            cores=8,
            version=__version__,
            memory_bytes=32 * GIB,
            joined_ms=1,
            certificate=hashlib.sha256(self.name.encode()).hexdigest(),
        )
        await self.store.transact(
            Transaction(
                (),
                (
                    Put(node_key(self.name), msgspec.msgpack.encode(record)),
                    Put(alive_key(self.name), msgspec.msgpack.encode(Alive(1)), self._lease),
                    *(
                        Put(port_key(port, self.name), msgspec.msgpack.encode(PortRecord(port, self.name, "root", 0o666)), self._lease)
                        for port in ("placement", "recovery")
                    ),
                ),
            )
        )

    def follow(self) -> None:
        """Begin to keep the mirrors and views."""
        loop = asyncio.get_running_loop()
        self._tasks += [loop.create_task(mirror.run()) for mirror in self._mirrors]
        self._tasks += [loop.create_task(view.run()) for view in self.views]

    async def wait_complete(self) -> None:
        for mirror in self._mirrors:
            await mirror.wait_complete()
        for view in self.views:
            await view.wait_complete()

    async def renew(self) -> None:
        await persisted(lambda: self.store.lease_renew(self._lease))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in (self.store, *(view.store for view in self.views)):
            await client.close()


def _by_way_of(shared: Shared) -> Open:
    """Return how a service connects where its kernel shares its connection."""

    async def connect() -> Peer:
        ours, theirs = socket.socketpair()
        shared.serve(SocketTransport(theirs))
        peer = Peer(SocketTransport(ours), role="simulated service")
        await peer.start()
        return peer

    return connect


def at_socket(path: Path) -> Open:
    """Return how to connect to a store's process at a socket."""

    async def connect() -> Peer:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                sock.setblocking(True)
                sock.connect(os.fspath(path))
                break
            except BlockingIOError:  # its backlog is full
                await asyncio.sleep(0.01)
        sock.setblocking(False)
        peer = Peer(SocketTransport(sock), role="simulated node")
        with contextlib.suppress(asyncio.CancelledError):
            await peer.start()
        return peer

    return connect
