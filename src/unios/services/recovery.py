"""The recovery service: what happens to processes after a loss. One per node; each may act, the store lets one win.

When a node's lease has ended, its processes are claimed for the next incarnation and started elsewhere, or marked lost, as their policies say (core/recovery.py).
It also starts again what has ended and is to be restarted, and keeps records and events within their bounds.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Final

import msgspec

from unios.client.aio import Kernel, serve
from unios.core import claims, recovery, tidying
from unios.core.membership import BecameLeft, BecameLost, BecameReady, Change
from unios.core.nodes import node_key
from unios.core.processes import LIVE, ProcessRecord
from unios.core.rules import POLICY_KEY, PolicyRule, Rule
from unios.errors import UniosError
from unios.limits import BEAT_MS, EVENTS_KEPT, RECORDS_ENDED_KEPT
from unios.services import counting
from unios.services.policies import Policies
from unios.services.policy_deaths import deaths_of
from unios.services.quorum import QuorumKeeping
from unios.services.starter import Starter
from unios.services.view import View
from unios.store.model import Put
from unios.store.pages import every
from unios.wire.home import NodeFolder
from unios.wire.operations import EventView
from unios.wire.ticks import tick_or

if TYPE_CHECKING:
    from unios.services.rules import Rules

EVERY_S: Final = 1.0
"""How often everything is looked at again, whatever was heard."""
CALM_MS: Final = 100
"""To start again what has ended is in less of a hurry still: starts and ends that want nothing of it are most of what it hears."""
TIDY_EVERY: Final = 20


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Recovery:
    """The service."""

    def __init__(self, kernel: Kernel) -> None:
        self._me = kernel.folder.name
        self._view = View(kernel, self._on_change, on_process=self._on_process, on_rule=self._on_rule, calm_ms=CALM_MS)
        self._policies = Policies(self._view.books, self._policy_failed, deaths_of(kernel.folder, "recovery", wall_ms))
        self._rules: Rules | None = None
        self._starter = Starter(kernel, self._view, self._policies, wall_ms)
        self._wake = asyncio.Event()
        self._claiming: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._open: dict[int, ProcessRecord] = {}
        """Those that live, or are to be started again: what else there is costs no look."""
        self._events = 0
        self._quorum = QuorumKeeping(self._view, lambda kind, text: self._put(kind, text, 0))
        self._ready: set[str] = set()
        """Nodes whose loss would be news."""
        self._telling: set[asyncio.Task[None]] = set()

    def _on_rule(self, key: str, _before: Rule | None, now: Rule | None) -> None:
        if key == POLICY_KEY:
            self._policies.set(now if isinstance(now, PolicyRule) else None)

    def _policy_failed(self, name: str, why: str) -> None:
        from unios.services.rules import Rules  # which is much that this service needs for nothing else

        self._rules = self._rules or Rules(self._view, self._me)
        self._rules.policy_failed(name, why)

    def _on_change(self, change: Change) -> None:
        if isinstance(change, BecameLost | BecameLeft):
            self._wake.set()
        if isinstance(change, BecameReady):
            self._ready.add(change.name)
        lost = isinstance(change, BecameLost) and change.name in self._ready  # one that joins is not lost before it is there
        self._ready.difference_update([change.name] if lost else [])
        if lost and next(iter(self._view.survivors()), "") == self._me:
            self._telling.add(task := asyncio.get_running_loop().create_task(self._tell_lost(change.name)))
            task.add_done_callback(self._telling.discard)

    async def _tell_lost(self, name: str) -> None:
        """Leave an event: one of those who see the loss does; should two think that they are the one, it is told twice."""
        record = self._view.nodes.values.get(node_key(name))
        if record is None or record.stopped or record.state == "left":
            return
        text = self._view.flapping.news(name, time.monotonic_ns() // 1_000_000, f"{name} is lost: {self._view.membership.view(name)[1]}")
        if not text:
            return
        put = self._put("loss", text, 0)
        with contextlib.suppress(UniosError):
            await self._view.store.put(put.key, put.value)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._view.run())
            await self._view.wait_complete()
            await self._look_again()

    def _on_process(self, pid: int, _before: ProcessRecord | None, now: ProcessRecord | None) -> None:
        """Keep what may have to be acted upon; look at once when a process has ended that is to be restarted."""
        if now is None or not (now.state in LIVE or claims.wants_restart(now)):
            self._open.pop(pid, None)
            return
        self._open[pid] = now
        if now.state not in LIVE and (pid, now.incarnation) not in self._claiming:
            self._wake.set()

    async def _look_again(self) -> None:
        rounds = 0
        while True:
            self._wake.clear()
            self._look()
            await tick_or(self._wake, EVERY_S)
            rounds += 1
            if self._view.tidier() == self._me:
                self._quorum.start_look()
            if rounds % TIDY_EVERY == 0 and self._view.tidier() == self._me:
                with contextlib.suppress(UniosError):
                    await self._tidy()

    def _look(self) -> None:
        if self._me not in self._view.survivors():
            return
        by_user: dict[str, list[ProcessRecord]] = {}
        for record in self._open.values():
            by_user.setdefault(record.user, []).append(record)
        for user, records in by_user.items():
            survivors = self._view.survivors(user)
            if self._me in survivors:
                self._look_at(records, survivors)

    def _look_at(self, records: list[ProcessRecord], survivors: list[str]) -> None:
        holders = {record.node for record in records if record.state in LIVE and record.node}
        for node in holders:
            state, _reason = self._view.membership.view(node)
            if state in ("lost", "left"):
                for claim in recovery.plan(node, records, self._me, survivors):
                    self._start(claim, self._after_loss(claim, node, state))
        for claim in recovery.restarts(records, self._me, survivors):
            self._start(claim, self._restart(claim))

    def _start(self, claim: recovery.Claim, work: Coroutine[None, None, None]) -> None:
        key = (claim.pid, claim.incarnation)
        if key in self._claiming:
            work.close()
            return

        async def later() -> None:
            try:
                await asyncio.sleep(claim.delay_ms / 1000)
                await work
            except UniosError:
                pass  # the next look finds it again
            finally:
                work.close()
                await asyncio.sleep(0.3)
                self._claiming.pop(key, None)

        self._claiming[key] = asyncio.get_running_loop().create_task(later())

    async def _after_loss(self, claim: recovery.Claim, node: str, state: str) -> None:
        found = await self._starter.read(claim.pid)
        if found is None or found[0].incarnation != claim.incarnation or found[0].node != node or found[0].state not in LIVE:
            return
        record, modified = found
        why = f"{node} has left" if state == "left" else f"{node} was lost"
        outcome = claims.on_gone(record) if state == "left" else claims.on_loss(record)  # from there nothing comes back
        if outcome == "kept":
            if not record.reason:
                await self._starter.replace(claims.kept(record, why), modified, lost=node)
            return
        if outcome == "lost":
            await self._starter.replace(claims.lost(record, why, wall_ms()), modified, self._event("loss", record, why), lost=node)
            return
        best, chosen = self._starter.best(record)
        await self._again(claims.claimed(record, best, why, chosen), modified, why, lost=node)

    async def _again(self, record: ProcessRecord, modified: int, why: str, *, lost: str = "") -> None:
        where = f"runs again on {record.node}" if record.node else "waits in the queue"
        event = self._event("recovery", record, f"{why}: incarnation {record.incarnation} {where}")
        number = await self._starter.replace(record, modified, event, lost=lost)
        if number and record.node:
            await self._starter.start(record, number)

    async def _restart(self, claim: recovery.Claim) -> None:
        found = await self._starter.read(claim.pid)
        if found is None or found[0].incarnation != claim.incarnation or not claims.wants_restart(found[0]):
            return
        await asyncio.sleep(min(0.1 * 2 ** min(found[0].restarts, 7), 10.0) if found[0].restarts else 0)
        again = claims.restarted(found[0], *self._starter.best(found[0]))
        await self._again(again, found[1], again.reason)

    def _event(self, kind: str, record: ProcessRecord, text: str) -> Put:
        return self._put(kind, f"process {record.pid}: {text}", record.pid)

    def _put(self, kind: str, text: str, pid: int) -> Put:
        self._events += 1
        now = wall_ms()
        view = EventView(now, self._me, kind, text, pid)
        return Put(f"/events/{now:015d}-{self._me}-r{self._events % 1_000_000:06d}", msgspec.msgpack.encode(view))

    async def _tidy(self) -> None:
        """Delete the oldest events and the records of processes that ended long ago, with what belongs to them."""
        store = self._view.store
        events, _revision = await every(store, "/events/")
        surplus = [record.key for record in events[: max(0, len(events) - EVENTS_KEPT)]]
        surplus += tidying.surplus(self._view.processes.values.values(), RECORDS_ENDED_KEPT)
        gone = {b"%d" % int(key.rpartition("/")[2]) for key in surplus if key.startswith("/processes/")}
        requests, _revision = await every(store, "/requests/")
        surplus += [record.key for record in requests if record.value in gone]
        await counting.delete(store, surplus, self._view.processes.values, self._view.processes.modified)


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the service of one node."""
    return serve(folder, beat, BEAT_MS / 1000, lambda kernel: Recovery(kernel).run(), "recovery")
