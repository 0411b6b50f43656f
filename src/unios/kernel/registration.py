"""Registration: how a node enters the store's records, under a lease; and how a restarted kernel takes up the lease of its predecessor."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from unios import __version__
from unios.core.flapping import Flapping, returns
from unios.core.nodes import Alive, NodeRecord, alive_key, node_key
from unios.errors import Denied, NotFound, Unavailable
from unios.ids import LeaseId
from unios.kernel import runfiles
from unios.kernel.clocks import boot_ms
from unios.kernel.node_records import change_node
from unios.kernel.node_usage import machine
from unios.kernel.place import twin_text
from unios.limits import LEASE_TTL_MS, STORE_COMES_LOOK_S, STORE_COMES_MS
from unios.store.model import Compare, Put, Range, RangeResult, Record, Transaction
from unios.store.pages import every
from unios.wire.installation import release
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN

if TYPE_CHECKING:
    from unios.kernel.node import Node


TWIN_TTLS: Final = 3
"""After so many times the life of a lease it is no dead kernel's."""


class Registration:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._file = node.folder.run / "lease.json"
        self._first = True
        self._own: set[LeaseId] = set()
        """Leases that this kernel got and registered under, or may have: the answer can have been lost."""
        self._apart_ms = 0
        """Since when the lease of another kernel that has this node's name stands."""
        self._flapping = Flapping()
        """Of this node alone: how often it has registered anew, so that one that comes and goes does not say so each time."""

    async def register(self) -> tuple[LeaseId, int]:
        """Return the lease and the incarnation that the node now has: its predecessor's if that lease still stands, else the next."""
        if self._first:
            await self._store_comes()
            kept = await self._take_up()
            self._first = False
            if kept is not None:
                return kept
        lease = await self._node.store.lease_grant(LEASE_TTL_MS)
        self._own.add(lease)
        self._flapping.lost(self._node.name, boot_ms())
        incarnation = await self._enter(lease)
        self._own, self._apart_ms = {lease}, 0
        with contextlib.suppress(OSError):  # on a full disk a successor of this kernel registers anew
            self._file.unlink(missing_ok=True)
            runfiles.place(self._file, json.dumps({"lease": lease, "incarnation": incarnation, "place": self._node.place}))
        return lease, incarnation

    async def _store_comes(self) -> None:
        """Wait a moment for a store of this machine, which is mostly being started with the node: who asks too early asks again a whole tick later."""
        system, until = self._node.system, boot_ms() + STORE_COMES_MS
        while system.has_store and boot_ms() < until:
            try:
                await self._node.store.range(node_key(self._node.name))
                return
            except Unavailable:
                await asyncio.sleep(STORE_COMES_LOOK_S)

    async def _say_what_runs(self) -> None:
        """Correct the record if the predecessor was of another version: its lease stands, so nothing else writes that."""

        def mine(record: NodeRecord) -> NodeRecord:
            return msgspec.structs.replace(record, version=__version__, release=release(), protocol=PROTOCOL_MAX, protocol_min=PROTOCOL_MIN)

        result, _revision = await self._node.store.range(node_key(self._node.name))
        known = [msgspec.msgpack.decode(record.value, type=NodeRecord) for record in result.records]
        if any(record != mine(record) for record in known):
            await change_node(self._node.store, self._node.name, mine)

    async def _take_up(self) -> tuple[LeaseId, int] | None:
        try:
            fields = json.loads(self._file.read_text())
            lease, incarnation = LeaseId(int(fields["lease"])), int(fields["incarnation"])
            if fields.get("place", self._node.place) != self._node.place:
                return None  # a copy of the folder: the lease is that of the kernel from which it was copied
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with contextlib.suppress(NotFound):
            await self._node.store.lease_renew(lease)
            result, _revision = await self._node.store.range(alive_key(self._node.name))
            if result.records and result.records[0].lease == lease:
                await self._tidy_ports(lease)
                await self._say_what_runs()
                return lease, incarnation
        return None

    async def _enter(self, lease: LeaseId) -> int:
        node = self._node
        for _attempt in range(10):
            found = (await node.store.transact(Transaction(then=(Range(node_key(node.name)), Range(alive_key(node.name)))))).results
            records, alive = (each.records if isinstance(each, RangeResult) else () for each in found)
            self._check_alone(alive)
            old = records[0] if records else None
            known = msgspec.msgpack.decode(old.value, type=NodeRecord) if old else None
            if known is not None and known.state == "left":
                raise Denied(f"{node.name} has left the system: join again with a new token")
            if known is not None and known.machine != node.system.machine:
                raise Denied(f"another machine has a node {node.name}: join again under another name")
            if known is not None and known.certificate not in ("", node.certificate) and known.next_certificate != node.certificate:
                raise Denied(
                    f"the certificate of {node.name} is not the one of its record: it has been renewed in another place, or another node has the name"
                )
            incarnation = known.incarnation + 1 if known else 1
            record = NodeRecord(
                node.name,
                node.system.machine,
                incarnation,
                stopped=node.stopping.under_way,
                addresses=node.addresses.all,
                users=node.identity.users,
                cores=node.cores,
                version=__version__,
                release=release(),
                protocol=PROTOCOL_MAX,
                protocol_min=PROTOCOL_MIN,
                memory_bytes=machine().memory_bytes,
                devices=node.devices.present,
                joined_ms=known.joined_ms if known else node.wall_ms(),
                certificate=node.certificate,
                next_certificate=known.next_certificate if known and known.next_certificate != node.certificate else "",
                returns_ms=returns(known, node.wall_ms()),
                etcd=node.quorum.offer,
                place=node.place,
            )
            again = f"{node.name} is back as incarnation {incarnation}" if incarnation > 1 else f"{node.name} is ready"
            news = self._flapping.news(node.name, boot_ms(), again) == again
            done = await node.store.transact(
                Transaction(
                    (
                        Compare(node_key(node.name), "modified", "==", old.modified if old else 0),
                        Compare(alive_key(node.name), "modified", "==", alive[0].modified if alive else 0),
                    ),
                    (
                        Put(node_key(node.name), msgspec.msgpack.encode(record)),
                        Put(alive_key(node.name), msgspec.msgpack.encode(Alive(incarnation)), lease),
                        *((node.events.put("node", again),) if news else ()),
                    ),
                )
            )
            if done.succeeded:
                node.publishing.begin(lease)
                return incarnation
        raise Unavailable("the node's record keeps changing")

    def _check_alone(self, alive: Sequence[Record]) -> None:
        """Raise Unavailable while another kernel has a lease under this name: the first stays, whichever has the better right to the name."""
        if not alive or alive[0].lease in self._own:
            return
        self._apart_ms = self._apart_ms or boot_ms()
        why = twin_text(self._node.name)
        if boot_ms() - self._apart_ms > TWIN_TTLS * LEASE_TTL_MS:  # else it is that of a kernel that has died here, and ends by itself
            self._node.keep_out(why)
        raise Unavailable(why)

    async def _tidy_ports(self, lease: LeaseId) -> None:
        """Listeners of a kernel that died are gone: those that come back publish again."""
        records, _revision = await every(self._node.store, "/ports/")
        mine = [record.key for record in records if record.key.rpartition("/")[2] == self._node.name]
        self._node.publishing.begin(lease, (key[len("/ports/") :].rpartition("/")[0] for key in mine))
