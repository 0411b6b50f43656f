"""Publishing: lets the system know which ports are open on this node, and keeps at it until the store has it.

What is written is looked up in the moment of writing, so the last word is what is. Ports that open together are written together, and not while the node
registers: those of a program that has thousands would take longer than a lease stands that nobody renews yet. What is due is bounded by the ports that
are open and those that the store was told of.
"""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final, Protocol

import msgspec

from unios.errors import NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.ids import LeaseId
from unios.kernel.ports import PortRecord, port_key
from unios.kernel.runfiles import complain
from unios.limits import PORTS_PUBLISHED_AT_ONCE
from unios.store.model import Delete, Put, Transaction, TransactionResult

AGAIN_S: Final = 0.1
"""So long after a store that did not answer it is told again."""


class Ports(Protocol):
    """What is asked of the broker."""

    def names(self) -> list[str]: ...
    def has(self, name: str) -> bool: ...
    def record(self, name: str) -> PortRecord | None: ...


class Transacts(Protocol):
    """What is asked of the store."""

    async def transact(self, transaction: Transaction) -> TransactionResult: ...


class Publishing:
    """That of one node. `run` does it."""

    def __init__(self, node: str, ports: Ports, store: Transacts) -> None:
        self._node, self._ports, self._store = node, ports, store
        self._lease = LeaseId(0)
        self._due: dict[str, None] = {}
        self._told: set[str] = set()
        """Names of which the store may have a record."""
        self._wake = asyncio.Event()

    def begin(self, lease: LeaseId, told: Iterable[str] = ()) -> None:
        """The node has that lease from now on, and what was told under another is gone. `told`: the names that the store has under this one."""
        self._lease = lease
        self._told = set(told)
        self._due = dict.fromkeys((*self._told, *self._ports.names()))
        self._wake.set()

    def changed(self, name: str) -> None:
        """A port was opened, or is open no more."""
        if self._ports.has(name) or name in self._told:
            self._due[name] = None
            self._wake.set()
        else:
            self._due.pop(name, None)

    async def run(self) -> None:
        """Tell the store; ends only by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due and self._lease:
                names = list(islice(self._due, PORTS_PUBLISHED_AT_ONCE))
                for name in names:
                    del self._due[name]
                await self._tell(names)

    async def _tell(self, names: list[str]) -> None:
        lease = self._lease
        try:
            await self._write(names, lease)
        except NotFound:  # the lease has ended, and all that was told under it with it: the next one begins anew
            if self._lease == lease:
                self._lease = LeaseId(0)
        except (Unavailable, OutcomeUnknown):
            for name in names:
                self.changed(name)
            await asyncio.sleep(AGAIN_S)
        except UniosError as error:  # the store refuses one of them, as of a user for whom this node does not speak: that keeps no other out
            if len(names) > 1:
                for name in names:
                    await self._tell([name])
            else:
                complain(f"port {names[0]} is known on this node only: {error}")

    async def _write(self, names: list[str], lease: LeaseId) -> None:
        writes: list[Put | Delete] = []
        closed: list[str] = []
        for name in names:
            record = self._ports.record(name)
            if record is not None:
                self._told.add(name)
                writes.append(Put(port_key(name, self._node), msgspec.msgpack.encode(record), lease))
            elif name in self._told:
                closed.append(name)
                writes.append(Delete(port_key(name, self._node)))
        if writes:
            await self._store.transact(Transaction(then=tuple(writes)))
        self._told.difference_update(closed)
