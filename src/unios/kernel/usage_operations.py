"""The kernel's operations `node.usage`, what the machine and its processes use now for the price of one request, and `processes.usage`, what users have used.

Decisions 0017 and 0018.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from unios.core import sums
from unios.core.processes import process_key
from unios.errors import Unavailable
from unios.kernel import node_usage
from unios.kernel.callers import Caller
from unios.kernel.clocks import boot_ms
from unios.kernel.records import decode
from unios.kernel.trees import TreeInfo
from unios.store.pages import every
from unios.wire.operations import NodeUsage, ProcessUsage, UserUsage
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

TREES_AT_ONCE = 32
PROCESSES_AT_ONCE = 128
ATTEMPTS_MAX = 10
"""Old records are counted every few seconds, and reading takes far less."""
SAMPLE_MS = 500
"""A percentage is of at least so long."""


class UsageOperations:
    """Serves `node.usage` and `processes.usage`."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._before: tuple[int, node_usage.Machine] | None = None
        self._last: tuple[int, node_usage.Machine] | None = None
        """When, and what it was."""

    async def usage(self, caller: Caller, call: Call) -> object:
        """What this node's machine and processes use now."""
        now = node_usage.machine()
        return NodeUsage(
            node=self._node.name,
            at_ms=boot_ms(),
            cores=os.cpu_count() or 1,
            cpu_busy_ms=now.busy_ms,
            cpu_percent=self._percent(now),
            memory_bytes=now.memory_bytes,
            memory_used_bytes=now.memory_used_bytes,
            load=now.load,
            processes=await self._processes(),
        )

    async def by_user(self, caller: Caller, call: Call) -> object:
        """What each user's processes have used that have ended, those whose records are gone too."""
        store = self._node.store
        for _attempt in range(ATTEMPTS_MAX):
            before, _revision = await every(store, sums.PREFIX)
            records, _revision = await every(store, "/processes/")
            after, _revision = await every(store, sums.PREFIX)
            if before == after:  # else a record may have been counted and read, or neither
                kept = {one.user: one for one in (msgspec.msgpack.decode(record.value, type=sums.UserSum) for record in after)}
                found = sums.totals(kept, [decode(record) for record in records])
                return tuple(UserUsage(one.user, one.processes, one.cpu_ms, one.memory_peak_bytes) for one in found)
        raise Unavailable("old records are being counted; try again")

    def _percent(self, now: node_usage.Machine) -> float:
        if self._last is None or boot_ms() - self._last[0] >= SAMPLE_MS:
            self._before, self._last = self._last, (boot_ms(), now)
        busy, whole = now.busy_ms, now.all_ms
        if self._before is not None:
            busy, whole = busy - self._before[1].busy_ms, whole - self._before[1].all_ms
        return round(100 * busy / whole, 1) if whole > 0 else 0.0

    async def _processes(self) -> tuple[ProcessUsage, ...]:
        node = self._node
        alive = sorted(
            (tree for tree in node.trees.trees.values() if tree.state in ("starting", "running")), key=lambda one: (one.pid, one.incarnation)
        )
        used: dict[tuple[int, int], node_usage.Used] = {}
        counted_by_groups = node.trees.bounded >= {"memory", "cpu"}
        rest = [] if counted_by_groups else alive
        for some in _parts(alive) if counted_by_groups else ():
            counted, others = node_usage.of_groups((tree, node.trees.bounds(tree)) for tree in some)
            used |= counted
            rest += others
            await asyncio.sleep(0)  # a thousand trees take half a second: whatever else the kernel has to do has its turn
        if rest:
            used |= await self._by_proc(rest)
        found = []
        for tree in alive:
            record = node.processes.values.get(process_key(tree.pid))
            if (tree.pid, tree.incarnation) in used:
                user, state = (record.user, record.state) if record is not None else ("", tree.state)
                found.append(ProcessUsage(tree.pid, tree.incarnation, user, state, *used[tree.pid, tree.incarnation]))
        return tuple(found)

    async def _by_proc(self, trees: list[TreeInfo]) -> dict[tuple[int, int], node_usage.Used]:
        survey, used = node_usage.Survey(), dict[tuple[int, int], node_usage.Used]()
        while survey.waiting:
            survey.take(PROCESSES_AT_ONCE)
            await asyncio.sleep(0)
        for some in _parts(trees):
            used |= survey.of(some)
            await asyncio.sleep(0)
        return used


def _parts(trees: list[TreeInfo]) -> Iterator[list[TreeInfo]]:
    return (trees[start : start + TREES_AT_ONCE] for start in range(0, len(trees), TREES_AT_ONCE))
