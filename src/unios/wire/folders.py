"""Folders of the disk, walked without following a link: each level through the descriptor of the one above. Reads; writes nothing.

Used by the client, which takes a folder along, and by the porter, which collects what a program has left. What is neither file, folder nor link is
told, never opened.
"""

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from unios.limits import BLOCK_BYTES, CARRY_DEPTH_MAX

FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
MODE_MASK = 0o777


class Met(NamedTuple):
    """Something in a folder: `parent` is open only while it is the one just yielded."""

    path: bytes
    parent: int
    name: bytes
    status: os.stat_result

    @property
    def kind(self) -> str:
        """Return "f", "d", "l", or "" for what cannot be carried."""
        mode = self.status.st_mode
        return "f" if stat.S_ISREG(mode) else "d" if stat.S_ISDIR(mode) else "l" if stat.S_ISLNK(mode) else ""

    @property
    def mode(self) -> int:
        return self.status.st_mode & MODE_MASK


def walk(folder: int, *, skip: Callable[[bytes], bool], failed: Callable[[bytes, OSError], None], path: bytes = b"", depth: int = 0) -> Iterator[Met]:
    """Yield what is in an open folder, a folder before what is in it, names sorted. `skip` leaves out a path and all below it."""
    try:
        names = sorted(os.fsencode(name) for name in os.listdir(folder))
    except OSError as error:
        failed(path, error)
        return
    for name in names:
        here = path + b"/" + name if path else name
        if skip(here):
            continue
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed(here, error)
            continue
        yield Met(here, folder, name, status)
        if stat.S_ISDIR(status.st_mode):
            yield from _inside(folder, name, here, depth, skip, failed)


def _inside(
    parent: int, name: bytes, path: bytes, depth: int, skip: Callable[[bytes], bool], failed: Callable[[bytes, OSError], None]
) -> Iterator[Met]:
    try:
        if depth >= CARRY_DEPTH_MAX:
            raise OSError(0, f"more than {CARRY_DEPTH_MAX} folders in one another")
        folder = os.open(name, FLAGS | os.O_DIRECTORY, dir_fd=parent)
    except OSError as error:
        failed(path, error)
        return
    try:
        yield from walk(folder, skip=skip, failed=failed, path=path, depth=depth + 1)
    finally:
        os.close(folder)


def read_blocks(parent: int, name: bytes, *, bytes_max: int = 1 << 62) -> Iterator[bytes]:
    """Yield a regular file's content in blocks, as long as it is when it is opened. OSError, also if it is no regular file any more."""
    file = os.open(name, FLAGS | os.O_NONBLOCK, dir_fd=parent)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no file any more")
        left = min(status.st_size, bytes_max)
        while left > 0:
            block = _read_whole(file, min(BLOCK_BYTES, left))
            if not block:
                return
            left -= len(block)
            yield block
    finally:
        os.close(file)


def _read_whole(file: int, size: int) -> bytes:
    """Read so many bytes, fewer only at the end of the file."""
    parts = []
    while size and (part := os.read(file, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def link_target(parent: int, name: bytes) -> bytes:
    """Return where a link leads. Raises OSError."""
    return os.fsencode(os.readlink(name, dir_fd=parent))
