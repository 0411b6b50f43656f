"""Mounts of the tree of files: made, listed and taken away by the kernel at the other end, or through it by another node's. All of it is idempotent."""

import time

from unios.client.connection import Connection
from unios.errors import Unavailable
from unios.wire.mounts import ListMounts, Mount, MountsView, MountView, OfMount, Unmounted

SERVED_S = 20.0
"""So long a new mount may take until it is served: there may be a journal to read."""
_WAIT_MS = 2_000


def mount(connection: Connection, folder: bytes) -> MountView:
    """Mount the tree on a folder, an absolute path on the node; return when it is served. Unavailable, Denied, NotFound, CallerError."""
    made: MountView = connection.call("mounts.add", Mount(folder), MountView, timeout_s=SERVED_S)
    until = time.monotonic() + SERVED_S
    since = 0
    while True:
        view: MountsView = connection.call("mounts.list", ListMounts(since, _WAIT_MS), MountsView, timeout_s=_WAIT_MS / 1000 + 5)
        found = next((one for one in view.mounts if one.folder == made.folder), None)
        if found is None:
            raise Unavailable(f"{_text(made.folder)} has been unmounted meanwhile")
        if found.agreed:
            return found
        if time.monotonic() > until:
            raise Unavailable(f"{_text(made.folder)} is mounted, and nobody serves it yet: `unios doctor`, and files.log of that node, say why")
        since = view.version


def unmount(connection: Connection, folder: bytes) -> bool:
    """Take a mount away, at once; who is in it keeps what he has open. Return whether there was one."""
    gone: Unmounted = connection.call("mounts.remove", OfMount(folder), Unmounted, timeout_s=SERVED_S)
    return gone.was


def mounts(connection: Connection) -> tuple[MountView, ...]:
    """Return the mounts of the node."""
    view: MountsView = connection.call("mounts.list", ListMounts(), MountsView)
    return view.mounts


def _text(folder: bytes) -> str:
    return folder.decode(errors="surrogateescape")
