"""Throttle watch: finds trees that fork against their bound where Linux does not wake their inits, and tells of those that are slowed down.

At rest it costs one look at a number of the machine a second.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.crowding import Crowding, is_crowded
from unios.core.processes import ProcessRecord, process_key
from unios.errors import Unavailable, UniosError
from unios.kernel.bounds import Bounds
from unios.limits import TASKS_PER_TREE_MAX
from unios.wire.ticks import tick

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOOK_S: Final = 1.0
ASK_MS: Final = 500
_BEGINS: Final = "slowed down: "
REASON: Final = _BEGINS + "it forks again and again, at its bound of {} Linux processes"


class ThrottleWatch:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._told = asyncio.Queue[tuple[int, int, bool]]()
        node.trees.on_throttled = lambda *what: self._told.put_nowait(what)

    async def run(self) -> None:
        """Look and tell; ends only by cancellation."""
        await self._node.leasing.wait_held()
        await self._node.trees.wait_up()
        await self._node.processes.wait_complete()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(self._tell_all())

    async def _look(self) -> None:
        for record in tuple(self._node.processes.values.values()):
            if record.reason.startswith(_BEGINS) and (record.pid, record.incarnation) in self._node.trees.trees:
                await self._ask(record.pid, record.incarnation)  # that it is over was told while no kernel was here
        crowding = Crowding()
        while True:
            await tick(LOOK_S)
            if not is_crowded(runnable(), self._node.cores):
                crowding.forget()
                continue
            for pid, incarnation in crowding.look(await self._node.trees.figures(Bounds.refused)):
                await self._ask(pid, incarnation)

    async def _ask(self, pid: int, incarnation: int) -> None:
        """Have an init look by itself; what it has told in vain is told now."""
        with contextlib.suppress(UniosError):
            answer = await self._node.trees.init(pid, incarnation).ask("throttle", timeout_ms=ASK_MS)
            record = self._node.processes.values.get(process_key(pid))
            if record is None or record.incarnation != incarnation:
                return
            told = bool(answer["told"])
            if not record.reason if told else record.reason.startswith(_BEGINS):
                self._told.put_nowait((pid, incarnation, told))

    async def _tell_all(self) -> None:
        while True:
            what = await self._told.get()
            try:
                await self._tell(*what)
            except Unavailable:
                asyncio.get_running_loop().call_later(LOOK_S, self._told.put_nowait, what)
            except UniosError:
                continue  # there is no such process any more

    async def _tell(self, pid: int, incarnation: int, on: bool) -> None:
        node = self._node
        record, _modified = await node.records.read(pid)
        if record.incarnation != incarnation or record.reason.startswith(_BEGINS) == on:
            return
        reason = REASON.format(record.resources.tasks or TASKS_PER_TREE_MAX)

        def change(seen: ProcessRecord) -> ProcessRecord | None:
            if seen.state not in ("running", "frozen") or (not on and not seen.reason.startswith(_BEGINS)):
                return None
            return msgspec.structs.replace(seen, reason=(seen.reason or reason) if on else "")  # what is said of it already stays

        does = f"is {reason}; `unios kill {pid}` ends it" if on else "is no longer slowed down"
        event = node.events.put("limit", f"process {pid} on {node.name} {does}", pid)
        await node.records.change_own(node.name, pid, incarnation, change, event=event)


def runnable() -> int:
    """Return how many threads of the machine run or want to; 0 if Linux does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/loadavg", encoding="ascii") as file:
        return int(file.read().split()[3].split("/")[0])
    return 0
