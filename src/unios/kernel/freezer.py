"""Freezer: stops, lets go and kills every process of one tree. Carries out the leash's orders, never decides.

Best first: a cgroup of version 2, one of version 1, else SIGSTOP to each process until /proc shows none running. The init itself is never in
the group. A signal does not reach what a user's tree cannot signal (a setuid program outside a pid namespace); the guard says which kind it is.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from unios.kernel import bounds, cgroups
from unios.kernel.hierarchies import Hierarchy

Kind = Literal["v2", "v1", "signals"]
ROUNDS_MAX: Final = 50


class Member(NamedTuple):
    """A process of the tree as /proc shows it; `state` is its letter, times in clock ticks."""

    pid: int
    parent: int
    state: str
    ticks: int
    pages: int


def members(*, namespaces: bool) -> list[Member]:
    """Return the tree's living processes, without this init: all of its namespace, or all descendants."""
    mine = os.getpid()
    found = [member for member in _all() if member.state not in "ZX" and member.pid != mine]
    if namespaces:
        return found
    tree, grown = {mine}, True
    while grown:
        more = {member.pid for member in found if member.parent in tree} - tree
        tree |= more
        grown = bool(more)
    return [member for member in found if member.pid in tree]


def _all() -> list[Member]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read().rsplit(b")", 1)[1].split()
                found.append(Member(int(name), int(stat[1]), stat[0].decode(), int(stat[11]) + int(stat[12]), int(stat[21])))
    return found


class Freezer:
    """That of one tree. `place` is the node's group, None for signals; `hierarchies`: where else the tree has groups, which come and go with this one."""

    def __init__(self, place: cgroups.Place | None, tree: str, *, namespaces: bool, hierarchies: Sequence[Hierarchy] = ()) -> None:
        self._place = place
        self._path = f"{place.path}/{tree}" if place else ""
        self._namespaces = namespaces
        self.bounds = bounds.Bounds(hierarchies, tree, counted=self._path if place and place.version == "v2" else "")
        self.frozen = False
        """Whether the last order was to freeze; `settled` says whether it has been carried out."""
        self._stopped = False
        """Whether processes have been stopped by signal: there is no group, or it did not obey."""
        self._killed = False

    @property
    def kind(self) -> Kind:
        return self._place.version if self._place else "signals"

    def prepare(self) -> None:
        """Make the groups. Raises OSError."""
        if self._place:
            os.makedirs(self._path, exist_ok=True)
        self.bounds.prepare()

    def open_group(self) -> int:
        """Return a descriptor of the group for a program to begin in, -1 if it has to `join` by itself."""
        if self._place is None or self._place.version != "v2":
            return -1
        try:
            return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return -1

    def join(self, pid: int = 0, *, begun: bool) -> None:
        """Put a process into the groups: the calling one, before it gives up any right. `begun`: it began in the freezer's. Raises OSError."""
        if self._place and not begun:
            cgroups.join(self._path, pid)
        self.bounds.join(pid)

    def freeze(self) -> None:
        """Stop the tree. Idempotent; a fork in the same moment is caught by the group, or by another round of signals."""
        self.frozen = True
        if self._place:
            with contextlib.suppress(OSError):
                cgroups.freeze(self._place.version, self._path)
                return
        self._stopped = True
        self._stop()

    def settled(self) -> bool:
        """Return whether every process of the tree stands still."""
        if self._place:
            with contextlib.suppress(OSError):
                if cgroups.is_frozen(self._place.version, self._path):
                    return True
                if not self._stopped:
                    return False
        return all(member.state in "Tt" for member in members(namespaces=self._namespaces))

    def holds_only(self, pid: int) -> bool:
        """Return whether the process `pid` is the only one of the tree that lives; False also if that cannot be told."""
        if self._place:
            return cgroups.members(self._path) == [pid]
        return [member.pid for member in members(namespaces=self._namespaces)] == [pid]

    def thaw(self) -> None:
        """Let the tree run, by whatever it was stopped: a group that did not obey the freeze may have been joined by signals, and both hold."""
        self.frozen = False
        if self._place:
            with contextlib.suppress(OSError):
                cgroups.thaw(self._place.version, self._path)
        if self._stopped or not self._place:
            self._stopped = False
            self.signal(signal.SIGCONT)

    def open_refusals(self) -> int:
        """Return a descriptor of the file that tells of forks beyond the tree's bound, -1 if there is none, or no group that could `hold`."""
        return self.bounds.open_refusals() if self._place else -1

    def hold(self) -> bool:
        """Stop the tree for a moment, by its group; False if it is to die, or there is no such group. What is frozen stays frozen after `let_go`."""
        if self._place is None or self._killed:
            return False
        with contextlib.suppress(OSError):
            cgroups.freeze(self._place.version, self._path)
            return True
        return False

    def let_go(self) -> bool:
        """End what `hold` began; False if Linux refuses that now."""
        if self._place and not self.frozen:
            try:
                cgroups.thaw(self._place.version, self._path)
            except OSError:
                return not os.path.isdir(self._path)
        return True

    def kill(self) -> None:
        """Kill every process of the tree, frozen or not; to be repeated until the init has no child left."""
        self.frozen, self._killed = False, True
        self.signal(signal.SIGKILL)
        if self._place:
            cgroups.kill(self._place.version, self._path)

    def signal(self, number: int) -> int:
        """Send a signal to every process of the tree; return how many were refused."""
        if self._namespaces:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, number)
            return 0
        return self._each(number)

    def _each(self, number: int) -> int:
        refused = 0
        for member in members(namespaces=self._namespaces):
            try:
                os.kill(member.pid, number)
            except OSError as error:
                refused += error.errno == errno.EPERM
        return refused

    def _stop(self) -> None:
        for _round in range(ROUNDS_MAX):
            self.signal(signal.SIGSTOP)
            if self.settled():
                return

    def remove(self) -> bool:
        """Remove the groups, once the tree is dead; return whether all are gone."""
        gone = self.bounds.remove()
        return (not self._place or cgroups.remove(self._place.version, self._path, timeout_s=0.2)) and gone


def release(places: Iterable[cgroups.Place], tree: str) -> None:
    """Kill, let go and remove what an init that is gone left in its groups: a frozen group of version 1 does not even die.

    `places`: all that the node has ever settled in, as cgroups.recorded says.
    """
    assert tree, "without a name it would be the group of the whole node"
    for version, path in places:
        cgroups.remove(version, f"{path}/{tree}", timeout_s=1.0)


def sweep(*node_folders: str | os.PathLike[str]) -> list[str]:
    """Kill, let go and remove every group of nodes that are down; return those in which something does not die. Idempotent.

    All are killed before the first is waited for, and all together are waited for as long as one.
    """
    groups: list[cgroups.Place] = []
    for version, path in (place for folder in node_folders for place in cgroups.recorded(os.fspath(folder))):
        with contextlib.suppress(OSError):
            groups += [cgroups.Place(version, each) for each in (*(entry.path for entry in os.scandir(path) if entry.is_dir()), path)]
    for version, path in groups:
        cgroups.kill(version, path)
    until = time.monotonic() + cgroups.REMOVE_S
    return [path for version, path in groups if not cgroups.remove(version, path, max(0.0, until - time.monotonic()))]


def tidy(node_folder: str | os.PathLike[str]) -> None:
    """Remove those groups of a node in which nothing lives; what lives is left alone. Idempotent."""
    for _version, path in cgroups.recorded(os.fspath(node_folder)):
        with contextlib.suppress(OSError):
            for entry in os.scandir(path):
                if entry.is_dir():
                    with contextlib.suppress(OSError):
                        os.rmdir(entry.path)
            os.rmdir(path)
