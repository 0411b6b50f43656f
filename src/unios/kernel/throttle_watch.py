"""Throttle watch: finds trees that fork against their bound where Linux does not wake their inits, and tells of those that are slowed down.

At rest it costs one look at a number of the machine a second.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.crowding import Crowding, Key, is_crowded
from unios.core.processes import ProcessRecord
from unios.errors import UniosError
from unios.limits import TASKS_PER_TREE_MAX
from unios.wire.ticks import tick

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOOK_S: Final = 1.0
TREES_AT_ONCE: Final = 32
REASON: Final = "slowed down: it forks again and again, at its bound of {} Linux processes"


class ThrottleWatch:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._told = asyncio.Queue[tuple[int, int, bool]]()
        node.trees.on_throttled = lambda *what: self._told.put_nowait(what)

    async def run(self) -> None:
        """Look and tell; ends only by cancellation."""
        await self._node.leasing.wait_held()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(self._tell_all())

    async def _look(self) -> None:
        crowding = Crowding()
        while True:
            await tick(LOOK_S)
            if not is_crowded(runnable(), self._node.cores):
                crowding.forget()
                continue
            for pid, incarnation in crowding.look(await self._refused()):
                with contextlib.suppress(UniosError):
                    await self._node.trees.init(pid, incarnation).ask("throttle")

    async def _refused(self) -> dict[Key, int]:
        found: dict[Key, int] = {}
        for at, tree in enumerate([tree for tree in self._node.trees.trees.values() if tree.state == "running"]):
            found[tree.pid, tree.incarnation] = self._node.trees.bounds(tree).refused()
            if at % TREES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    async def _tell_all(self) -> None:
        while True:
            pid, incarnation, on = await self._told.get()
            with contextlib.suppress(UniosError):
                await self._tell(pid, incarnation, on)

    async def _tell(self, pid: int, incarnation: int, on: bool) -> None:
        node = self._node
        record, _modified = await node.records.read(pid)
        reason = REASON.format(record.resources.tasks or TASKS_PER_TREE_MAX)

        def change(seen: ProcessRecord) -> ProcessRecord | None:
            if seen.state not in ("running", "frozen") or (not on and seen.reason != reason):
                return None
            return msgspec.structs.replace(seen, reason=reason if on else "")

        does = f"is {reason}; `unios kill {pid}` ends it" if on else "is no longer slowed down"
        event = node.events.put("limit", f"process {pid} on {node.name} {does}", pid)
        await node.records.change_own(node.name, pid, incarnation, change, event=event)


def runnable() -> int:
    """Return how many threads of the machine run or want to; 0 if Linux does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/loadavg", encoding="ascii") as file:
        return int(file.read().split()[3].split("/")[0])
    return 0
