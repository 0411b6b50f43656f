"""Leash: what a run of the tests has started ends with it, also when that is killed with SIGKILL: nodes are made to outlive whoever started them.

One process for each that runs tests, in a session of its own, started with the first folder that is held. It is told which folders are in use, waits for the
end of its parent, and then kills every process that names one of them, with what descends from it, and removes the folder. A run that ends in order lets
go of all its folders before. Needs nothing of unios: that may be what is broken.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.paths import found

END_S: Final = 20.0
"""So long what was killed may take to be gone before its folder is removed all the same."""
_LOOK_S: Final = 0.05
_GROUP: Final = re.compile(r"/(unios-[0-9a-f]+)")


class _Leash:
    """Of one process that runs tests."""

    def __init__(self) -> None:
        self._owner = 0
        self._process: subprocess.Popen[bytes] | None = None

    def say(self, sign: bytes, folder: Path) -> None:
        if self._process is None or self._owner != os.getpid():  # a forked child has its own
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.leash", str(self._owner)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).parents[1],
                start_new_session=True,
            )
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), sign + os.fsencode(folder) + b"\n")


_leash = _Leash()


def hold(folder: Path) -> Path:
    """See to it that nothing that names this folder outlives this process, and return it."""
    _leash.say(b"+", folder)
    return folder


def let_go(folder: Path) -> None:
    """It has been taken away in order."""
    _leash.say(b"-", folder)


def naming(folder: Path) -> dict[int, bytes]:
    """Return the processes with this folder in their arguments or their environment, but for this one, and what they say there."""
    needle = str(folder).encode()
    said = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                text = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
                if needle in text:
                    said[int(entry.name)] = text
    return said


def _held_at_the_end_of(parent: int) -> set[Path]:
    """Wait until the parent has ended, or has closed what it tells; return which folders were held then."""
    held: set[Path] = set()
    rest = b""
    os.set_blocking(0, False)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    alive = -1
    with contextlib.suppress(ProcessLookupError):
        alive = os.pidfd_open(parent)
        poll.register(alive, select.POLLIN)
    over = os.getppid() != parent  # it had ended before this one looked
    while True:
        over = over or any(descriptor == alive for descriptor, _mask in poll.poll())
        with contextlib.suppress(BlockingIOError):
            while data := os.read(0, 65_536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    (held.add if line[:1] == b"+" else held.discard)(Path(os.fsdecode(line[1:])))
            over = True
        if over:
            return held


def _descendants(pids: set[int]) -> set[int]:
    """Return these processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_bytes().rsplit(b")", 1)[1].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    every, waiting = set(pids), list(pids)
    while waiting:
        new = set(children.get(waiting.pop(), ())) - every
        every |= new
        waiting += new
    return every - {os.getpid()}


def _end(folder: Path) -> None:
    """Kill what names the folder, and remove it."""
    names: set[str] = set()
    until = time.monotonic() + END_S
    while (pids := set(naming(folder))) and time.monotonic() < until:
        for pid in _descendants(pids):
            with contextlib.suppress(OSError):
                names.update(_GROUP.findall(Path(f"/proc/{pid}/cgroup").read_text()))
                os.kill(pid, signal.SIGKILL)
        for group in _groups(names):
            with contextlib.suppress(OSError):  # of version 1: there what is frozen does not even die
                (group / "freezer.state").write_text("THAWED")
        time.sleep(_LOOK_S)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if str(folder) in line:
            subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
    for group in _groups(names):
        with contextlib.suppress(OSError):
            group.rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def _groups(names: set[str]) -> list[Path]:
    """Return the nodes' control groups of these names, in every hierarchy, those within before those around them."""
    groups = [path for name in names for path in found("/sys/fs/cgroup", f"**/{name}/**/") if path.is_dir()]
    return sorted(groups, key=lambda path: -len(path.parts))


if __name__ == "__main__":
    for each in _held_at_the_end_of(int(sys.argv[1])):
        _end(each)
