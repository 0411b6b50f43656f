"""Whether a Linux process that named itself is gone for certain: it is of this machine's boot and of this pid namespace, and lives no more."""

import os
from pathlib import Path


def is_gone(linux: tuple[str, int, int, int] | None) -> bool:
    """Return whether (boot id, pid namespace, pid, start time) is known to have ended; of a process elsewhere nothing is known."""
    if linux is None:
        return False
    boot, namespace, pid, start = linux
    try:
        if boot != Path("/proc/sys/kernel/random/boot_id").read_text().strip() or namespace != os.stat("/proc/self/ns/pid").st_ino:
            return False
    except OSError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return True
    except (OSError, IndexError):
        return False
    return stat[0] in "ZX" or int(stat[19]) != start
