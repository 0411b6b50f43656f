"""Keeps the members of the system's own etcd: looks who there is, takes one step as core/quorum.py decides, and looks again.

Part of the recovery service, on one node at a time. Two that think that they are the one do no harm: etcd takes changes one by one, each is decided anew
from what etcd lists, and a step that was taken already is refused.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec

from unios.core import quorum
from unios.core.nodes import NodeRecord
from unios.core.quorum import Candidate, Member, QuorumRecord, Step, record_key
from unios.errors import UniosError
from unios.services.view import View
from unios.store.model import Put
from unios.store.requests import MemberRequest, MemberView

EVERY_S: Final = 2.0
"""How often members are compared with nodes."""


class QuorumKeeping:
    """That of one recovery service."""

    def __init__(self, view: View, event: Callable[[str, str], Put]) -> None:
        self._view = view
        self._event = event
        self._absent_s: dict[str, float] = {}
        """Since when a node is lost."""
        self._learns_s: dict[int, float] = {}
        """Since when a member is a learner."""
        self._failed: set[str] = set()
        """Nodes whose member did not catch up."""
        self._looked_s = 0.0

    async def look(self) -> None:
        """Take a step if one is due."""
        now = time.monotonic()
        records = list(self._view.nodes.values.values())
        if now - self._looked_s < EVERY_S or not any(record.etcd for record in records):
            return
        self._looked_s = now
        with contextlib.suppress(UniosError):  # the next look finds the same
            members = await self._view.store.members()
            await self._write_records(members)
            step = quorum.decide([self._candidate(record, now) for record in records], self._listed(members, now))
            if step is not None:
                await self._take(step)

    def _candidate(self, record: NodeRecord, now: float) -> Candidate:
        state = self._view.membership.view(record.name)[0]
        if state == "lost":
            since = self._absent_s.setdefault(record.name, now)
        else:
            since = now
            self._absent_s.pop(record.name, None)
        absent_ms = max(1, int((now - since) * 1000)) if state == "lost" else 0
        offer = record.etcd
        return Candidate(
            record.name,
            record.machine,
            offer.peer if offer else "",
            offer.client if offer else "",
            absent_ms,
            gone=record.state == "left",
            failed=record.name in self._failed,
        )

    def _listed(self, members: tuple[MemberView, ...], now: float) -> list[Member]:
        self._learns_s = {one.id: self._learns_s.get(one.id, now) for one in members if one.learner}
        return [Member(one.id, one.name, one.peer, one.learner, int((now - self._learns_s.get(one.id, now)) * 1000)) for one in members]

    async def _write_records(self, members: tuple[MemberView, ...]) -> None:
        """See to it that each member has its record: without it its node would not know of it, had it been told by an older copy of the store."""
        found, _revision = await self._view.store.range(quorum.PREFIX, prefix=True)
        peers = {one.peer for one in members}
        left = [one.name for one in self._view.nodes.values.values() if one.state == "left" and (one.etcd is None or one.etcd.peer not in peers)]
        for key in {record.key for record in found.records} & {record_key(name) for name in left}:
            await self._view.store.delete(key)  # nobody is there to do it
        read = [msgspec.msgpack.decode(record.value, type=QuorumRecord) for record in found.records]
        known = {(record.node, record.member) for record in read if record.wanted}
        initial = {one.name: one.peer for one in members if one.name}
        numbers = {one.peer: one.id for one in members}
        for record in self._view.nodes.values.values():
            number = numbers.get(record.etcd.peer, 0) if record.etcd is not None else 0
            if record.etcd is None or not number or record.state == "left" or (record.name, number) in known:
                continue
            wanted = QuorumRecord(record.name, record.etcd.client, {**initial, record.name: record.etcd.peer}, member=number)
            await self._view.store.put(record_key(record.name), msgspec.msgpack.encode(wanted))

    async def _take(self, step: Step) -> None:
        view = self._view
        match step.what:
            case "add":
                record = view.nodes.values[f"/nodes/{step.node}"]
                assert record.etcd is not None
                await self._write_records(await view.store.change_member(MemberRequest("add", peer=record.etcd.peer)))
                text = f"{step.node} gets a member of the store: {step.why}"
            case "promote":
                await view.store.change_member(MemberRequest("promote", step.member))
                self._failed.discard(step.node)
                text = f"{step.node} keeps the store as well: {step.why}"
            case "move":
                record = view.nodes.values[f"/nodes/{step.node}"]
                assert record.etcd is not None
                await view.store.change_member(MemberRequest("move", step.member, record.etcd.peer))
                text = f"the member of the store on {step.why}"
            case "remove":
                if step.member in self._learns_s:
                    self._failed.add(step.node)
                if step.node:  # first: the answer to the removal may be lost
                    gone = QuorumRecord(step.node, "", wanted=False)
                    await view.store.put(record_key(step.node), msgspec.msgpack.encode(gone))
                await view.store.change_member(MemberRequest("remove", step.member))
                text = f"{step.node} does not keep the store any more: {step.why}"
        put = self._event("store", text)
        await view.store.put(put.key, put.value)
        self._looked_s = 0.0
