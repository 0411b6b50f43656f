"""The machine that a figure was measured on: never its name, and how busy it was with other things."""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path


def describe() -> str:
    """Return date, cores, kernel and Python as one line."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{now}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


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
