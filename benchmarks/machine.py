"""The machine that a figure was measured on: never its name, and how busy it was with other things."""

import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path


def describe() -> str:
    """Return date, cores, kernel, Python, and what the files of a run are on, as one line."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{now}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}, files on {_file_system()}"


def _file_system() -> str:
    """Return the kind of file system that temporary files are on; of an ext4 also whether it has a journal, which makes another time for many short files."""
    place = os.path.realpath(tempfile.gettempdir())
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    device, _top, kind, *_rest = max((one for one in mounts if f"{place}/".startswith(f"{one[1].rstrip('/')}/")), key=lambda one: len(one[1]))
    if kind != "ext4":
        return kind
    return "ext4" if list(Path("/proc/fs/jbd2").glob(f"{os.path.basename(device)}-*")) else "ext4 without a journal"


def busy(over_s: float = 2.0) -> float:
    """Return which share of all cores together, 0 to 1, is in use now, taken over `over_s`."""
    before = _ticks()
    time.sleep(over_s)
    after = _ticks()
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return 1 - idle / total if total else 0.0


def _ticks() -> list[int]:
    """Return user, nice, system, idle, iowait, irq, softirq, steal of all cores."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
