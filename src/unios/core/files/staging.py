"""Staging: which blocks of files are in the making, on the owner's own disk and under no name yet, and what the log knows of them. Decides only.

A block that is written to lies in a slot: bytes that can be changed. In the owner's state its extent names the slot (`slot_name`); in the log, which others go
on from, it does not occur: there the block is as it was before (`base`), until what has been written is there too, as patches or as a new block. So what
is not synced may be lost with its machine, and never leaves half of it: until its bytes are in the log a file is there no longer than they go.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from unios.core.files.changes import Change, Changes, CutExtent, DropExtents, DropInode, PutExtent, PutInode
from unios.core.files.inode import BLOCK_BYTES, Extent

_SLOT: Final = b"~"


def slot_name(slot: int) -> bytes:
    """Return what an extent in that slot is called. Names of blocks are hashes, and longer."""
    return _SLOT + slot.to_bytes(8, "big")


def slot_of(block: bytes) -> int | None:
    """Return the slot that a name is of; None for a block's."""
    return int.from_bytes(block[1:], "big") if len(block) == 9 and block[:1] == _SLOT else None


class Staged:
    """A block in the making. Bytes `low` to before `high` are not in the log; none if they are not in that order."""

    __slots__ = ("at", "base", "high", "logged", "low", "patched", "since_s", "slot", "taken", "version")

    def __init__(self, slot: int, base: Extent | None, at: int, since_s: float) -> None:
        self.slot, self.at, self.since_s = slot, at, since_s
        self.base = base
        """The block that the log has in its place, without patches."""
        self.logged = base.length if base is not None else 0
        """So many bytes count of what the log has there, with patches."""
        self.low, self.high = BLOCK_BYTES, 0
        self.patched = 0
        """The first entry with a patch of it, 0: none."""
        self.taken = False
        """Whether a block is being made of it: what it had then is not in the log before that is over."""
        self.version = 0
        """Counts what was written."""

    @property
    def is_dirty(self) -> bool:
        return self.low < self.high


class Staging:
    """Those of one tree, by file and index."""

    def __init__(self) -> None:
        self.files: dict[int, dict[int, Staged]] = {}
        self._lengths: dict[int, int] = {}
        """How long the log has each file that has bytes which are not there yet."""
        self.count = 0

    def get(self, ino: int, index: int) -> Staged | None:
        """Return what is in the making there."""
        found = self.files.get(ino)
        return found.get(index) if found is not None else None

    def all(self) -> Iterator[tuple[int, int, Staged]]:
        """Yield (file, index, block)."""
        for ino, blocks in self.files.items():
            for index, staged in blocks.items():
                yield ino, index, staged

    def of(self, ino: int) -> dict[int, Staged]:
        """Return those of a file."""
        return self.files.get(ino, {})

    def is_dirty(self, ino: int) -> bool:
        """Return whether bytes of a file are not in the log."""
        return ino in self._lengths

    @property
    def dirty(self) -> list[int]:
        """The files of which bytes are not in the log."""
        return list(self._lengths)

    def wrote(self, ino: int, index: int, slot: int, low: int, high: int, *, base: Extent | None, size: int, at: int, now_s: float) -> None:
        """Bytes of a block were written in its slot. `base`: what there was before, if it is new; `size`: of the file before; `at`: the entry of it."""
        blocks = self.files.setdefault(ino, {})
        staged = blocks.get(index)
        if staged is None:
            staged = blocks[index] = Staged(slot, base, at, now_s)
            self.count += 1
        self._lengths.setdefault(ino, size)
        staged.low, staged.high = min(staged.low, low), max(staged.high, high)
        staged.version += 1

    def follow(self, changes: Iterable[Change]) -> list[int]:
        """Take in what has been applied to the state; return the slots that nothing is in any more."""
        freed: list[int] = []
        for change in changes:
            kind = type(change)
            if kind is PutInode:
                ino, size = change.inode.ino, change.inode.size  # type: ignore[union-attr]
                if self._lengths.get(ino, 0) > size:
                    self._lengths[ino] = size
            elif kind is PutExtent:
                staged = self.get(change.ino, change.index)  # type: ignore[union-attr]
                if staged is not None:
                    extent: Extent = change.extent  # type: ignore[union-attr]
                    if slot_of(extent.block) == staged.slot:
                        staged.high = min(staged.high, extent.length)
                    else:
                        freed.append(self._take(change.ino, change.index))  # type: ignore[union-attr]
            elif kind is DropExtents:
                first, end = change.first, change.end  # type: ignore[union-attr]
                freed += [self._take(change.ino, index) for index in [at for at in self.of(change.ino) if first <= at < end]]  # type: ignore[union-attr]
            elif kind is DropInode:
                ino = change.ino  # type: ignore[union-attr]
                freed += [self._take(ino, index) for index in list(self.of(ino))]
                self._lengths.pop(ino, None)
        return freed

    def _take(self, ino: int, index: int) -> int:
        blocks = self.files[ino]
        slot = blocks.pop(index).slot
        self.count -= 1
        if not blocks:
            del self.files[ino]
        return slot

    def image(self, changes: Changes) -> Changes:
        """Return what the log is to have of changes that were applied: nothing of slots, and no file longer than its bytes are there."""
        if not self.files and not self._lengths:
            return changes
        return tuple(self._image(changes))

    def _image(self, changes: Changes) -> Iterator[Change]:
        for change in changes:
            if type(change) is PutInode:
                length = self._lengths.get(change.inode.ino)
                if length is not None and change.inode.is_regular and change.inode.size > length:
                    change = PutInode(msgspec.structs.replace(change.inode, size=length))
            elif type(change) is PutExtent and slot_of(change.extent.block) is not None:
                staged = self.get(change.ino, change.index)
                if staged is None or change.extent.length >= staged.logged:
                    continue
                staged.logged = change.extent.length
                if staged.base is not None and staged.base.length > staged.logged:
                    staged.base = Extent(staged.base.block, staged.logged)
                change = CutExtent(change.ino, change.index, change.extent.length)
            yield change

    def snapshot(self, changes: Changes) -> Changes:
        """Return what the log has in the place of what makes the state (State.snapshot), but for its patches."""
        found: list[Change] = []
        for change in changes:
            if type(change) is PutExtent and slot_of(change.extent.block) is not None:
                staged = self.get(change.ino, change.index)
                if staged is None or staged.base is None:
                    continue
                change = PutExtent(change.ino, change.index, staged.base)
            found.append(change)
        return self.image(tuple(found))

    def synced(self, ino: int, length: int | None) -> None:
        """The log is to have a file's bytes up to `length`, or further than that already; None: all of them."""
        if length is None:
            self._lengths.pop(ino, None)
        elif ino in self._lengths:
            self._lengths[ino] = max(self._lengths[ino], length)

    def length(self, ino: int) -> int | None:
        """Return how long the log has a file, of which bytes are not there; None: they all are."""
        return self._lengths.get(ino)

    def logged(self, ino: int, length: int | None) -> None:
        """So long the log has a file, of which bytes are not there; None: they all are."""
        if length is None:
            self._lengths.pop(ino, None)
        else:
            self._lengths[ino] = length

    def first(self) -> int:
        """Return the first entry of the journal that what is in the making begins with; 0: nothing is."""
        return min((staged.at for _ino, _index, staged in self.all()), default=0)

    def first_patch(self) -> int:
        """The same of the log, whose patches a reader needs."""
        return min((staged.patched for _ino, _index, staged in self.all() if staged.patched), default=0)
