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


def of_trees(trees: Iterable[tuple[TreeInfo, Bounds]]) -> dict[tuple[int, int], Used]:
    """Return what each tree uses, by its groups where they count everything."""
    found, others = {}, []
    for tree, bounds in trees:
        used = Used(bounds.cpu_ms(), bounds.memory_bytes(), bounds.processes() - 1)
        if min(used) >= 0:
            found[tree.pid, tree.incarnation] = used
        else:
            others.append(tree)
    return found | by_proc(others)


def by_proc(trees: Iterable[TreeInfo]) -> dict[tuple[int, int], Used]:
    """Return what each tree uses, as /proc shows it: of processes that have ended in it only what their parents have waited for."""
    wanted = {tree.init_pid: (tree.pid, tree.incarnation) for tree in trees}
    if not wanted:
        return {}
    seen = _processes()
    children: dict[int, list[int]] = {}
    for pid, process in seen.items():
        children.setdefault(process.parent, []).append(pid)
    return {key: _of_tree(seen, children, init) for init, key in wanted.items() if init in seen}


def _of_tree(seen: dict[int, _Process], children: dict[int, list[int]], init: int) -> Used:
    waiting, ticks, pages, count = list(children.get(init, ())), 0, 0, 0
    while waiting:
        pid = waiting.pop()
        waiting.extend(children.get(pid, ()))
        if seen[pid].parent == init and _is_launcher(pid):
            continue
        ticks, pages, count = ticks + seen[pid].ticks, pages + seen[pid].pages, count + 1
    return Used(ticks * TICK_MS, pages * PAGE_BYTES, count)


def _is_launcher(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
        return file.read().rstrip("\n") == "unios-launcher"
    return False


def _processes() -> dict[int, _Process]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read().rsplit(b")", 1)[1].split()
                if stat[0] not in b"ZX":
                    found[int(name)] = _Process(int(stat[1]), sum(map(int, stat[11:15])), int(stat[21]))
    return found
