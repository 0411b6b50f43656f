"""Keeps the members of the system's own etcd: looks who there is, takes one step as core/quorum.py decides, and looks again.

Part of the recovery service, on one node at a time. Two that think that they are the one do no harm: etcd takes changes one by one, each is decided anew
from what etcd lists, and a step that was taken already is refused.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Final

import msgspec

from unios.core import quorum
from unios.core.nodes import NodeRecord
from unios.core.quorum import CHANGES, LEAVING, Candidate, Member, QuorumRecord, Step, record_key
from unios.errors import Unavailable, UniosError
from unios.services.quorum_upkeep import QuorumUpkeep
from unios.services.view import View
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.store.requests import Health, MemberRequest, MemberView

EVERY_S: Final = 2.0
"""How often members are compared with nodes."""
HEALTH_S: Final = 10.0
"""How often each member is asked for itself."""
LOOK_S: Final = 30.0
"""So long a look may take, however slow the store is."""
UPKEEP_S: Final = 150.0
"""So long a step of upkeep may take: a member writes its file anew."""
AGAIN_S_MAX: Final = 60.0
"""The longest that a step which was refused waits to be taken again."""


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
        """Nodes whose member did not catch up, or fell ill."""
        self._ill_s: dict[int, float] = {}
        """Since when a member does not answer."""
        self._refused: dict[tuple[str, str, int], tuple[int, float]] = {}
        """The step that etcd does not take at present: how often it has refused it, and when it is tried again."""
        self._health: Health | None = None
        """What was found and is not dealt with."""
        self._upkeep = QuorumUpkeep(view.store, event)
        self._looked_s = self._asked_s = -math.inf
        self._looking: asyncio.Task[None] | None = None

    def start_look(self) -> None:
        """Look, beside whatever else the service does: a store that is slow must not delay what is to be done after a loss. One look at a time."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_bounded())

    async def _look_bounded(self) -> None:
        with contextlib.suppress(TimeoutError, UniosError):  # the next look finds the same
            async with asyncio.timeout(LOOK_S):
                await self.look()
        with contextlib.suppress(TimeoutError, UniosError):
            async with asyncio.timeout(UPKEEP_S):
                await self._upkeep.look(self._take_health())

    def _take_health(self) -> Health | None:
        found, self._health = self._health, None
        return found

    async def look(self) -> None:
        """Take a step if one is due. Raises what the store says is wrong."""
        now = time.monotonic()
        records = list(self._view.nodes.values.values())
        if now - self._looked_s < EVERY_S or not any(record.etcd for record in records):
            return
        self._looked_s = now
        changes, leaving = await self._decisions()
        members = await self._members(now)
        await self._write_records(members)
        step = quorum.decide([self._candidate(record, now, leaving) for record in records], self._listed(members, now))
        key = step and (step.what, step.node, step.member)
        self._refused = {step: again for step, again in self._refused.items() if step == key}
        if step is not None and self._is_due(step, now):
            await self._try(step, changes, now)

    async def _decisions(self) -> tuple[int, set[str]]:
        """Return how often members were lessened, before anything else is looked at, and who has been told that it may leave."""
        found = (await self._view.store.transact(Transaction(then=(Range(CHANGES), Range(LEAVING, prefix=True))))).results
        changes, leaving = (one.records if isinstance(one, RangeResult) else () for one in found)
        return (changes[0].modified if changes else 0), {record.key.removeprefix(LEAVING) for record in leaving}

    async def _members(self, now: float) -> tuple[MemberView, ...]:
        """Return who is a member; every HEALTH_S each is asked for itself how it is, and while one learns, since it must be well to vote."""
        if now - self._asked_s < HEALTH_S:
            listed = await self._view.store.members()
            if not any(one.learner for one in listed):
                return listed
        self._asked_s = now
        self._health = await self._view.store.health()
        found = self._health.members
        ill = {one.id for one in found if not one.answers}
        self._ill_s = {member: self._ill_s.get(member, now) for member in ill}
        peers = {record.etcd.peer: record.name for record in self._view.nodes.values.values() if record.etcd}
        self._failed -= {one.name or peers.get(one.peer, "") for one in found if one.answers and not one.learner}
        return tuple(MemberView(one.id, one.name, one.peer, one.client, one.learner) for one in found)

    def _is_due(self, step: Step, now: float) -> bool:
        """Whether a removal that was refused has waited long enough: its node is told each time, and etcd says the same while all is as it was."""
        _times, due_s = self._refused.get((step.what, step.node, step.member), (0, 0.0))
        return now >= due_s

    async def _try(self, step: Step, changes: int, now: float) -> None:
        key = (step.what, step.node, step.member)
        times = self._refused.get(key, (0, 0.0))[0]
        try:
            await self._take(step, changes)
        except UniosError:
            if step.what == "remove":
                self._refused = {key: (times + 1, now + min(EVERY_S * 2 ** min(times, 8), AGAIN_S_MAX))}
            raise
        self._refused.clear()

    def _candidate(self, record: NodeRecord, now: float, leaving: set[str]) -> Candidate:
        state = self._view.membership.view(record.name)[0]
        if state == "lost":
            since = self._absent_s.setdefault(record.name, now)
        else:
            since = now
            self._absent_s.pop(record.name, None)
        absent_ms = max(1, _ms(since, now)) if state == "lost" else 0
        offer = record.etcd
        return Candidate(
            record.name,
            record.machine,
            offer.peer if offer else "",
            offer.client if offer else "",
            absent_ms,
            gone=record.state == "left",
            failed=record.name in self._failed,
            leaving=record.name in leaving,
        )

    def _listed(self, members: tuple[MemberView, ...], now: float) -> list[Member]:
        self._learns_s = {one.id: self._learns_s.get(one.id, now) for one in members if one.learner}
        return [
            Member(one.id, one.name, one.peer, one.learner, _ms(self._learns_s.get(one.id, now), now), self._ill_ms(one.id, now)) for one in members
        ]

    def _ill_ms(self, member: int, now: float) -> int:
        return max(1, _ms(self._ill_s[member], now)) if member in self._ill_s else 0

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
            if (
                record.etcd is None
                or not number
                or record.state == "left"
                or (record.name, number) in known
                or ("remove", record.name, number) in self._refused
            ):
                continue
            wanted = QuorumRecord(record.name, record.etcd.client, {**initial, record.name: record.etcd.peer}, member=number)
            await self._view.store.put(record_key(record.name), msgspec.msgpack.encode(wanted))

    async def _take(self, step: Step, changes: int) -> None:
        """Take it. `changes`: what was read of CHANGES before the decision. Raises Unavailable, also if somebody has decided something else meanwhile."""
        view = self._view
        match step.what:
            case "add":
                record = view.nodes.values[f"/nodes/{step.node}"]
                assert record.etcd is not None
                await self._write_records(await view.store.change_member(MemberRequest("add", peer=record.etcd.peer)))
                text = f"{step.node} gets a member of the store: {step.why}"
            case "promote":
                await view.store.change_member(MemberRequest("promote", step.member))
                text = f"{step.node} keeps the store as well: {step.why}"
            case "move":
                record = view.nodes.values[f"/nodes/{step.node}"]
                assert record.etcd is not None
                await view.store.change_member(MemberRequest("move", step.member, record.etcd.peer))
                text = f"the member of the store on {step.why}"
            case "remove":
                if step.member in self._learns_s or step.member in self._ill_s:
                    self._failed.add(step.node)
                gone = Put(record_key(step.node), msgspec.msgpack.encode(QuorumRecord(step.node, "", wanted=False)))
                # first: the answer to the removal may be lost
                written = Transaction((Compare(CHANGES, "modified", "==", changes),), (Put(CHANGES, b""), *((gone,) if step.node else ())))
                if not (await view.store.transact(written)).succeeded:
                    raise Unavailable("another decision about the store's members came first")
                await view.store.change_member(MemberRequest("remove", step.member))
                text = f"{step.node} does not keep the store any more: {step.why}"
        put = self._event("store", text)
        await view.store.put(put.key, put.value)
        self._looked_s = -math.inf


def _ms(since_s: float, now_s: float) -> int:
    return int((now_s - since_s) * 1000)
