"""The namespaces of a tree: makes a fresh fork pid 1 of its own pid, mount and, for an ordinary user, user namespace.

Mounts of the machine keep arriving (slave), none of the tree's gets out. Nothing here is undone: the namespaces go with the last process.
"""

import os
from typing import Final

from unios.kernel import clone

_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MS_REC: Final = 1 << 14
_MS_SLAVE: Final = 1 << 19


def flags() -> int:
    """Return the clone flags for a tree's init: only root can do without a user namespace."""
    return clone.NEW_MOUNTS | clone.NEW_PIDS | (0 if os.geteuid() == 0 else clone.NEW_USER)


def settle(uid: int, gid: int) -> None:
    """Map the user to itself if there is a user namespace, cut mount propagation and mount this namespace's /proc. Raises OSError."""
    if uid != 0:
        clone.write_kernel_file("/proc/self/setgroups", "deny")
        clone.write_kernel_file("/proc/self/uid_map", f"{uid} {uid} 1")
        clone.write_kernel_file("/proc/self/gid_map", f"{gid} {gid} 1")
    clone.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE)
    clone.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
