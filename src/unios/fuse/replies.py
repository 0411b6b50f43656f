"""Answers and notices of the FUSE protocol. Pure: values in, bytes out; channel.py puts the header before them."""

import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from unios.fuse import abi
from unios.fuse.abi import Notice

SECOND: Final = 1_000_000_000
DIRENT_ALIGN: Final = 8


class Attributes(NamedTuple):
    """What stat(2) tells of an inode. Times in ns since 1970, `size` in bytes, `blocks` of 512 bytes; `mode` with the type of the file."""

    ino: int
    mode: int
    size: int = 0
    blocks: int = 0
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    blksize: int = 4096


class Kept(NamedTuple):
    """For how long Linux may keep an answer without asking again, in ms: that a name is, or is not, there; and what the attributes are."""

    entry_ms: int = 0
    attributes_ms: int = 0


NOT_KEPT: Final = Kept()


class Statfs(NamedTuple):
    """What statvfs(3) tells; `blocks` of `bsize` bytes."""

    blocks: int
    free: int
    available: int
    files: int
    files_free: int
    bsize: int = 4096
    name_max: int = 255


def attributes(of: Attributes) -> bytes:
    """Return the layout that several answers have within them."""
    atime, atime_ns = divmod(of.atime_ns, SECOND)
    mtime, mtime_ns = divmod(of.mtime_ns, SECOND)
    ctime, ctime_ns = divmod(of.ctime_ns, SECOND)
    return abi.ATTRIBUTES.pack(
        of.ino,
        of.size,
        of.blocks,
        atime & _UNSIGNED,
        mtime & _UNSIGNED,
        ctime & _UNSIGNED,
        atime_ns,
        mtime_ns,
        ctime_ns,
        of.mode,
        of.nlink,
        of.uid,
        of.gid,
        of.rdev,
        of.blksize,
        0,
    )


_UNSIGNED: Final = (1 << 64) - 1


def attributes_kept(of: Attributes, kept: Kept = NOT_KEPT) -> bytes:
    """To GETATTR and SETATTR."""
    return abi.ATTRIBUTES_KEPT.pack(*_parts(kept.attributes_ms), 0) + attributes(of)


def entry(of: Attributes, kept: Kept = NOT_KEPT, *, generation: int = 0) -> bytes:
    """To LOOKUP, MKNOD, MKDIR, SYMLINK and LINK: Linux knows the inode from now on, until it says FORGET as often as it was told."""
    (entry_s, entry_ns), (attributes_s, attributes_ns) = _parts(kept.entry_ms), _parts(kept.attributes_ms)
    return abi.ENTRY.pack(of.ino, generation, entry_s, attributes_s, entry_ns, attributes_ns) + attributes(of)


def no_entry(kept_ms: int) -> bytes:
    """To a LOOKUP of a name that is not there, if Linux may keep that; else it is refused with ENOENT."""
    seconds, nanoseconds = _parts(kept_ms)
    return abi.ENTRY.pack(0, 0, seconds, 0, nanoseconds, 0) + bytes(abi.ATTRIBUTES.size)


def _parts(ms: int) -> tuple[int, int]:
    return ms // 1_000, ms % 1_000 * 1_000_000


def opened(fh: int, flags: int = 0) -> bytes:
    """To OPEN and OPENDIR. `flags`: abi.Opened."""
    return abi.OPENED.pack(fh, flags, 0)


def created(of: Attributes, fh: int, kept: Kept = NOT_KEPT, *, flags: int = 0, generation: int = 0) -> bytes:
    """To CREATE and TMPFILE."""
    return entry(of, kept, generation=generation) + opened(fh, flags)


def written(size: int) -> bytes:
    """To WRITE and COPY_FILE_RANGE."""
    return abi.WRITTEN.pack(size, 0)


def statfs(of: Statfs) -> bytes:
    return abi.STATFS.pack(of.blocks, of.free, of.available, of.files, of.files_free, of.bsize, of.name_max, of.bsize, 0)


def xattr_size(size: int) -> bytes:
    """To GETXATTR and LISTXATTR that ask how large the answer is."""
    return abi.XATTR_SIZE.pack(size, 0)


def lock(start: int, end: int, kind: int, pid: int) -> bytes:
    """To GETLK: the lock that is in the way, or one of kind F_UNLCK (2)."""
    return abi.LOCK.pack(start, end, kind, pid)


def sought(offset: int) -> bytes:
    """To LSEEK."""
    return abi.SOUGHT.pack(offset)


class Listing:
    """An answer to READDIR, or with `plus` to READDIRPLUS, of at most `size` bytes."""

    def __init__(self, size: int, *, plus: bool = False) -> None:
        self._left, self._plus = size, plus
        self._parts: list[bytes] = []

    def add(self, name: bytes, of: Attributes, after: int, kept: Kept = NOT_KEPT, *, known: bool = True) -> bool:
        """Add an entry, and return whether there was room. `after`: the offset at which the next request goes on behind it. `known`: with `plus`
        Linux counts it as looked up; not so `.` and `..`."""
        head = abi.DIRENT.pack(of.ino, after, len(name), stat.S_IFMT(of.mode) >> 12)
        length = len(head) + len(name)
        padding = bytes(-length % DIRENT_ALIGN)
        before = (entry(of, kept) if known else bytes(abi.ENTRY.size + abi.ATTRIBUTES.size)) if self._plus else b""
        whole = len(before) + length + len(padding)
        if whole > self._left:
            return False
        self._left -= whole
        self._parts += (before, head, name, padding)
        return True

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)


def names(of: Iterable[bytes]) -> bytes:
    """To LISTXATTR."""
    return b"".join(name + b"\0" for name in of)


# notices


def invalidate_inode(node: int, offset: int = 0, length: int = 0) -> tuple[Notice, bytes]:
    """Have Linux write back what it has kept back of a file, and forget its pages and attributes. `length` 0: to the end; `offset` below 0: attributes only.
    It waits for what is written back: the one who tells this must not be the one who answers."""
    return Notice.INVALIDATE_INODE, abi.INVALIDATE_INODE.pack(node, offset, length)


def invalidate_entry(directory: int, name: bytes, *, expire_only: bool = False) -> tuple[Notice, bytes]:
    """Have Linux forget that a name is, or is not, there."""
    return Notice.INVALIDATE_ENTRY, abi.INVALIDATE_ENTRY.pack(directory, len(name), abi.EXPIRE_ONLY if expire_only else 0) + name + b"\0"


def deleted(directory: int, node: int, name: bytes) -> tuple[Notice, bytes]:
    """The same of a name that was taken away; who watches the directory here (inotify) is told."""
    return Notice.DELETE, abi.DELETED.pack(directory, node, len(name), 0) + name + b"\0"


def store(node: int, offset: int, data: bytes) -> tuple[Notice, bytes]:
    """Have Linux keep these bytes as what the file has there."""
    return Notice.STORE, abi.STORED.pack(node, offset, len(data), 0) + data


def resend() -> tuple[Notice, bytes]:
    """Have Linux give all requests that were given to a reader and not answered to one again. Linux 6.9."""
    return Notice.RESEND, b""
