"""Data: which blocks a file has, and what reading, writing, cutting and punching mean for them. Decides only: the bytes are in blocks, which others keep.

A block is never changed: what writes a part of one makes another of it, and plans that with the extent of the new one. Of an extent only its `length` counts;
so a file is cut, and grown again with zeros, without a block being touched.
"""

import errno
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from unios.core.files.changes import Change, DropExtents, PutExtent, PutInode
from unios.core.files.inode import BLOCK_BYTES, SIZE_MAX, Extent, Inode
from unios.core.files.tree import Planned, Tree, Wanted, refuse, with_wanted, without_suidgid

DATA: Final = 3
HOLE: Final = 4
NOTHING: Final = Wanted()


class Piece(NamedTuple):
    """Bytes `start` to before `end` of the block that is the `at`-th of a file, from 0."""

    at: int
    start: int
    end: int

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end == BLOCK_BYTES


class Made(NamedTuple):
    """A block that was made of another: of which (None: of a hole), and what is to be in its place."""

    base: Extent | None
    extent: Extent


class Overtaken(Exception):
    """A block has changed since another was made of it: it has to be made again, of what is there now."""


class Part(NamedTuple):
    """A part of what is read: `length` bytes of a block from `start` on; zeros without one."""

    block: bytes
    start: int
    length: int


def pieces(offset: int, length: int) -> Iterator[Piece]:
    """Yield what bytes `offset` to before `offset + length` of a file are of its blocks."""
    end = offset + length
    while offset < end:
        index, start = divmod(offset, BLOCK_BYTES)
        stop = min(BLOCK_BYTES, start + end - offset)
        yield Piece(index, start, stop)
        offset += stop - start


def regular(tree: Tree, ino: int) -> Inode:
    """Raises EISDIR, EINVAL for what has no bytes, ESTALE."""
    inode = tree.inode(ino)
    if inode.is_directory:
        refuse(errno.EISDIR)
    return inode if inode.is_regular else refuse(errno.EINVAL)


def parts(tree: Tree, ino: int, offset: int, length: int) -> list[Part]:
    """Return what is read there, up to the end of the file. Neighbouring zeros are one part."""
    inode, extents = regular(tree, ino), tree.state.extents(ino)
    found: list[Part] = []
    for index, start, end in pieces(offset, max(0, min(length, inode.size - offset))):
        extent = extents.get(index)
        there = min(end, extent.length) if extent is not None else start
        if extent is not None and there > start:
            found.append(Part(extent.block, start, there - start))
            start = there
        if end > start:
            zeros = end - start
            if found and not found[-1].block:
                zeros += found.pop().length
            found.append(Part(b"", 0, zeros))
    return found


def write(tree: Tree, ino: int, offset: int, length: int, made: Mapping[int, Made], now_ns: int, *, kill_suidgid: bool = False) -> Planned:
    """The blocks of all pieces of what was written are `made`. Raises EFBIG, EISDIR, EINVAL, ESTALE; Overtaken; ValueError for blocks that cannot be."""
    inode, end = regular(tree, ino), offset + length
    if end > SIZE_MAX:
        refuse(errno.EFBIG)
    if not length:
        return Planned((), ino)
    _look_at(tree, ino, made, {piece.at for piece in pieces(offset, length)}, max(inode.size, end))
    after = _written(inode, now_ns, size=max(inode.size, end), mode=_mode(inode, kill_suidgid))
    return Planned((*(PutExtent(ino, at, one.extent) for at, one in made.items()), PutInode(after)), ino)


def _look_at(tree: Tree, ino: int, made: Mapping[int, Made], expected: set[int], size: int) -> None:
    extents = tree.state.extents(ino)
    if made.keys() != expected:
        raise ValueError(f"blocks {sorted(made)} were made where {sorted(expected)} are changed")
    for at, (base, extent) in made.items():
        if extents.get(at) != base:
            raise Overtaken(f"block {at} of {ino}")
        if not extent.block or not 0 < extent.length <= min(BLOCK_BYTES, size - at * BLOCK_BYTES):
            raise ValueError(f"block {at} of {ino} has {extent.length} bytes, and the file {size}")


def cut(tree: Tree, ino: int, size: int, now_ns: int, wanted: Wanted = NOTHING) -> Planned:
    """Have a file be so long, and change what else is wanted of it: what was behind is gone, what is new reads as zeros. Raises EFBIG, EISDIR, EINVAL, ESTALE."""
    inode = regular(tree, ino)
    if size > SIZE_MAX:
        refuse(errno.EFBIG)
    changes: list[Change] = []
    if size < inode.size:
        last, left = divmod(size, BLOCK_BYTES)
        changes += _dropped(tree, ino, last + bool(left), -(-inode.size // BLOCK_BYTES))
        extent = tree.state.extents(ino).get(last)
        if left and extent is not None and extent.length > left:
            changes.append(PutExtent(ino, last, msgspec.structs.replace(extent, length=left)))
    after = with_wanted(msgspec.structs.replace(inode, size=size, mtime_ns=now_ns), wanted, now_ns)
    return Planned((*changes, PutInode(after)), ino)


def allocate(tree: Tree, ino: int, offset: int, length: int, now_ns: int, *, keep_size: bool = False, kill_suidgid: bool = False) -> Planned:
    """Have a file be at least so long; room is not set aside: a write may find the disks full. Raises EINVAL, EFBIG, EISDIR, ESTALE."""
    inode, end = regular(tree, ino), _end(offset, length)
    size = inode.size if keep_size else max(inode.size, end)
    return Planned((PutInode(_written(inode, now_ns, size=size, mode=_mode(inode, kill_suidgid))),), ino)


def edges(tree: Tree, ino: int, offset: int, length: int) -> list[Piece]:
    """Return the pieces of a hole that is to be punched which have to be written with zeros, two at most: of whose blocks more is there than the hole.
    Raises EINVAL, EFBIG."""
    extents = tree.state.extents(ino)
    there = ((piece, extents.get(piece.at)) for piece in _ends(offset, _end(offset, length)))
    return [
        piece
        for piece, extent in there
        if extent is not None and piece.start < extent.length and not (piece.start == 0 and piece.end >= extent.length)
    ]


def punch(tree: Tree, ino: int, offset: int, length: int, made: Mapping[int, Made], now_ns: int, *, kill_suidgid: bool = False) -> Planned:
    """Have bytes read as zeros, and their blocks be holes; those of the `edges` are `made`. The size stays. Raises as `write` does."""
    inode, end = regular(tree, ino), _end(offset, length)
    _look_at(tree, ino, made, {piece.at for piece in edges(tree, ino, offset, length)}, inode.size)
    extents = tree.state.extents(ino)
    changes: list[Change] = [PutExtent(ino, at, one.extent) for at, one in made.items()]
    for piece in (one for one in _ends(offset, end) if one.at not in made and one.at in extents and one.start < extents[one.at].length):
        changes.append(DropExtents(ino, piece.at, piece.at + 1))
    changes += _dropped(tree, ino, -(-offset // BLOCK_BYTES), end // BLOCK_BYTES)
    return Planned((*changes, PutInode(_written(inode, now_ns, mode=_mode(inode, kill_suidgid)))), ino)


def _ends(offset: int, end: int) -> list[Piece]:
    """Return the pieces that are no whole blocks."""
    first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
    found = [
        Piece(index, max(0, offset - index * BLOCK_BYTES), min(BLOCK_BYTES, end - index * BLOCK_BYTES)) for index in dict.fromkeys((first, last))
    ]
    return [piece for piece in found if not piece.is_whole]


def seek(tree: Tree, ino: int, offset: int, whence: int) -> int:
    """Return where the next data, or the next hole, is from there on; the end of the file is a hole. Raises ENXIO, EINVAL."""
    inode, extents = regular(tree, ino), tree.state.extents(ino)
    if offset < 0 or offset >= inode.size:
        refuse(errno.ENXIO)
    if whence == DATA:
        index, start = divmod(offset, BLOCK_BYTES)
        if index in extents and start < extents[index].length:
            return offset
        later = min((at for at in extents if at > index), default=None)
        return later * BLOCK_BYTES if later is not None else refuse(errno.ENXIO)
    if whence != HOLE:
        refuse(errno.EINVAL)
    at = offset
    while at < inode.size:
        index, start = divmod(at, BLOCK_BYTES)
        there = extents[index].length if index in extents else 0
        if start >= there:
            return at
        at = index * BLOCK_BYTES + there
    return inode.size


def stored_bytes(tree: Tree, ino: int) -> int:
    """Return how much of a file is data: what stat(2) counts in blocks."""
    return tree.state.stored_bytes(ino)


def _dropped(tree: Tree, ino: int, first: int, end: int) -> list[Change]:
    """Return the change that makes holes of these blocks, if there are any."""
    extents = tree.state.extents(ino)
    if end <= first or not extents:
        return []
    some = any(index in extents for index in range(first, end)) if end - first < len(extents) else any(first <= index < end for index in extents)
    return [DropExtents(ino, first, end)] if some else []


def _end(offset: int, length: int) -> int:
    if offset < 0 or length <= 0:
        refuse(errno.EINVAL)
    return offset + length if offset + length <= SIZE_MAX else refuse(errno.EFBIG)


def _mode(inode: Inode, kill_suidgid: bool) -> int:
    """Return the mode after bytes have changed; `kill_suidgid` unless whoever did that may do everything. Linux says so of a write, not of fallocate(2)."""
    return without_suidgid(inode.mode) if kill_suidgid else inode.mode


def _written(inode: Inode, now_ns: int, **what: int) -> Inode:
    return msgspec.structs.replace(inode, mtime_ns=now_ns, ctime_ns=now_ns, version=inode.version + 1, **what)
