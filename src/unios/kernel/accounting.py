"""Accounting: what a tree has used, and whether it ran out of memory. Reads its groups, or what Linux tells of children that were waited for.

Without groups a process that its parent never waited for counts only while it lives, and of memory only the largest process is known.
"""

import contextlib
import os
import resource
from typing import Any, Final

from unios.core import exhaustion
from unios.kernel.bounds import Bounds

_PAGE_BYTES: Final = resource.getpagesize()


class Accounting:
    """That of one init. Built with the spare: what was before the job counts for nothing."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._kills_before = machine_kills() if bounds.memory_kills() < 0 else 0
        self.killed_on_request = False
        """Somebody has sent SIGKILL: its death of that proves nothing."""

    def cpu_ms(self, living_ticks: int = 0) -> int:
        """Return the processor time of the tree. `living_ticks`: what its living processes show, for want of a group."""
        counted = self._bounds.cpu_ms()
        if counted >= 0:
            return counted
        reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
        return int(1000 * (living_ticks / os.sysconf("SC_CLK_TCK") + reaped.ru_utime + reaped.ru_stime))

    def memory_bytes(self, living_pages: int) -> int:
        """Return what it uses now. `living_pages`: what its processes show, for want of a group."""
        counted = self._bounds.memory_bytes()
        return counted if counted >= 0 else living_pages * _PAGE_BYTES

    def close(self, *, killed: bool) -> dict[str, Any]:
        """Return the fields of the exit that tell what was used and why there was no more. `killed`: the program died of SIGKILL, and not of ours."""
        kills, peak = self._bounds.memory_kills(), self._bounds.memory_peak_bytes()
        evidence = exhaustion.Evidence(
            killed=killed and not self.killed_on_request,
            kills=kills,
            peak_bytes=peak,
            limit_bytes=self._bounds.asked.memory_bytes,
            machine_kills=machine_kills() - self._kills_before if kills < 0 and killed else 0,
        )
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return {
            "cpu_ms": self.cpu_ms(),
            "memory_peak_bytes": peak if peak >= 0 else largest,
            "exhausted": exhaustion.sentence(evidence),
        }


def machine_kills() -> int:
    """Return how often Linux has killed for want of memory since the machine started, wherever; 0 if it does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
