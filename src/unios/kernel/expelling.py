"""Expelling: how a node that is there and is not to be trusted any more is cut off, on all nodes, before that is acknowledged.

The node's record says so first, with its lease ended and all join tokens void; then every other kernel cuts its links to the node, refuses its
certificates from then on by itself, whatever records say later, and confirms; then the record is written once more, if the node has changed it meanwhile: by
then it reaches no store. core/expulsion.py decides who has to confirm. Idempotent: asked again it asks those that are left.
"""

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.expulsion import Expulsion, why_not
from unios.core.nodes import NodeRecord, alive_key, node_key
from unios.errors import CallerError, NodeUnknown, Unavailable, UniosError
from unios.ids import LeaseId
from unios.kernel import system
from unios.kernel.clocks import boot_ms
from unios.kernel.link import Refused
from unios.kernel.system import SQLITE
from unios.security_limits import EXPEL_ASK_MS, EXPEL_WAIT_MS, EXPELLED_MAX
from unios.store.model import Compare, Delete, Operation, Put, Range, RangeResult, Record, Transaction
from unios.wire.expelling import Cut, Expelled
from unios.wire.operations import Empty

if TYPE_CHECKING:
    from unios.kernel.node import Node

ATTEMPTS_MAX: Final = 10
AGAIN_S: Final = 0.1


class Expelling:
    """That of one kernel, and what it remembers of it over its own death."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._file = node.folder.path / "expelled.json"
        try:
            self._marks: dict[str, str] = system.read(self._file, dict[str, str])
        except FileNotFoundError:
            self._marks = {}

    def refusal(self, mark: str) -> Refused | None:
        """Return why the holder of that certificate gets no link, None if it may."""
        name = self._marks.get(mark)
        return Refused(f"{name} has been expelled from the system", True) if name is not None else None

    def cut(self, name: str, marks: tuple[str, ...]) -> None:
        """Have nothing to do any more with the holder of those certificates, and of those that a node of that name has shown, durably, from now on.
        Raises OSError. Idempotent."""
        shown = self._node.links.cut(name, frozenset(marks), f"{name} has been expelled from the system")
        new = {mark: name for mark in (*marks, *shown) if mark and mark not in self._marks}
        if new:
            self._marks.update(new)
            while len(self._marks) > EXPELLED_MAX:
                del self._marks[next(iter(self._marks))]
            system.write(self._file, self._marks)

    async def expel(self, name: str) -> Expelled:
        """Cut that node off everywhere; return who has confirmed it and who has not. Raises NodeUnknown, CallerError, Unavailable."""
        node = self._node
        record = (await self._look(name))[0]
        if node.system.engine == SQLITE:
            keepers, where = frozenset({node.system.store_machine, node.system.founder}), "keeps the system's store, or the key of its authority"
        else:
            keepers, where = frozenset({node.system.founder}), "has the key of the system's authority"
        if why := why_not(record, node.name, keepers, where):
            raise CallerError(why)
        marks = (record.certificate, *filter(None, (record.next_certificate,)))
        tokens = await self._write(name, marks)
        self.cut(name, marks)
        decided = Expulsion(each for each in node.membership.names("ready", "suspect") if each not in (name, node.name))
        decided.confirmed.append(node.name)
        until_ms = boot_ms() + EXPEL_WAIT_MS
        await asyncio.gather(*(self._ask(decided, each, Cut(name, marks), until_ms) for each in decided.open))
        if decided.is_whole:
            tokens += await self._write(name, marks)
        notes = await self._change_keys(record) if decided.is_whole else ()
        return Expelled(tuple(sorted(decided.confirmed)), decided.missing(), decided.is_whole, tokens, notes)

    async def _ask(self, decided: Expulsion, name: str, body: Cut, until_ms: int) -> None:
        node = self._node
        while boot_ms() < until_ms:
            try:
                async with asyncio.timeout(EXPEL_ASK_MS / 1000):
                    await node.links.call(name, "node.cut", body, Empty, user=node.user)
                decided.has_cut(name)
                return
            except (UniosError, TimeoutError) as error:
                stands = node.membership.view(name)[0] in ("ready", "suspect")
                if not decided.failed(name, str(error) or "it does not answer", stands=stands):
                    return
            await asyncio.sleep(AGAIN_S)

    # the records

    async def _look(self, name: str) -> tuple[NodeRecord, Record, tuple[Record, ...]]:
        found = (await self._node.store.transact(Transaction(then=(Range(node_key(name)), Range(alive_key(name)))))).results
        records, alive = (each.records if isinstance(each, RangeResult) else () for each in found)
        if not records:
            raise NodeUnknown(f"there is no node {name}; `unios nodes` lists them")
        return msgspec.msgpack.decode(records[0].value, type=NodeRecord), records[0], alive

    async def _write(self, name: str, marks: tuple[str, ...]) -> int:
        """Write that the node is out, end its lease, void the join tokens that it may know; return how many."""
        node = self._node
        for _attempt in range(ATTEMPTS_MAX):
            record, old, alive = await self._look(name)
            if record.state == "left" and record.expelled and not alive:
                return await self._void_tokens()
            # what it may have written of itself meanwhile counts for nothing: the certificate by which it is known is the one that was found first
            out = msgspec.structs.replace(record, state="left", stopped=True, expelled=True, certificate=marks[0])
            then: list[Operation] = [Put(old.key, msgspec.msgpack.encode(out)), Delete(alive_key(name))]
            if not record.expelled:
                then.append(  # once
                    node.events.put("node", f"{name} was expelled from the system: its certificate is refused everywhere from now on")
                )
            compares = (Compare(old.key, "modified", "==", old.modified),)
            if not (await node.store.transact(Transaction(compares, tuple(then)))).succeeded:
                continue
            for each in alive:
                if each.lease:
                    await node.store.lease_revoke(LeaseId(each.lease))
            return await self._void_tokens()
        raise Unavailable(f"the record of {name} keeps changing: try again")

    async def _void_tokens(self) -> int:
        """Delete every join token that is not spent: who may make some may have kept one, to come back with."""
        return (await self._node.store.delete("/tokens/", prefix=True))[0]

    async def _change_keys(self, record: NodeRecord) -> tuple[str, ...]:
        """Have what the node's machine knew of the way into etcd be of no use to it any more; return what is to be said of that."""
        node = self._node
        if node.system.engine == SQLITE or not node.system.gateway:
            return ()
        try:
            if not node.rekeying.has_keys():
                return (
                    f"if the machine of {record.name} had a gateway to the system's etcd it knows the way into that: close etcd's ports to it "
                    "(a firewall on the machines of etcd's members), or change what lets one into etcd",
                )
            done = await node.rekeying.change()
        except UniosError as error:
            return (
                f"the keys of the system's etcd, which the machine of {record.name} may have, could not be changed: {error}. Until `unios store rekey` has "
                "changed them close etcd's ports to it (a firewall on the machines of etcd's members)",
            )
        return (f"the keys of the system's etcd were changed, on {', '.join(done.nodes)}: those that the machine of {record.name} had let nobody in",)
