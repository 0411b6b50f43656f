"""Usage: what processes take of memory and processors, from /proc."""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

MB = 1_000_000


def pss_mb(pids: Iterable[int]) -> float:
    """Return the proportional set size of the processes together, in MB (10^6 bytes). What has ended counts for nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total / MB


def processor_s(pids: Iterable[int]) -> float:
    """Return the processor seconds that the processes have used since they started: to the ns where schedstat tells, else in ticks."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            try:
                total += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
            except (FileNotFoundError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def thread_s() -> dict[str, float]:
    """Return the processor seconds of each thread of this process that Python knows, by name (its class has one where it has none); needs schedstat."""
    used: dict[str, float] = {}
    for thread in threading.enumerate():
        with contextlib.suppress(OSError):
            text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            name = type(thread).__name__ if thread.name.startswith("Thread-") else thread.name
            used[name] = used.get(name, 0.0) + int(text.split()[0]) / 1e9
    return used


def children() -> list[int]:
    """Return the processes of `multiprocessing` that this one has."""
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def processor_shares(groups: dict[str, list[int]], over_s: float) -> dict[str, float]:
    """Return each group's use as a share of one core (1.0: a whole one), over `over_s` seconds."""
    before = {name: processor_s(pids) for name, pids in groups.items()}
    began = time.perf_counter()
    time.sleep(over_s)
    passed = time.perf_counter() - began
    return {name: (processor_s(pids) - before[name]) / passed for name, pids in groups.items()}


def part_of(pid: int) -> str:
    """Return which part of a node a process is: kernel, guard, init, placement ..."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
    if words[:1] == ["unios:"] and len(words) > 1:
        return words[1]
    return name.removeprefix("unios-")
