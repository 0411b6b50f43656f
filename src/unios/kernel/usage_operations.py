"""The kernel's operation `node.usage`: what the machine and its processes use now, for the price of one request (decision 0017)."""

import os
from typing import TYPE_CHECKING

from unios.core.processes import process_key
from unios.kernel import node_usage
from unios.kernel.callers import Caller
from unios.kernel.clocks import boot_ms
from unios.wire.operations import NodeUsage, ProcessUsage
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

SAMPLE_MS = 500
"""A percentage is of at least so long."""


class UsageOperations:
    """Serves `node.usage`."""

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
            processes=self._processes(),
        )

    def _percent(self, now: node_usage.Machine) -> float:
        if self._last is None or boot_ms() - self._last[0] >= SAMPLE_MS:
            self._before, self._last = self._last, (boot_ms(), now)
        busy, whole = now.busy_ms, now.all_ms
        if self._before is not None:
            busy, whole = busy - self._before[1].busy_ms, whole - self._before[1].all_ms
        return round(100 * busy / whole, 1) if whole > 0 else 0.0

    def _processes(self) -> tuple[ProcessUsage, ...]:
        node = self._node
        alive = [tree for tree in node.trees.trees.values() if tree.state in ("starting", "running")]
        used = node_usage.of_trees((tree, node.trees.bounds(tree)) for tree in alive)
        found = []
        for tree in sorted(alive, key=lambda one: (one.pid, one.incarnation)):
            record = node.processes.values.get(process_key(tree.pid))
            if (tree.pid, tree.incarnation) in used:
                user, state = (record.user, record.state) if record is not None else ("", tree.state)
                found.append(ProcessUsage(tree.pid, tree.incarnation, user, state, *used[tree.pid, tree.incarnation]))
        return tuple(found)
