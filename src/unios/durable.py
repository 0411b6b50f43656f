"""Files and folders that outlive a power cut: what is called here returns when the disk has it, and raises OSError when that is not sure.

Two things are easily forgotten. A name is a part of its folder: a file that was synced is lost with its name, if its folder was not, and so is a folder that
was made. And a sync that failed says so once: Linux then takes the pages for written (fsyncgate, 2018; Rebello and others, USENIX ATC 2020), and the next
sync of the same file is a success that means nothing. So nobody syncs again what a sync has refused: it is written again.
"""

import errno
import os

PathLike = str | os.PathLike[str]


def sync_folder(folder: PathLike) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: PathLike, mode: int = 0o700, *, levels: int = 1) -> None:
    """Make a folder and those above it that are not there, with their names on the disk. Idempotent: the names of so many `levels` of those that are there
    are synced too, since who made them may have been killed before he did that."""
    path = os.path.abspath(path)
    parent = os.path.dirname(path)
    if levels > 1 or not os.path.isdir(parent):
        make_folders(parent, mode, levels=levels - 1)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    try:
        sync_folder(parent)
    except PermissionError:  # it may be written and not read: everything is brought to the disk then
        os.sync()


def place(path: PathLike, data: bytes, mode: int = 0o600) -> None:
    """Write a file that is there whole or as it was before. If it raises it may be either, for this process: nothing of it is acknowledged."""
    folder, name = os.path.split(os.fspath(path))
    part = os.path.join(folder, f".{name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            if os.write(descriptor, data) < len(data):  # a disk that is full takes a part without a word
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(part, path)
    except OSError:
        if os.path.lexists(part):
            os.unlink(part)
        raise
    sync_folder(folder)
