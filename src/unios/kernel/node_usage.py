"""Node usage: what the machine and the trees of a node use, read from /proc and from their control groups. Asks no init; decides nothing.

One reading of /proc serves all trees that have no group to read. A tree that ends meanwhile is left out.
"""

import contextlib
import os
from collections.abc import Iterable
from typing import NamedTuple

from unios.kernel.bounds import Bounds
from unios.kernel.trees import TreeInfo

TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Used(NamedTuple):
    """By one tree, now."""

    cpu_ms: int
    memory_bytes: int
    linux_processes: int


class Machine(NamedTuple):
    """What the machine shows of itself; times since its start."""

    busy_ms: int
    all_ms: int
    memory_bytes: int
    memory_used_bytes: int
    load: tuple[float, float, float]


def machine() -> Machine:
    """Return what this machine uses. Raises OSError."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = {name: int(rest.split()[0]) * 1024 for name, _colon, rest in (line.partition(":") for line in file)}
    total = memory["MemTotal"]
    idle = ticks[3] + ticks[4]
    return Machine((sum(ticks) - idle) * TICK_MS, sum(ticks) * TICK_MS, total, total - memory.get("MemAvailable", memory["MemFree"]), os.getloadavg())


class _Process(NamedTuple):
    parent: int
    ticks: int
    pages: int


def of_groups(trees: Iterable[tuple[TreeInfo, Bounds]]) -> tuple[dict[tuple[int, int], Used], list[TreeInfo]]:
    """Return what each tree uses, by its groups, and the trees whose groups do not count everything."""
    found, others = {}, []
    for tree, bounds in trees:
        used = Used(bounds.cpu_ms(), bounds.memory_bytes(), bounds.processes() - 1)
        if min(used) >= 0:
            found[tree.pid, tree.incarnation] = used
        else:
            others.append(tree)
    return found, others


class Survey:
    """All processes of the machine, as /proc shows them: of those that have ended in a tree only what their parents have waited for.

    Taken in parts, for there are thousands: `take` some of `waiting` until none is left; then ask.
    """

    def __init__(self) -> None:
        self.waiting = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        self._seen: dict[int, _Process] = {}
        self._children: dict[int, list[int]] = {}

    def take(self, count: int) -> None:
        """Read so many."""
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        for pid in taken:
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/stat", "rb") as file:
                stat = file.read().rsplit(b")", 1)[1].split()
                if stat[0] not in b"ZX":
                    self._seen[pid] = _Process(int(stat[1]), sum(map(int, stat[11:15])), int(stat[21]))
                    self._children.setdefault(int(stat[1]), []).append(pid)

    def of(self, trees: Iterable[TreeInfo]) -> dict[tuple[int, int], Used]:
        """Return what each tree uses; one that has no init any more is left out."""
        return {(tree.pid, tree.incarnation): self._of_tree(tree.init_pid) for tree in trees if tree.init_pid in self._seen}

    def _of_tree(self, init: int) -> Used:
        waiting, ticks, pages, count = list(self._children.get(init, ())), 0, 0, 0
        while waiting:
            pid = waiting.pop()
            waiting.extend(self._children.get(pid, ()))
            process = self._seen[pid]
            if process.parent == init and is_launcher(pid):
                continue
            ticks, pages, count = ticks + process.ticks, pages + process.pages, count + 1
        return Used(ticks * TICK_MS, pages * PAGE_BYTES, count)


def is_launcher(pid: int) -> bool:
    """Return whether a process is a launcher, by its name."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
        return file.read().rstrip("\n") == "unios-launcher"
    return False
