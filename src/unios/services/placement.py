"""The placement service: takes what shall run, gives it a global pid, chooses a node and has it started there. One per node; any may be asked.

A submission is durable before it is answered: pid, record and specification are one transaction, together with the request's id, so that the same
request asked again finds what the first came to. Where it runs is decided by core/placement.py, when by core/queue.py. What finds room, and nobody waiting,
is started at once; all else is written down without a node, and the queue (services/queueing.py) does the rest.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

import msgspec

from unios.client.aio import Kernel, serve
from unios.core import claims
from unios.core.nodes import Alive, alive_key
from unios.core.outlook import Wait
from unios.core.processes import ProcessRecord, ProcessSpec, process_key, spec_key
from unios.core.rules import POLICY_KEY, PolicyRule, Rule
from unios.errors import CallerError, OutcomeUnknown, Unavailable, UniosError
from unios.limits import BEAT_MS, PID_MAX, PID_MIN
from unios.services.batches import Batches, Pids, check_request
from unios.services.lease_seen import LeaseSeen
from unios.services.policies import Policies
from unios.services.policy_deaths import deaths_of
from unios.services.queueing import Queueing
from unios.services.rules import Rules
from unios.services.specifications import spec_of, user_of
from unios.services.starter import Starter, Tried
from unios.services.view import View
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.wire.home import NodeFolder
from unios.wire.operations import Accepted, Submit, Submitted
from unios.wire.peer import Call
from unios.wire.queueing import Alter, AskRules, PolicyView, QuotaView, SubmitMany, Waiting

PORT: Final = "placement"
ATTEMPTS_MAX: Final = 40
COLLISIONS_MAX: Final = PID_MAX - PID_MIN
"""Numbers that may be found in use before a submission gives up."""
READY_S: Final = 3.0
_RULES: Final = cast("type[AskRules | None]", AskRules | None)
"""A client of an older version says nothing."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Placement:
    """The service."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._queueing = Queueing(kernel.folder.name)
        self._view = View(kernel, self._queueing.put_node, on_process=self._queueing.put, on_rule=self._on_rule)
        self._rules = Rules(self._view, kernel.folder.name)
        self._policies = Policies(self._view.books, self._rules.policy_failed, deaths_of(kernel.folder, "placement", wall_ms))
        self._starter = Starter(kernel, self._view, self._policies, wall_ms)
        self._queueing.open(self._view, self._starter)
        self._pids = Pids(self._view)
        self._batches = Batches(self._view, self._queueing, self._pids)

    def _on_rule(self, key: str, _before: Rule | None, now: Rule | None) -> None:
        if key == POLICY_KEY:
            self._policies.set(now if isinstance(now, PolicyRule) else None)
        else:
            self._queueing.put_rule(key, now)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._view.run())
                await self._kernel.listen(PORT, 0o666, self._serve)
                await self._view.wait_complete()
                await self._queueing.run()
        finally:
            self._policies.close()

    async def _serve(self, stamp: Accepted, call: Call) -> object:
        if not self._view.is_complete():
            await self._wait_complete()
        match call.op:
            case "submit":
                return await self._submit(stamp, call.decode(Submit))
            case "submit_many":
                return await self._batches.submit(stamp, call.decode(SubmitMany))
            case "hold" | "release" | "cancel":
                return await self._batches.alter(stamp, call.decode(Alter).pid, call.op)
            case "queue":
                return tuple(_waiting(wait) for wait in self._queueing.outlook())
            case "policy":
                return await self._rules.policy(self._stale_ms(call))
            case "set_policy":
                return await self._rules.set_policy(stamp, call.decode(PolicyView))
            case "quotas":
                return await self._rules.quotas(self._stale_ms(call))
            case "set_quota":
                return await self._rules.set_quota(stamp, call.decode(QuotaView))
        raise CallerError(f"the placement service has no operation {call.op[:80]}")

    def _stale_ms(self, call: Call) -> int | None:
        """Return how old the rules are that this node knows, if they may be stale; None if the latest are asked for."""
        asked = call.decode(_RULES)
        return LeaseSeen(str(self._kernel.folder.lease)).stale_ms if asked is not None and asked.stale else None

    async def _wait_complete(self) -> None:
        try:
            async with asyncio.timeout(READY_S):
                await self._view.wait_complete()
        except TimeoutError:
            raise Unavailable("the store cannot be reached; `unios status` says why") from None

    async def _submit(self, stamp: Accepted, body: Submit) -> Submitted:
        user = user_of(body.program, stamp)
        check_request(body.request)
        spec = spec_of(body.program, user)
        await self._batches.check(spec, 1)
        tried = await self._place(spec, user, body.request)
        return Submitted(tried.record.pid, tried.record.node, _state(tried), tried.record.incarnation, _reason(tried))

    async def _place(self, spec: ProcessSpec, user: str, request: str) -> Tried:
        """Write the record, unless an earlier attempt of the same request did; then start it, or let it queue."""
        attempt = collisions = 0
        while attempt < ATTEMPTS_MAX and collisions < COLLISIONS_MAX:
            record = self._first_record(await self._pids.next(), spec, user)
            lease = self._view.lease_of(record.node)
            self._view.books.put(record)  # of several that are placed at once not all take the same room
            try:
                result = await self._view.store.transact(_first_write(record, spec, request, lease))
            except UniosError:
                self._view.books.drop(record.pid)
                raise
            if result.succeeded:
                if not record.node:
                    return await self._waits(record, result.revision.number)
                tried = await self._starter.start(record, result.revision.number, spec, lease)
                if not tried.record.node and tried.record.state == "pending":
                    self._queueing.waits_now(tried.record)
                return tried
            self._forget(record.pid)
            raced, taken, _spec = result.results
            if isinstance(raced, RangeResult) and raced.records:
                return await self._known(int(raced.records[0].value))
            if any(isinstance(found, RangeResult) and found.records for found in (taken, _spec)):
                collisions += 1  # the numbers have come round, and this one is still in use
                continue
            await asyncio.sleep(0.005 * attempt)  # the node's lease is another by now
            attempt += 1
        if collisions >= COLLISIONS_MAX:
            raise Unavailable(f"no number is free for the process: {COLLISIONS_MAX} in a row are in use")
        raise Unavailable("nodes come and go too fast to place the process: try again")

    def _first_record(self, pid: int, spec: ProcessSpec, user: str) -> ProcessRecord:
        record = claims.submitted(pid, spec, user, "", "", wall_ms())
        node, why = self._queueing.queue.place_now(record, self._starter.ready(), self._starter.choose)
        if node:  # there seems to be room; whether it may have it at once a node that speaks for root says, through the queue
            return claims.placed(record, node, "", why) if self._view.assigns() else record
        able = self._queueing.queue.able(self._view.ready(), record)
        waits = record.queueing.held or record.queueing.after
        return claims.placed(record, "", self._queueing.reason(record) if able or waits else self._starter.nowhere(record))

    async def _waits(self, record: ProcessRecord, modified: int) -> Tried:
        """Let it queue; what waits in vain has failed, and that is the answer. (It has been pending: nothing begins with an end, at the gate neither.)"""
        fate = self._queueing.queue.dependencies.all_of(record)
        if not fate.impossible:
            self._queueing.waits_now(record)
            return Tried(record, False)
        failed = claims.not_started(record, claims.NO_START, fate.reason, wall_ms())
        if await self._starter.replace(failed, modified):
            return Tried(failed, False)
        return await self._known(record.pid)  # the runner of the queue was quicker

    def _forget(self, pid: int) -> None:
        """The record of that pid is not what was to be written: what the mirror knows of it counts."""
        now = self._view.processes.values.get(process_key(pid))
        if now is None:
            self._view.books.drop(pid)
        else:
            self._view.books.put(now)

    async def _known(self, pid: int) -> Tried:
        """Return what an earlier attempt of the same request has come to."""
        found = await self._starter.read(pid)
        if found is None:
            raise OutcomeUnknown("the same request was made before and its process is gone")
        return Tried(found[0], found[0].state != "pending")


def _first_write(record: ProcessRecord, spec: ProcessSpec, request: str, lease: int) -> Transaction:
    """Return the transaction that makes a process: only with a free pid, a new request, and while the node holds the lease that was seen."""
    request_key = f"/requests/{request}"
    keys = (process_key(record.pid), spec_key(record.pid), request_key)
    compares = [Compare(key, "version", "==", 0) for key in keys]
    if record.node:
        compares.append(Compare(alive_key(record.node), "value", "==", msgspec.msgpack.encode(Alive(lease))))
    puts = (
        Put(process_key(record.pid), msgspec.msgpack.encode(record)),
        Put(spec_key(record.pid), msgspec.msgpack.encode(spec)),
        Put(request_key, b"%d" % record.pid),
    )
    return Transaction(tuple(compares), puts, (Range(request_key), Range(process_key(record.pid)), Range(spec_key(record.pid))))


def _state(tried: Tried) -> str:
    return "running" if tried.running and tried.record.state == "pending" else tried.record.state


def _reason(tried: Tried) -> str:
    return str(tried.failure) if tried.failure is not None else tried.record.reason


def _waiting(wait: Wait) -> Waiting:
    record = wait.record
    queueing = record.queueing
    return Waiting(
        record.pid, record.user, record.argv, queueing.priority, record.created_ms, wait.reason, wait.begins_ms, queueing.array, queueing.index
    )


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the service of one node."""
    return serve(folder, beat, BEAT_MS / 1000, lambda kernel: Placement(kernel).run(), "placement")
