"""Inode: what is known of one file, directory, link or device, without its names."""

import stat
from typing import Final

import msgspec

ROOT: Final = 1
NAME_BYTES_MAX: Final = 255
TARGET_BYTES_MAX: Final = 4_095
LINKS_MAX: Final = 65_000
XATTR_NAME_BYTES_MAX: Final = 255
XATTR_VALUE_BYTES_MAX: Final = 65_536
XATTRS_BYTES_MAX: Final = 262_144
"""Names and values of one inode."""
BLOCK_BYTES: Final = 1 << 20
"""Files are cut into blocks of so many bytes; the last may have fewer."""
SIZE_MAX: Final = (1 << 63) - 1


class Extent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One block of a file: `block` names what it is, of which the first `length` bytes count. What is missing reads as zeros."""

    block: bytes
    length: int


class Inode(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Attributes as stat(2) has them; times in ns since 1970. `mode` has the type. Names of it are in directories, extents and xattrs beside it."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    rdev: int = 0
    parent: int = 0
    """Of a directory: the one that it is in; the root is in itself."""
    target: bytes = b""
    """Of a symbolic link."""
    version: int = 0
    """Counts its changes."""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


class Owner(msgspec.Struct, frozen=True):
    """Whose a thing that is made is."""

    uid: int
    gid: int
