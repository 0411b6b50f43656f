"""Memory kills: tells of trees that go on though Linux has killed in them for want of memory, in the record and as an event.

At rest it costs one look at a counter of the machine a second. Only when that has moved are the groups of the trees looked at.
"""

import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core import exhaustion
from unios.core.kill_watch import KillWatch
from unios.core.processes import ProcessRecord
from unios.errors import UniosError
from unios.kernel.accounting import machine_kills
from unios.kernel.bounds import Bounds
from unios.wire.ticks import tick

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOOK_S: Final = 1.0


class MemoryKills:
    """Those of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def run(self) -> None:
        """Look again and again; ends only by cancellation."""
        await self._node.leasing.wait_held()
        await self._node.trees.wait_up()
        seen = machine_kills()
        watch = KillWatch(await self._node.trees.figures(Bounds.memory_kills))
        while True:
            await tick(LOOK_S)
            if not any(tree.state == "running" for tree in self._node.trees.trees.values()):
                continue  # for each look Linux writes a page of figures; what it would have said is found to have moved once a tree runs
            now = machine_kills()
            if now != seen or watch.waits:
                seen = now
                for key, count in watch.look(await self._node.trees.figures(Bounds.memory_kills)).items():
                    with contextlib.suppress(UniosError):
                        await self._tell(*key, count)

    async def _tell(self, pid: int, incarnation: int, kills: int) -> None:
        node = self._node
        tree = node.trees.trees.get((pid, incarnation))
        if tree is None or tree.state != "running":
            return
        record, _modified = await node.records.read(pid)
        peak = node.trees.bounds(tree).memory_peak_bytes()
        reason = exhaustion.sentence(exhaustion.Evidence(False, kills, peak, record.resources.memory_bytes, 0))

        def change(seen: ProcessRecord) -> ProcessRecord | None:
            return msgspec.structs.replace(seen, reason=reason) if seen.state in ("running", "frozen") else None

        event = node.events.put("oom", f"process {pid} goes on on {node.name}: {reason}", pid)
        await node.records.change_own(node.name, pid, incarnation, change, event=event)
