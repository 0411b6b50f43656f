"""Changes: what an operation does to a tree, told as what is there afterwards. An entry of the journal is a tuple of them; to apply one twice does no harm."""

from typing import Final

import msgspec

from unios.core.files.inode import Extent, Inode
from unios.core.files.ranges import Lock


class PutInode(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    """The attributes of an inode are these."""

    inode: Inode


class DropInode(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """An inode is gone, and what was in it."""

    ino: int


class PutEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A name in a directory is of that inode."""

    directory: int
    name: bytes
    ino: int


class DropEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """A name is not there."""

    directory: int
    name: bytes


class PutExtent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """A block of a file is that."""

    ino: int
    index: int
    extent: Extent


class DropExtents(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Blocks `first` to before `end` of a file are holes."""

    ino: int
    first: int
    end: int


class PutXattr(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """An extended attribute has that value."""

    ino: int
    name: bytes
    value: bytes


class DropXattr(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """An extended attribute is not there."""

    ino: int
    name: bytes


class NextIno(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Numbers of inodes below this one have been given away: none is ever given twice."""

    ino: int


class CutExtent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Of a block of a file no more than so many bytes count, whatever the block is."""

    ino: int
    index: int
    length: int


class PutLocks(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """The locks on parts of a file are these; without any: it has none."""

    ino: int
    locks: tuple[Lock, ...]


Change = NextIno | PutInode | DropInode | PutEntry | DropEntry | PutExtent | DropExtents | PutXattr | DropXattr | CutExtent | PutLocks
Changes = tuple[Change, ...]
_DECODER: Final = msgspec.msgpack.Decoder(Changes)


def encode(changes: Changes) -> bytes:
    """Return the bytes of an entry of the journal."""
    return msgspec.msgpack.encode(changes)


def decode(data: bytes) -> Changes:
    """Raises unios.undecodable.UNDECODABLE."""
    return _DECODER.decode(data)
