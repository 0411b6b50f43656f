"""Claiming: who owns the tree. One node does, under its lease, as the record /files/owner says."""

from typing import Final

import msgspec

from unios.client.aio import Kernel
from unios.core.nodes import Alive, alive_key
from unios.errors import DataLost
from unios.services.lease_seen import LeaseSeen
from unios.store.client import StoreClient
from unios.store.model import Compare, Put, Range, RangeResult, Record, Transaction
from unios.undecodable import UNDECODABLE

OWNER: Final = "/files/owner"


class OwnerRecord(msgspec.Struct, frozen=True):
    """At /files/owner, attached to the node's lease."""

    node: str
    incarnation: int


class Claim:
    """That of this node."""

    def __init__(self, kernel: Kernel, store: StoreClient) -> None:
        self._me, self._store = kernel.folder.name, store
        self.lease = LeaseSeen(str(kernel.folder.lease))
        self._number = -1

    @property
    def stands(self) -> bool:
        """Whether the lease is the one under which the tree was claimed; it may have passed its deadline."""
        return self.lease.number == self._number

    @property
    def holds(self) -> bool:
        """Whether nobody else can own the tree now."""
        return self.lease.holds_as(self._number)

    def compare(self) -> Compare:
        """Return what says in a transaction that this node owns the tree still."""
        return Compare(OWNER, "value", "==", msgspec.msgpack.encode(OwnerRecord(self._me, self._number)))

    async def win(self) -> bool | None:
        """Return whether this node owns the tree now; None: that cannot be told yet. UniosError of the store; DataLost."""
        keys = (OWNER, alive_key(self._me))
        result = await self._store.transact(Transaction(then=tuple(Range(key) for key in keys)))
        found = {record.key: record for one in result.results if isinstance(one, RangeResult) for record in one.records}
        owner, alive = found.get(OWNER), found.get(alive_key(self._me))
        if alive is None:
            return None
        number = msgspec.msgpack.decode(alive.value, type=Alive).incarnation
        if number != self.lease.number:
            return None
        self._number = number
        return await self._take(owner, alive)

    async def _take(self, owner: Record | None, alive: Record) -> bool:
        mine = OwnerRecord(self._me, self._number)
        if owner is not None:
            try:
                return msgspec.msgpack.decode(owner.value, type=OwnerRecord) == mine
            except UNDECODABLE as error:
                raise DataLost(f"the record {OWNER} makes no sense: {error}") from error
        compares = (Compare(OWNER, "modified", "==", 0), Compare(alive.key, "modified", "==", alive.modified))
        return (await self._store.transact(Transaction(compares, (Put(OWNER, msgspec.msgpack.encode(mine), alive.lease),)))).succeeded
