"""Bounds: what one tree may use, and what it has used, by its control groups. Carries out what the job says; never decides.

Made and joined with the spare, ahead of the job; nothing is written for a job that asks for no more than the defaults. A bound that the machine cannot
enforce is left out: the kernel knows which (`kinds`) and says so. Reading never raises: what cannot be read is not known.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from unios.kernel import cgroups, clone
from unios.kernel.hierarchies import Hierarchy
from unios.limits import CPU_PERIOD_US, TASKS_PER_TREE_MAX

_NAMES: Final = {
    "v2": {"memory": "memory.current", "peak": "memory.peak", "limit": "memory.max", "swap": "memory.swap.max", "kills": "memory.events"},
    "v1": {
        "memory": "memory.usage_in_bytes",
        "peak": "memory.max_usage_in_bytes",
        "limit": "memory.limit_in_bytes",
        "swap": "memory.memsw.limit_in_bytes",
        "kills": "memory.oom_control",
    },
}


class Asked(NamedTuple):
    """What a job may use; 0: nothing else than the default."""

    memory_bytes: int = 0
    cpu_milli: int = 1_000
    cpu_milli_max: int = 0
    tasks: int = 0


class Bounds:
    """Those of one tree. `counted`: the freezer's group if that is of version 2, where processor time is counted without any controller."""

    def __init__(self, hierarchies: Sequence[Hierarchy], tree: str, counted: str = "") -> None:
        self._hierarchies = hierarchies
        self._groups = {kind: (one.version, f"{one.path}/{tree}") for one in hierarchies for kind in one.kinds}
        self._own = [f"{one.path}/{tree}" for one in hierarchies if not one.joined]
        self._counted = counted
        self._cpu_before_ms = 0
        self.asked = Asked()

    def prepare(self) -> None:
        """Make the groups, with the default bound of processes. Raises OSError."""
        for path in self._own:
            os.makedirs(path, exist_ok=True)
        self._write("pids", "pids.max", TASKS_PER_TREE_MAX)

    def join(self, pid: int = 0) -> None:
        """Put a process, the calling one by default, into the groups. Raises OSError."""
        for path in self._own:
            cgroups.join(path, pid)

    def complete(self) -> bool:
        """Return whether processor time and memory are counted by group, and not by what a process has waited for."""
        return "memory" in self._groups and ("cpu" in self._groups or bool(self._counted))

    def rest(self) -> None:
        """What was used up to now was the launcher's getting ready."""
        self._cpu_before_ms = 0
        self._cpu_before_ms = max(0, self.cpu_ms())

    def apply(self, asked: Asked) -> None:
        """Bound the tree as its job says. Raises OSError."""
        self.asked = asked
        if asked.memory_bytes:
            self._bound_memory(asked.memory_bytes)
        if asked.tasks:
            self._write("pids", "pids.max", asked.tasks)
        version = self._groups.get("cpu", ("", ""))[0]
        if asked.cpu_milli != 1_000:
            if version == "v2":
                self._write("cpu", "cpu.weight", min(10_000, max(1, asked.cpu_milli // 10)))
            else:
                self._write("cpu", "cpu.shares", min(262_144, max(2, asked.cpu_milli * 1_024 // 1_000)))
        if asked.cpu_milli_max:
            quota = max(1_000, asked.cpu_milli_max * CPU_PERIOD_US // 1_000)
            if version == "v2":
                self._write("cpu", "cpu.max", f"{quota} {CPU_PERIOD_US}")
            else:
                self._write("cpu", "cpu.cfs_period_us", CPU_PERIOD_US)
                self._write("cpu", "cpu.cfs_quota_us", quota)

    def deny(self, devices: Iterable[tuple[int, int]]) -> None:
        """Keep character devices from the tree: (major, minor). Raises OSError."""
        for major, minor in devices:
            self._write("devices", "devices.deny", f"c {major}:{minor} rwm")

    def _bound_memory(self, limit: int) -> None:
        if "memory" in self._groups:
            version, path = self._groups["memory"]
            self._write("memory", _NAMES[version]["limit"], limit)
            with contextlib.suppress(OSError):  # there only where Linux counts swap
                clone.write_kernel_file(f"{path}/{_NAMES[version]['swap']}", str(limit if version == "v1" else 0))

    def _write(self, kind: str, name: str, value: int | str) -> None:
        if kind in self._groups:
            clone.write_kernel_file(f"{self._groups[kind][1]}/{name}", str(value))

    # what it has used

    def cpu_ms(self) -> int:
        """Return the processor time of everything that ever was in the group; -1 if nobody counts it."""
        version, path = self._groups.get("cpu", ("", ""))
        if self._counted or version == "v2":
            used = _field(f"{self._counted or path}/cpu.stat", "usage_usec") // 1_000
        else:
            used = _number(f"{path}/cpuacct.usage") // 1_000_000 if path else -1
        return max(0, used - self._cpu_before_ms) if used >= 0 else -1

    def memory_bytes(self) -> int:
        """Return what it uses now, without what Linux keeps only because there is room; -1 if nobody counts it."""
        if "memory" not in self._groups:
            return -1
        version, path = self._groups["memory"]
        used = _number(f"{path}/{_NAMES[version]['memory']}")
        return max(0, used - max(0, _field(f"{path}/memory.stat", "inactive_file"))) if used >= 0 else -1

    def processes(self) -> int:
        """Return how many Linux processes are in it, the launcher among them; -1 if nobody counts them."""
        paths = [path for _version, path in self._groups.values()] or [self._counted]
        return len(cgroups.members(paths[0])) if paths[0] and os.path.isdir(paths[0]) else -1

    def memory_peak_bytes(self) -> int:
        """Return the most that it used at one time; -1 if nobody counts it."""
        version, path = self._groups.get("memory", ("v2", ""))
        return _number(f"{path}/{_NAMES[version]['peak']}") if path else -1

    def memory_kills(self) -> int:
        """Return how many of its processes Linux has killed for want of memory; -1 if nobody counts them."""
        version, path = self._groups.get("memory", ("v2", ""))
        return _field(f"{path}/{_NAMES[version]['kills']}", "oom_kill") if path else -1

    def refused(self) -> int:
        """Return how many forks the bound of processes has refused; -1 if nobody counts them."""
        return _field(f"{self._groups['pids'][1]}/pids.events", "max") if "pids" in self._groups else -1

    def open_refusals(self) -> int:
        """Return a descriptor of the file in which Linux counts the forks that the bound of processes refused, and wakes who polls it; -1 without one."""
        if "pids" in self._groups:
            with contextlib.suppress(OSError):
                return os.open(f"{self._groups['pids'][1]}/pids.events", os.O_RDONLY | os.O_CLOEXEC)
        return -1

    def remove(self) -> bool:
        """Remove the groups, once the tree is dead; return whether all are gone."""
        gone = True
        for path in self._own:
            try:
                os.rmdir(path)
            except OSError:
                gone &= cgroups.remove("v1", path, timeout_s=0.2)
        return gone


NONE: Final = Bounds((), "")


def parse(fields: Mapping[str, object]) -> Asked:
    """Return the bounds of a spawn request. Raises TypeError, ValueError."""
    return Asked(**{name: int(str(fields[name])) for name in Asked._fields if name in fields})


def _number(path: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(clone.read_kernel_file(path))
    return -1


def _field(path: str, name: str) -> int:
    """Return the number behind a name in a file of names and numbers; -1 if it is not there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in clone.read_kernel_file(path).splitlines():
            words = line.split()
            if words[0] == name.encode():
                return int(words[1])
    return -1
