"""What may be asked about the mounts of a node: arguments and answers, as in operations.py. docs/kernel.md is their manual."""

import msgspec


class Mount(msgspec.Struct, frozen=True):
    """mounts.add -> MountView: have FUSE mounted on a folder, and served."""

    folder: bytes


class OfMount(msgspec.Struct, frozen=True):
    """mounts.remove -> Unmounted."""

    folder: bytes


class Unmounted(msgspec.Struct, frozen=True):
    """`was`: whether it was mounted, or to be."""

    was: bool


class ListMounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """mounts.list -> MountsView: at once if its version is not `since`, else when that changes, or after `wait_ms`."""

    since: int = 0
    wait_ms: int = 0


class MountView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mount. `folder`: where it is, without symbolic links."""

    folder: bytes
    number: int
    """Names this instance, never 0: what was mounted anew has another, and nothing of the one before."""
    agreed: bytes = b""
    """What its service has said of INIT; its own business."""
    held: bool = True
    """Whether the kernel has the descriptor."""


class MountsView(msgspec.Struct, frozen=True):
    """`version`: is never 0, and another one after each change and after a restart of the kernel."""

    version: int
    mounts: tuple[MountView, ...]


class OpenMount(msgspec.Struct, frozen=True):
    """mounts.open -> MountView and one descriptor."""

    folder: bytes
    number: int


class NoteMount(msgspec.Struct, frozen=True):
    """mounts.note -> Empty: keep what was agreed at INIT."""

    folder: bytes
    number: int
    agreed: bytes


class GiveMount(msgspec.Struct, frozen=True):
    """mounts.give, with one descriptor -> Empty: give a kernel that has begun anew the descriptor of a mount of before."""

    folder: bytes
    number: int
    agreed: bytes
