"""Gateways of other machines, for the store's way back from etcd into a file of one: each is given up first, so that all is asked by way of that machine.

The machine that moves the store writes an attempt (MACHINE.MOVES-NUMBER) into the record MOVING, under its kernel's lease, and has each other machine give up
(`store.forgo`): system.json says so, the gateway's process answers what it was asked and ends, and whoever asked it finds the way over a link. A machine that does
not answer ends the attempt. What came of it each machine asks of that one, whose certificate says that it is it: the store is in its file, or it is in etcd as
before, and the gateway begins again. One that has lost sight of it has its gateway begin by itself, which then has the attempt end, or is told by etcd that
the store has gone (store/etcd/leaving.py).
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.moving import MOVING, attempt_of, has_stayed, machine_of
from unios.core.nodes import NodeRecord, covers
from unios.errors import CallerError, Denied, Unavailable, UniosError
from unios.kernel import cluster, system
from unios.kernel.callers import Caller
from unios.kernel.clocks import boot_ms
from unios.kernel.system import ETCD, SQLITE, NodeFile, SystemFile
from unios.store.client import StoreClient
from unios.store.model import Compare, Delete, Put, Transaction
from unios.store.server import take_lock
from unios.wire.keeping import AskEngine, Forgo, StoreEngine
from unios.wire.operations import Empty
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

FORGO_MS: Final = 10_000
ASK_MS: Final = 5_000
ENDS_S: Final = 5.0
LOOK_S: Final = 0.02
AWAY_MS: Final = 10_000
"""So long the machine that was to have the store does not answer, before a gateway comes back by itself; and again after as long."""


class Gateways:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._heard_ms = 0
        """When the machine that moves the store has answered last; 0: nothing is waited for."""

    # of the machine that moves the store

    @contextlib.asynccontextmanager
    async def given_up(self, client: StoreClient) -> AsyncIterator[tuple[str, tuple[str, ...]]]:
        """Have all other machines without gateways; yields the attempt, and which machines these are. Raises Unavailable: they come back by themselves."""
        node = self._node
        known = system.read(node.home.system_file, SystemFile)
        attempt = attempt_of(known.machine, known.moves, os.urandom(8).hex())
        await self.tidy(client)
        put = Put(MOVING, attempt.encode(), node.leasing.lease)
        try:
            if not (await client.transact(Transaction((Compare(MOVING, "version", "==", 0),), (put,)))).succeeded:
                raise Unavailable("the store is being moved by another machine: wait for it")
            await node.engine_moving.look_if_changed()
            if not (node.system.gateway and node.system.engine == ETCD):  # it was written by way of that other machine, which has the store by now
                raise Unavailable(f"the machine of {node.name} has given up its gateway for another one that moves the store: wait for it")
            machines = await self._others(client)
            await asyncio.gather(*(self._have_forgone(names, attempt) for names in machines.values()))
            yield attempt, tuple(machines)
        finally:
            with contextlib.suppress(UniosError):
                await self.tidy(client)

    async def tidy(self, client: StoreClient) -> None:
        """Take away the record of an attempt of this machine: one who moves the store may be the only one who does. Raises UniosError."""
        found, _revision = await client.range(MOVING)
        for record in found.records:
            if machine_of(record.value.decode(errors="replace")) == self._node.system.machine:
                await client.transact(Transaction((Compare(MOVING, "modified", "==", record.modified),), (Delete(MOVING),)))

    async def _others(self, client: StoreClient) -> dict[str, list[str]]:
        """Return the other machines of the system's nodes, and their nodes."""
        found: dict[str, list[str]] = {}
        after, more = "", True
        while more:
            page, _revision = await client.range("/nodes/", prefix=True, after=after)
            for one in page.records:
                record = msgspec.msgpack.decode(one.value, type=NodeRecord)
                if record.state == "joined" and record.machine != self._node.system.machine:
                    found.setdefault(record.machine, []).append(record.name)
            after, more = page.records[-1].key if page.records else "", page.more
        return found

    async def _have_forgone(self, names: list[str], attempt: str) -> None:
        node, why = self._node, ""
        for name in sorted(names, key=lambda name: not node.links.has(name)):
            try:
                await node.links.call(name, "store.forgo", Forgo(attempt), Empty, user=node.user, timeout_ms=FORGO_MS)
                return
            except UniosError as error:
                why = why or f"{name}: {error}"
        raise Unavailable(f"the store stays in etcd: the machine of {', '.join(names)} may go on writing there ({why}); have it up, or let it leave")

    # of the others

    async def forgo(self, caller: Caller, call: Call) -> object:
        """Serve store.forgo. Raises Denied, CallerError, Unavailable."""
        node, attempt = self._node, call.decode(Forgo).attempt
        if not caller.users or not all(covers(caller.users, users) for users in await asyncio.to_thread(self._users)):
            raise Denied("a gateway is given up for kernels that speak for all for whom the nodes of this machine do")
        if machine_of(attempt) != caller.machine or caller.machine == node.system.machine:
            raise CallerError("a kernel has other machines give up their gateways, for an attempt of its own machine")
        try:
            if not await asyncio.to_thread(system.forgo, node.home.system_file, attempt):
                raise Unavailable(f"the machine of {node.name} has the store in a file of its own")
        except OSError as error:
            raise Unavailable(f"{node.name} cannot note that it gives up its gateway: {error}") from error
        await node.engine_moving.look_if_changed()
        self._heard_ms = boot_ms()
        await self._end_gateway()
        return Empty()

    def _users(self) -> list[tuple[str, ...]]:
        """Return for whom each node of this machine speaks."""
        return [system.read(folder.node_file, NodeFile).users for folder in self._node.home.nodes()]

    async def _end_gateway(self) -> None:
        """Have the machine's gateway answer what it was asked, and end. Raises Unavailable."""
        until_ms = boot_ms() + ENDS_S * 1000
        asked = False
        while self._gateway_runs():
            if boot_ms() > until_ms:
                raise Unavailable(f"the gateway on the machine of {self._node.name} does not end")
            if not asked:
                client = StoreClient(self._node.store_way.straight)
                try:
                    with contextlib.suppress(UniosError):
                        await client.give_up()
                        asked = True
                finally:
                    await client.close()
            await asyncio.sleep(LOOK_S)

    def _gateway_runs(self) -> bool:
        """Whether a process has the lock; one that takes it later finds that the gateway was given up."""
        lock = take_lock(self._node.home.store)
        if lock is not None:
            os.close(lock)
        return lock is None

    async def follow(self) -> None:
        """Find out what has come of the attempt that the machine's gateway was given up for. Raises OSError, UniosError: it is asked for again."""
        node, known = self._node, msgspec.structs.replace(self._node.system)  # what is found out counts while the file says so still
        if not known.forgone:
            self._heard_ms = 0
            return
        self._heard_ms = self._heard_ms or boot_ms()
        mover = machine_of(known.forgone)
        for name in node.links.names():
            peer = node.links.identity(name)
            if peer is not None and peer.machine == mover and covers(peer.users, node.identity.users):
                try:
                    found = await node.links.call(name, "store.engine", AskEngine(settled=True), StoreEngine, user=node.user, timeout_ms=ASK_MS)
                except UniosError:  # another node of it may know
                    continue
                self._heard_ms = boot_ms()
                if not found.moving:
                    await asyncio.to_thread(self._adopt, found, known)
                break
        else:
            if not known.gateway and boot_ms() - self._heard_ms > AWAY_MS and self._may_have_gateway():
                self._heard_ms = boot_ms()
                await asyncio.to_thread(system.come_back, node.home.system_file, known.forgone)
        await node.engine_moving.look_if_changed()

    def _adopt(self, found: StoreEngine, known: SystemFile) -> None:
        file = self._node.home.system_file
        if found.engine == SQLITE or not has_stayed(known.forgone, found.moves):
            # it may be in an etcd again, which is another one: that machine is asked for it, as by any that has missed it
            system.note_engine(file, SQLITE, machine=machine_of(known.forgone), forgone=known.forgone)
        elif known.engine == ETCD:
            system.note_engine(file, ETCD, gateway=self._may_have_gateway(), forgone=known.forgone)
        else:  # it has missed that the store is in etcd: it asks after that as ever
            system.note_engine(file, known.engine, machine=known.store_machine, forgone=known.forgone)

    def _may_have_gateway(self) -> bool:
        """Whether this machine has what lets a gateway into etcd."""
        return find_spec("grpc") is not None and cluster.read(self._node.home) is not None
