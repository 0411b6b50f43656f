"""Owner: the process that an embedded system belongs to (decision 0029). When it is gone, or says so, nothing of the system stays on this machine.

Every supervisor of such a system holds a pidfd of the owner and takes all away when that ends; the guard replaces a supervisor that is killed, so nobody
is needed who might be missing. `owner.json` in the home says who the owner is: a home without it is an ordinary one, which outlives who started it. Every
part holds a lock on the home, which is seen where its pids are not.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unios.errors import CallerError
from unios.kernel import linux_pids, runfiles, sweep
from unios.wire.home import Home, NodeFolder

GIVEN_UP: Final = signal.SIGUSR1
"""What an owner that goes on tells the supervisors: it needs the system no more."""
GONE_S: Final = 5.0
"""So long what was killed may take to be gone before its folder is removed all the same."""
BEGUN_S: Final = 60.0
"""So long a home may be there before it says whose it is. Whoever is killed meanwhile leaves it to those that tidy after that."""
_NAME: Final = re.compile(r"unios-([0-9]+)-[0-9a-f]{8}")


class Owner:
    """Whom a home belongs to, seen from a process of its system."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.descriptor = -1
        """A pidfd, readable once the owner has ended; -1 if there is none to wait for."""
        self.gone = False
        try:
            fields = (home.path / "owner.json").read_bytes()
        except FileNotFoundError:
            self.gone = not home.system_file.exists()  # it was taken away while this process was starting
            return
        owner = runfiles.parse(fields)
        found = runfiles.open_pidfd(owner) if owner else None
        self.gone = found is None
        self.descriptor = -1 if found is None else found

    def look(self) -> None:
        """Notice whether the owner has ended, without waiting."""
        self.gone = self.gone or (self.descriptor >= 0 and runfiles.wait_readable(self.descriptor, 0))

    def take_away(self, node: NodeFolder) -> None:
        """Be the one of the system's supervisors that takes it away, or wait until another has."""
        lock = lock_of(self.home)
        if lock is None:
            return
        try:
            runfiles.remove(node.run / "supervisor.json")  # or this process would kill itself
            take_away(self.home)
        finally:
            os.close(lock)


def keep_from_tidiers(home: Home) -> None:
    """Hold a lock on an embedded system's home as long as this process lives: `tidy` leaves one alone that is locked, and so does systemd-tmpfiles."""
    if is_owned(home):
        with contextlib.suppress(OSError):
            fcntl.flock(os.open(home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH)


def is_owned(home: Home) -> bool:
    """Return whether it is the home of an embedded system."""
    return (home.path / "owner.json").exists()


def lock_of(home: Home) -> int | None:
    """Return a descriptor that holds the home's boot lock, once nobody else does; None if the home is gone by then."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(home.path / "boot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if home.path.exists():
            return descriptor
        os.close(descriptor)
    return None


def claim(home: Home, pid: int) -> Owner:
    """Make the home, for a system that ends with the process `pid`, the caller's parent. Raises CallerError, or OSError."""
    if os.getppid() != pid:
        raise CallerError(f"{pid} is not the process that started this one: an embedded system belongs to who starts it")
    os.mkdir(home.path, 0o700)
    fcntl.flock(os.open(home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH)  # before it says whose it is, as `keep_from_tidiers`
    runfiles.write(home.path / "owner.json", pid)
    return Owner(home)


def take_away(home: Home) -> None:
    """Kill all that the system has on this machine and remove its home. Idempotent."""
    folders = home.nodes()
    children = linux_pids.parents()
    pids = {pid for folder in folders for pid in linux_pids.of_node(folder, children)} - {os.getpid()}
    found = [runfiles.Running(pid, start) for pid in pids if (start := runfiles.start_of(pid))]
    sweep.kill(folders)
    for running in found:
        runfiles.kill(running, signal.SIGKILL)
    runfiles.wait_all_gone(found, GONE_S)
    until = time.monotonic() + GONE_S
    shutil.rmtree(home.path, ignore_errors=True)
    while home.path.exists() and time.monotonic() < until:  # something was still writing
        time.sleep(0.01)
        shutil.rmtree(home.path, ignore_errors=True)


def tidy(beside: Home) -> None:
    """Take away what embedded systems have left beside this home whose owners are gone, as after a power cut. Never raises.

    Pids alone do not say that: those of a container that shares this folder are none here. Its locks are seen.
    """
    for home in _abandoned(beside):
        with contextlib.suppress(OSError), contextlib.ExitStack() as locks:
            _lock_now(home.path, os.O_RDONLY | os.O_DIRECTORY, locks)
            _lock_now(home.path / "boot.lock", os.O_RDWR | os.O_CREAT, locks)
            take_away(home)


def _lock_now(path: Path, flags: int, locks: contextlib.ExitStack) -> None:
    """OSError if anybody else holds it."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    locks.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _abandoned(beside: Home) -> Iterator[Home]:
    """Yield homes of this user, named as embedded ones, whose owner does not live and that have no supervisor which would see to it."""
    with contextlib.suppress(OSError):
        for name in os.listdir(beside.path.parent):
            match = _NAME.fullmatch(name)
            if not match or name == beside.path.name:
                continue
            home = Home(Path(beside.path.parent / name))
            with contextlib.suppress(OSError):
                found = os.lstat(home.path)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                    continue
                try:
                    owner = runfiles.parse((home.path / "owner.json").read_bytes())
                    lives = owner is not None and runfiles.start_of(owner.pid) == owner.start
                except FileNotFoundError:
                    lives = runfiles.start_of(int(match[1])) != 0 or time.time() - found.st_mtime < BEGUN_S
                if not lives and not any(runfiles.read(folder.run / "supervisor.json") for folder in home.nodes()):
                    yield home
