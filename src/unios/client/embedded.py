"""The system that a program uses: the one of UNIOS_HOME if that runs, else an embedded one, which this starts and takes away (decision 0029).

Invariants:
- nothing is started at import, and never two for one process, whatever its threads do;
- what a process started ends with it, however it ends; a forked child uses it and does not end it;
- a system that is named but down is never silently replaced by another: locks held in one mean nothing in the other.
"""

import atexit
import contextlib
import os
import secrets
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unios.client import boot
from unios.client.connection import is_alive, recorded, runs
from unios.errors import Unavailable
from unios.limits import EMBEDDED_END_S, EMBEDDED_SAY_S
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder, default_home, door_of, node_names

_PARENT_BYTES_MAX: Final = 40
"""Paths of sockets below it have to stay short: programs that use them by themselves may write 107 bytes."""
_PARENT_FREE_BYTES_MIN: Final = 512 * 1024 * 1024
_DOOR_S: Final = 0.5


class System:
    """A system as a program sees it."""

    __slots__ = ("_owner", "embedded", "home")

    def __init__(self, home: Path, *, embedded: bool, owner: int = 0) -> None:
        self.home = home
        """Its UNIOS_HOME: `UNIOS_HOME=... unios ps` in another terminal looks at it."""
        self.embedded = embedded
        """Whether it was started for this program, and goes away with it."""
        self._owner = owner

    def __repr__(self) -> str:
        return f"<unios.System {str(self.home)!r}{', embedded' if self.embedded else ''}>"

    @property
    def is_there(self) -> bool:
        """Whether it has not been taken away."""
        return not self.embedded or (self.home / "system.json").exists()

    def close(self) -> None:
        """Take an embedded system away now and wait until it is gone; in a process that did not start it, and of an ordinary one, nothing. Idempotent."""
        if self.embedded and self._owner == os.getpid():
            _take_away(Home(self.home))
            _program.forget(self)


class _Program:
    """What this process knows of its system."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.starting = False
        self.known: System | None = None
        self.own: System | None = None
        self._named_before: str | None = None

    def use(self, own: System) -> None:
        """Let the environment name it, for programs that are started from here."""
        self.own, self._named_before = own, os.environ.get("UNIOS_HOME")
        os.environ["UNIOS_HOME"] = str(own.home)

    def forget(self, gone: System) -> None:
        """Undo that, if it is so."""
        if self.own is gone:
            self.own = None
            if os.environ.get("UNIOS_HOME") == str(gone.home):
                del os.environ["UNIOS_HOME"]
                if self._named_before is not None:
                    os.environ["UNIOS_HOME"] = self._named_before

    def forked(self) -> None:
        """Go on in a forked child: no other thread is left that could hold the lock or be starting one."""
        self.lock, self.starting = threading.RLock(), False


_program = _Program()
os.register_at_fork(after_in_child=_program.forked)


def system() -> System:
    """Return the system that this program uses, always the same; start one if none runs.

    That is the one of UNIOS_HOME (default ~/.unios) if it runs, and for a program that unios itself has started the one that did. Else an embedded
    one: a node in a temporary folder, ready within a second, gone when this process ends. UNIOS_HOME of this process then names it, so that programs
    started from here use it too. Raises Unavailable if UNIOS_HOME was set and names a system that is down, or if none can be started.
    """
    known = _program.known
    if known is not None and str(known.home) == default_home() and known.is_there:
        return known
    with _program.lock:
        if _program.starting:
            raise Unavailable("the embedded system is just being started, and this signal handler interrupts that: call unios.system() before")
        _program.known = _find() or _start_own()
        return _program.known


def _find() -> System | None:
    home, own = default_home(), _program.own
    if own is not None and own.is_there and (str(own.home) == home or not is_up(home)):
        return own
    if is_up(home):
        return System(Path(home), embedded=False)
    if os.environ.get("UNIOS_HOME") and Home(Path(home)).system_file.exists():
        raise Unavailable(f"the system of UNIOS_HOME={home} is down: `unios up` starts it; without UNIOS_HOME this program gets one of its own")
    return None


def is_up(home: str) -> bool:
    """Return whether a node of that home runs on this machine, or is just being repaired."""
    if "UNIOS_PID" in os.environ:
        return True  # a program of the system, which may see no process of the node
    try:
        names = node_names(home)
    except PermissionError:  # another user's home: its doors are open, its folders are not
        names = [os.environ.get("UNIOS_NODE", "")]
    return any(_answers(door_of(home, name)) or runs(Home(Path(home)).node(name)) for name in names)


def _answers(door: str) -> bool:
    try:
        connect_unix(door, timeout_s=_DOOR_S).close()
        return True
    except OSError:
        return False


def _start_own() -> System:
    _program.starting = True
    try:
        made = start()
        _program.use(made)
        return made
    finally:
        _program.starting = False


def start(nodes: int = 1) -> System:
    """Start an embedded system that ends with this process; it does not become the one that the program uses. Raises Unavailable."""
    if not sys.executable:
        raise Unavailable("sys.executable is empty, so no node can be started from here: start a system with `unios up` first")
    home = Home(Path(_parent(), f"unios-{os.getpid()}-{secrets.token_hex(4)}"))
    with _told_when_slow():
        boot.embed(home, nodes=nodes)
    made = System(home.path, embedded=True, owner=os.getpid())
    atexit.register(made.close)
    return made


@contextlib.contextmanager
def _told_when_slow() -> Iterator[None]:
    """Leave a line on stderr if what is done takes longer than a person takes for at once."""
    said = threading.Timer(EMBEDDED_SAY_S, _tell)
    said.daemon = True
    try:
        said.start()
    except RuntimeError:  # the interpreter is shutting down and makes no threads any more
        pass
    try:
        yield
    finally:
        said.cancel()


def _tell() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed, or none
        print("unios: starting a node for this program ...", file=sys.stderr, flush=True)


def _parent() -> str:
    """Return where homes of embedded systems go: a short path on a file system from which programs may be run."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):
        found, room = os.stat(runtime), os.statvfs(runtime)
        usable = os.path.isabs(runtime) and len(os.fsencode(runtime)) <= _PARENT_BYTES_MAX and found.st_uid == os.geteuid()
        if usable and not room.f_flag & os.ST_NOEXEC and room.f_bavail * room.f_frsize >= _PARENT_FREE_BYTES_MIN and os.access(runtime, os.W_OK):
            return os.path.realpath(runtime)
    return "/tmp"


def _take_away(home: Home) -> None:
    """Tell the system's supervisors that it is not needed any more, and wait until they and all the rest are gone.

    What is not gone by then goes once this process has ended: a supervisor that is killed has a successor, and that sees the owner gone.
    """
    until = time.monotonic() + EMBEDDED_END_S
    descriptors = [descriptor for folder in home.nodes() if (descriptor := _supervisor(folder)) >= 0]
    try:
        for descriptor in descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGUSR1)
        for descriptor in descriptors:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(max(0.0, until - time.monotonic()) * 1000)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    if not any(map(runs, home.nodes())):  # stopped from elsewhere: then nobody else does it
        shutil.rmtree(home.path, ignore_errors=True)


def _supervisor(folder: NodeFolder) -> int:
    """Return a pidfd of the node's supervisor, -1 if there is none."""
    pid, start = recorded(folder, "supervisor")
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return -1
    if is_alive(pid, start):
        return descriptor
    os.close(descriptor)
    return -1
