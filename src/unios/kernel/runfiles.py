"""Run files: pid and start time of each process of a node: a successor adopts it and never mistakes a stranger for it.

Without pathlib: the guard imports this, and what it imports every init has to fork.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import NamedTuple

PathLike = str | os.PathLike[str]


class Running(NamedTuple):
    """A Linux process named beyond doubt: its pid and when it started (field 22 of /proc/PID/stat, in clock ticks)."""

    pid: int
    start: int


def start_of(pid: int) -> int:
    """Return when `pid` started, 0 if it does not exist or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            stat = file.read().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0
    return 0 if stat[0] in "ZX" else int(stat[19])


def place(path: PathLike, text: str) -> None:
    """Write a file that others look at: who reads it finds what was there or all of `text`, and never a part of it."""
    folder, name = os.path.split(path)
    part = f"{folder}/.{name}.{os.getpid()}"
    try:
        with open(part, "w") as file:
            file.write(text)
        os.replace(part, path)
    except OSError:
        remove(part)
        raise


def text(path: PathLike) -> str:
    """Return what a file says, nothing if there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def write(path: PathLike, pid: int) -> None:
    """Record `pid` atomically."""
    place(path, json.dumps({"pid": pid, "start": start_of(pid)}))


def read(path: PathLike) -> Running | None:
    """Return the recorded process if it is still that one and alive."""
    try:
        with open(path) as file:
            found = parse(file.read())
    except (OSError, ValueError):
        return None
    return found if found and found.start and start_of(found.pid) == found.start else None


def parse(text: str | bytes) -> Running | None:
    """Return the process that a run file names, alive or not; None if it makes no sense."""
    try:
        fields = json.loads(text)
        return Running(int(fields["pid"]), int(fields["start"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def open_pidfd(running: Running) -> int | None:
    """Return a pidfd of exactly that process, None if it is gone."""
    try:
        descriptor = os.pidfd_open(running.pid)
    except OSError:
        return None
    if start_of(running.pid) != running.start:
        os.close(descriptor)
        return None
    return descriptor


def kill(running: Running, number: int) -> bool:
    """Signal exactly that process; False if it is gone."""
    descriptor = open_pidfd(running)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def wait_gone(running: Running, timeout_s: float) -> bool:
    """Wait until that process has ended; False at the timeout."""
    descriptor = open_pidfd(running)
    if descriptor is None:
        return True
    try:
        return wait_readable(descriptor, timeout_s)
    finally:
        os.close(descriptor)


def wait_all_gone(running: list[Running], timeout_s: float) -> list[Running]:
    """Wait until all these processes have ended; return those that have not after `timeout_s`, which is for all together."""
    until = time.monotonic() + timeout_s
    return [each for each in running if not wait_gone(each, max(0.0, until - time.monotonic()))]


def wait_readable(descriptor: int, timeout_s: float) -> bool:
    """Wait until a descriptor, of a pidfd for one, is readable; False at the timeout. By poll: select takes no number over 1,023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def complain(text: str) -> None:
    """Leave a line in the calling process's log; a full disk is no reason to die of it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def remove(path: PathLike) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
