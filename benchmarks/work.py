"""Work: the processor time that the parts of a system and its trees use up, by part; what has ended counts with its guard."""

import os
import time
from pathlib import Path

from benchmarks.system import System
from benchmarks.usage import part_of, processor_s

TREES = "trees (inits, launchers, programs)"
CLIENT = "client"
TRANSIENT = ("init", "launcher")


def snapshot(system: System) -> dict[str, float]:
    """Return the processor seconds used so far: per part, of all trees together, and of this process as the client."""
    used: dict[str, float] = {CLIENT: time.process_time(), TREES: 0.0}
    for pid in system.pids():
        part = part_of(pid)
        if part in TRANSIENT:
            used[TREES] += processor_s([pid])
            continue
        used[part] = used.get(part, 0.0) + processor_s([pid])
        if part == "guard":
            used[TREES] += _children_s(pid)
    return used


def between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return what was used between two snapshots, the largest first."""
    used = {part: after.get(part, 0.0) - before.get(part, 0.0) for part in {*before, *after}}
    return dict(sorted(used.items(), key=lambda item: -item[1]))


def _children_s(pid: int) -> float:
    """Return the processor seconds of the children of a process that it has reaped, and of theirs: a tree is counted when its init is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
