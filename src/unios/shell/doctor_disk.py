"""Checks of the disk under UNIOS_HOME: room, kind, and how long it takes to make something durable."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from unios.shell.finding import Finding

_FREE_BYTES_MIN = 1 << 30
_FSYNC_MS_MAX = 20.0
_FSYNCS = 15
_REMOTE = {"nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "ceph"}


def disk(home: Path) -> Finding:
    state = os.statvfs(_there(home))
    free = state.f_bavail * state.f_frsize
    found = f"{free / (1 << 30):.1f} GiB free for {home}"
    if free >= _FREE_BYTES_MIN:
        return Finding("disk", found)
    return Finding("disk", found, "output is not kept, and when it is full nothing is started", "make room, or set UNIOS_HOME elsewhere")


def file_system(home: Path) -> Finding:
    best, kind = "", "unknown"
    place = str(_there(home).resolve()) + "/"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, point, type_, *_rest = line.split()
        if place.startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, type_
    if kind not in _REMOTE:
        return Finding("file system", kind)
    costs = "locks and durability of the store cannot be relied on"
    return Finding("file system", kind, costs, "set UNIOS_HOME to a folder on a disk of this machine")


def fsync(home: Path) -> Finding:
    times = []
    with tempfile.TemporaryFile(dir=_there(home)) as file:
        for _ in range(_FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - begun) * 1000)
    median = statistics.median(times)
    found = f"{median:.2f} ms"
    if median <= _FSYNC_MS_MAX:
        return Finding("fsync", found)
    return Finding("fsync", found, "every start and end of a process waits for it", "set UNIOS_HOME to a faster disk")


def _there(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists and can be written."""
    while not (folder.is_dir() and os.access(folder, os.W_OK)) and folder != folder.parent:
        folder = folder.parent
    return folder if folder != folder.parent else Path(tempfile.gettempdir())


CHECKS: tuple[Callable[[Path], Finding], ...] = (disk, file_system, fsync)
