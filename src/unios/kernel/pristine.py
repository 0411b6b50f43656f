"""Pristine: whether an init, its namespaces and its launcher still are as they were before a tree, so that they may have another one of the same user.

The launcher is its user's, the init too on an ordinary user's own node, and root has rights over everything. What can be changed so and Linux shows is
looked at: mounts, who is in the namespace, and what a child would inherit. What it writes into their memory is not seen, and can only harm
who could have done the same to any other of his trees.
"""

import contextlib
import os
from typing import Final

from unios.kernel import clone

_STATUS: Final = frozenset((b"TracerPid", b"SigBlk", b"SigIgn", b"NoNewPrivs", b"Seccomp", b"Cpus_allowed", b"Mems_allowed"))
_IDENTITY: Final = frozenset((b"Uid", b"Gid", b"Groups", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb"))
_FILES: Final = ("limits", "oom_score_adj", "setgroups", "timerslack_ns", "coredump_filter")


def inherited(*, identity: bool) -> tuple[object, ...]:
    """Return what a child of this process would inherit, without `identity` (user, groups, capabilities) if that is about to change."""
    wanted = _STATUS | _IDENTITY if identity else _STATUS
    return (
        [line for line in _read("/proc/self/status").splitlines() if line.split(b":", 1)[0] in wanted],
        [_read(f"/proc/self/{name}") for name in _FILES],
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        clone.io_priority(),
        clone.session_keyring(),
    )


def groups() -> bytes:
    """Return in which control groups this process is, of all hierarchies."""
    return _read("/proc/self/cgroup")


class Pristine:
    """The state of an init when it was built. `descriptor` stays open."""

    def __init__(self) -> None:
        self.descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._before = self._look()

    def still(self, launcher: int) -> bool:
        """Return whether nothing differs and nobody is in the namespace but this process and `launcher`."""
        if self._look() != self._before:
            return False
        return {int(name) for name in os.listdir("/proc") if name.isdigit()} == {os.getpid(), launcher}

    def _look(self) -> tuple[object, ...]:
        return (b"".join(self._mounts()), inherited(identity=True), groups(), os.getcwd())

    def _mounts(self) -> list[bytes]:
        """Return the mount table by a descriptor of the /proc that was mounted first, whatever there is at that path now."""
        pieces, at = [], 0
        while piece := os.pread(self.descriptor, clone.PIECE_BYTES, at):
            pieces.append(piece)
            at += len(piece)
        return pieces


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError):
        return clone.read_kernel_file(path)
    return b""
