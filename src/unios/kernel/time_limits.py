"""Time limits: ends what has run for longer than it may, SIGTERM first and SIGKILL TIME_LIMIT_GRACE_MS later. Mechanism of the node on which it runs.

An incarnation's time counts from the moment its program was executed, by CLOCK_BOOTTIME: nobody can set that, and it goes on while the kernel, or the
machine, is away. Linux itself knows it, so a restarted kernel forgets nothing. That the limit is over
is recorded before any signal is sent, so that the end is told as what it is, and the process is not started again.
"""

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from unios.core import claims
from unios.core.processes import LIVE, ProcessRecord, process_key
from unios.errors import NotFound, UniosError
from unios.kernel import linux_pids, runfiles
from unios.kernel.clocks import boot_ms
from unios.kernel.node_usage import is_launcher
from unios.limits import TIME_LIMIT_GRACE_MS
from unios.wire.ticks import at_each_tick

if TYPE_CHECKING:
    from unios.kernel.node import Node

EVERY_S = 0.5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Key = tuple[int, int]


class TimeLimits:
    """Those of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._began: dict[Key, int] = {}
        """CLOCK_BOOTTIME ms, of those that have a limit and run here"""
        self._ending: dict[Key, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look again and again; ends only by cancellation."""
        await at_each_tick(EVERY_S, self.look)

    def look(self) -> None:
        """Begin to end what has run for too long."""
        seen: set[Key] = set()
        children: dict[int, list[int]] = {}
        for key, tree in self._node.trees.trees.items():
            if tree.state != "running":
                continue
            record = self._node.processes.values.get(process_key(key[0]))
            if record is None or record.incarnation != key[1] or not record.queueing.time_limit_ms:
                continue
            seen.add(key)
            if key not in self._began:
                children = children or linux_pids.parents()  # once a look, whatever number of processes is new
                self._began[key] = self._start_of(tree.init_pid, children)
            began = self._began[key]
            if key not in self._ending and boot_ms() - began >= record.queueing.time_limit_ms and record.state in LIVE:
                task = self._ending[key] = asyncio.get_running_loop().create_task(self._end(key))
                task.add_done_callback(lambda _done, key=key: self._ending.pop(key, None))  # type: ignore[misc]
        for key in self._began.keys() - seen:
            del self._began[key]

    def _start_of(self, init_pid: int, children: dict[int, list[int]]) -> int:
        """Return when the program was started, as Linux says: it is the eldest below the launcher. Now, if there is none any more."""
        below = children.get(init_pid, [])
        starts = [runfiles.start_of(pid) for one in below for pid in children.get(one, [])]
        starts = starts or [runfiles.start_of(pid) for pid in below if not is_launcher(pid)]  # a launcher may be much older than its program
        known = [start * 1_000 // TICKS_PER_S for start in starts if start]
        return min(known, default=boot_ms())

    async def _end(self, key: Key) -> None:
        node = self._node

        def over(record: ProcessRecord) -> ProcessRecord | None:
            return claims.timed_out(record) if record.wanted != "stopped" and record.state in LIVE else None

        with contextlib.suppress(UniosError):
            with contextlib.suppress(NotFound):
                event = node.events.put("limit", f"process {key[0]}: its time limit is over on {node.name}", key[0])
                await node.records.change_own(node.name, *key, over, event=event)
            init = node.trees.init(*key)
            await init.ask("signal", number=int(signal.SIGTERM), all=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(init.closed.wait(), TIME_LIMIT_GRACE_MS / 1_000)
                return
            await init.ask("signal", number=int(signal.SIGKILL), all=True)
