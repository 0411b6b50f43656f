"""State: all inodes, names, extents and attributes of one tree. Changes are applied; nothing is decided, and nothing is checked (check.py does)."""

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from unios.core.files.changes import (
    Change,
    CutExtent,
    DropEntry,
    DropExtents,
    DropInode,
    DropXattr,
    NextIno,
    PutEntry,
    PutExtent,
    PutInode,
    PutLocks,
    PutXattr,
)
from unios.core.files.inode import ROOT, Extent, Inode
from unios.core.files.ranges import Lock

SNAPSHOT_CHANGES: Final = 1_000
K = TypeVar("K")
V = TypeVar("V")
_EMPTY: Final[Mapping[bytes, int]] = MappingProxyType({})
_NO_EXTENTS: Final[Mapping[int, Extent]] = MappingProxyType({})
_NO_XATTRS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class State:
    """That of one tree. `next_ino`: above all that there have been."""

    def __init__(self) -> None:
        self.inodes: dict[int, Inode] = {}
        self.next_ino = ROOT
        self._entries: dict[int, dict[bytes, int]] = {}
        self._extents: dict[int, dict[int, Extent]] = {}
        self._xattrs: dict[int, dict[bytes, bytes]] = {}
        self._stored: dict[int, int] = {}
        """How many bytes the extents of each file are."""
        self.locks: dict[int, tuple[Lock, ...]] = {}
        """Of each file that has any on its parts."""

    def entries(self, directory: int) -> Mapping[bytes, int]:
        """Return what is in a directory, name by name, in the order in which they were made."""
        return self._entries.get(directory, _EMPTY)

    def extents(self, ino: int) -> Mapping[int, Extent]:
        """Return the blocks of a file that are no holes, by their index."""
        return self._extents.get(ino, _NO_EXTENTS)

    def stored_bytes(self, ino: int) -> int:
        """Return how many bytes the extents of a file are."""
        return self._stored.get(ino, 0)

    def xattrs(self, ino: int) -> Mapping[bytes, bytes]:
        return self._xattrs.get(ino, _NO_XATTRS)

    def apply(self, changes: Iterable[Change]) -> None:
        """Make these changes."""
        for change in changes:
            self._one(change)

    def _one(self, change: Change) -> None:
        match change:
            case PutInode(inode):
                self.inodes[inode.ino] = inode
                self.next_ino = max(self.next_ino, inode.ino + 1)
            case NextIno(ino):
                self.next_ino = max(self.next_ino, ino)
            case PutEntry(directory, name, ino):
                self._entries.setdefault(directory, {})[name] = ino
            case DropEntry(directory, name):
                _take(self._entries, directory, name)
            case PutExtent(ino, index, extent):
                held = self._extents.setdefault(ino, {})
                self._count(ino, extent.length - (held[index].length if index in held else 0))
                held[index] = extent
            case DropExtents(ino, first, end):
                held = self._extents.get(ino, {})
                gone = range(first, end) if end - first < len(held) else [index for index in held if first <= index < end]
                for index in gone:
                    self._count(ino, -held[index].length if index in held else 0)
                    _take(self._extents, ino, index)
            case PutXattr(ino, name, value):
                self._xattrs.setdefault(ino, {})[name] = value
            case DropXattr(ino, name):
                _take(self._xattrs, ino, name)
            case DropInode(ino):
                self.inodes.pop(ino, None)
                for held_by in (self._entries, self._extents, self._xattrs, self._stored, self.locks):
                    held_by.pop(ino, None)
            case CutExtent(ino, index, length):
                cut = self.extents(ino).get(index)
                if cut is not None and cut.length > length:
                    self._one(PutExtent(ino, index, Extent(cut.block, length)) if length else DropExtents(ino, index, index + 1))
            case PutLocks(ino, locks):
                if locks:
                    self.locks[ino] = locks
                else:
                    self.locks.pop(ino, None)

    def snapshot(self) -> Iterable[tuple[Change, ...]]:
        """Yield changes that make this of an empty state, SNAPSHOT_CHANGES at a time. Nothing may be applied before all are out."""
        changes = iter(self._all())
        while part := tuple(itertools.islice(changes, SNAPSHOT_CHANGES)):
            yield part

    def _all(self) -> Iterable[Change]:
        yield NextIno(self.next_ino)
        for ino, inode in self.inodes.items():
            yield PutInode(inode)
            for name, to in self.entries(ino).items():
                yield PutEntry(ino, name, to)
            for index, extent in self.extents(ino).items():
                yield PutExtent(ino, index, extent)
            for name, value in self.xattrs(ino).items():
                yield PutXattr(ino, name, value)
            if ino in self.locks:
                yield PutLocks(ino, self.locks[ino])

    def _count(self, ino: int, more: int) -> None:
        if more:
            self._stored[ino] = self._stored.get(ino, 0) + more

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        mine, theirs = (
            (one.next_ino, one.inodes, one._entries, one._extents, one._xattrs, _more_than_none(one._stored), one.locks) for one in (self, other)
        )
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]


def _more_than_none(stored: dict[int, int]) -> dict[int, int]:
    return {ino: count for ino, count in stored.items() if count}


def _take(held: dict[int, dict[K, V]], ino: int, key: K) -> None:
    of = held.get(ino)
    if of is not None:
        of.pop(key, None)
        if not of:
            del held[ino]
