"""Mount records: which mounts a node keeps, in its folder, on disk before any is acknowledged; and how what they name is taken away at the node's end.

A mount is called by its number in Linux's list, so that nobody takes another system's for his own, or a dead one of before for one of now.

    nodes/<name>/mounts.json
"""

import contextlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from unios import durable
from unios.errors import UniosError
from unios.fuse import mounting
from unios.kernel import runfiles
from unios.mount_limits import UNMOUNT_S
from unios.undecodable import UNDECODABLE
from unios.wire.home import NodeFolder

_FORMAT: Final = 1


class MountRecord(msgspec.Struct, frozen=True):
    """`number` of the instance that was mounted last, or was about to be."""

    folder: bytes
    number: int


class _File(msgspec.Struct, frozen=True):
    mounts: list[MountRecord]
    format: int = _FORMAT


def file_of(folder: NodeFolder) -> Path:
    return folder.path / "mounts.json"


def read(folder: NodeFolder) -> list[MountRecord]:
    """Return what a node is to keep mounted. What cannot be read is complained of and counts for nothing: a kernel without it is better than none."""
    try:
        return msgspec.json.decode(file_of(folder).read_bytes(), type=_File).mounts
    except FileNotFoundError:
        return []
    except (OSError, *UNDECODABLE) as error:
        runfiles.complain(f"what is mounted by {folder.name} cannot be read: {error}")
        return []


def write(folder: NodeFolder, records: Iterable[MountRecord]) -> None:
    """Return when the disk has it. Raises OSError."""
    durable.place(file_of(folder), msgspec.json.encode(_File(list(records))))


def source_of(number: int) -> str:
    """Return what the mount with this number is called in Linux's list."""
    return f"unios:{number:x}"


def take_away(folder: NodeFolder) -> None:
    """Unmount what a node has mounted, whose processes have ended. The records stay, unless it is no node any more: it mounts again when it is up again.

    Never raises, and waits UNMOUNT_S at most: a thread that hangs over a folder is left behind.
    """
    records = read(folder)
    if records:
        thread = threading.Thread(target=_unmount, args=(records,), name="unmount", daemon=True)
        thread.start()
        thread.join(UNMOUNT_S)
        if thread.is_alive():
            runfiles.complain(f"what {folder.name} has mounted could not be unmounted within {UNMOUNT_S:g} s")
        if not folder.node_file.exists():
            with contextlib.suppress(OSError):
                runfiles.remove(file_of(folder))


def _unmount(records: list[MountRecord]) -> None:
    for record in records:
        folder = Path(os.fsdecode(record.folder))
        try:
            mounting.unmount(folder, source=source_of(record.number))
        except (UniosError, OSError) as error:
            runfiles.complain(f"{folder} cannot be unmounted: {error}")
