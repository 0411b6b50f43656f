"""Volume: a tree of files with the bytes of its blocks in the making, and the journal of what was done to it. Operations in, what is to be answered out.

`lock` is held by whoever calls anything here. Nothing here waits for another machine: what needs a block that is not on hand raises NeedBlocks.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeGuard

import msgspec

from unios.core.files import data as bytes_of
from unios.core.files.changes import Change, Changes, DropInode, PutExtent, PutInode, PutLocks
from unios.core.files.data import Made, Part, Piece, pieces
from unios.core.files.entry import Done, Entry, Patch
from unios.core.files.inode import BLOCK_BYTES, Extent
from unios.core.files.ranges import Locks
from unios.core.files.staging import Staged, Staging, slot_name, slot_of
from unios.core.files.state import State
from unios.core.files.tree import Planned, Tree
from unios.services.files.journal import Journal
from unios.services.files.stage import Stage

PATCH_BYTES_MAX: Final = 64 * 1024
"""So much of a block is synced in the log; more of it as a new block."""
RECENT: Final = 4_096
"""Requests of which is known that they were done."""


class NeedBlocks(Exception):
    """These blocks are not on hand: they have to be fetched, and the operation tried again."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        super().__init__("blocks are not on hand")
        self.blocks = tuple(blocks)


class Volume:
    """`tell` is given each entry that the log is to have, in order: called with the lock held."""

    def __init__(self, stage: Stage, journal: Journal, tell: Callable[[Entry], None]) -> None:
        self.lock = threading.RLock()
        self.stage, self.journal = stage, journal
        self.tree = Tree(State())
        self.staging = Staging()
        self.done: dict[tuple[int, int], Done] = {}
        self._tell = tell

    @property
    def state(self) -> State:
        return self.tree.state

    def snapshot(self) -> tuple[int, list[Changes]]:
        """Return what the log has of everything, but for its patches; and the last entry that is in it."""
        return self.journal.at, [self.staging.snapshot(part) for part in self.state.snapshot()]

    # what was done before

    def replay(self, entry: Entry, *, patches: bool) -> None:
        """Take in an entry of the log. `patches`: also the bytes in it; not where this node's journal knows of them. NeedBlocks: then once more."""
        self.state.apply(entry.changes)
        self._free(self.staging.follow(entry.changes))
        for patch in entry.patches if patches else ():
            self._repatch(patch, entry.at)
        if entry.done is not None:
            self._remember(entry.done)

    def begin(self) -> None:
        """What has been made of the log's patches is in this journal too, from now on."""
        for ino, index, staged in list(self.staging.all()):
            staged.at = self.journal.at + 1
            self.journal.append(Entry(staged.at, (PutExtent(ino, index, self.state.extents(ino)[index]),)))

    def _repatch(self, patch: Patch, at: int) -> None:
        """Make what a patch was of. NeedBlocks: its base is not on hand."""
        if patch.ino not in self.state.inodes:
            return
        extent = self.state.extents(patch.ino).get(patch.index)
        piece = Piece(patch.index, patch.start, patch.start + len(patch.data))
        there = extent.length if extent is not None else 0
        is_new = self.staging.get(patch.ino, patch.index) is None
        slot = self._slot(patch.ino, piece, extent)
        if there < patch.start and not is_new:
            self.stage.write(slot, there, bytes(patch.start - there))  # what was cut off may be there still
        self.stage.write(slot, patch.start, patch.data)
        size = self.state.inodes[patch.ino].size
        self.staging.wrote(
            patch.ino, patch.index, slot, piece.start, piece.end, base=extent, size=size, at=self.journal.at or at, now_s=time.monotonic()
        )
        staged = self.staging.of(patch.ino)[patch.index]
        staged.patched, staged.logged = staged.patched or at, patch.length
        staged.low, staged.high = BLOCK_BYTES, 0
        self.staging.synced(patch.ino, None)
        self.state.apply((PutExtent(patch.ino, patch.index, Extent(slot_name(slot), patch.length)),))

    def recall(self, entries: Iterable[Entry], last: int) -> None:
        """Take in what this journal has, on what the log has, of which `last` is the last entry: the slots that it names are on the stage."""
        entries = list(entries)
        staged = {(change.ino, change.index) for entry in entries for change in entry.changes if _is_of_slot(change)}
        bases = {(ino, index): self.state.extents(ino).get(index) for ino, index in staged}
        lengths = {ino: inode.size for ino, _index in staged if (inode := self.state.inodes.get(ino)) is not None}
        old = [entry for entry in entries if entry.at <= last]
        for entry in old:
            self._recall(entry, bases)
        for ino in self.staging.dirty:
            length = lengths.get(ino, 0)
            self.staging.logged(ino, length if self.staging.of(ino) or length != self.state.inodes[ino].size else None)
        for entry in entries[len(old) :]:
            self._recall(entry, bases)
            if entry.image is None:
                self._log(entry.at, self.staging.image(entry.changes), done=_in_log(entry.changes, entry.done))
                continue
            self._log(entry.at, entry.image)
            for change in entry.image:
                if isinstance(change, PutInode):
                    ino = change.inode.ino
                    self._as_logged(ino, entry.image)
                    self.staging.logged(ino, change.inode.size if self.staging.of(ino) else None)

    def _recall(self, entry: Entry, bases: dict[tuple[int, int], Extent | None]) -> None:
        for change in entry.changes:
            if isinstance(change, PutExtent) and (slot := slot_of(change.extent.block)) is not None:
                ino, index, inode = change.ino, change.index, self.state.inodes.get(change.ino)
                size = inode.size if inode is not None else 0
                base = bases[ino, index]
                self.staging.wrote(ino, index, slot, 0, change.extent.length, base=base, size=size, at=entry.at, now_s=time.monotonic())
                staged = self.staging.of(ino)[index]
                staged.logged, staged.patched = BLOCK_BYTES, staged.at  # the log may have patches of it
        self.state.apply(entry.changes)
        self.staging.follow(entry.changes)
        if entry.done is not None:
            self._remember(entry.done)

    # what is done

    def commit(self, planned: Planned, done: tuple[int, int] | None = None) -> int:
        """Write an operation into the journal and do it; return what it was about. OSError: it has not been done."""
        if planned.changes:
            self._commit(planned.changes, Done(*done, planned.ino) if done is not None else None)
        return planned.ino

    def _commit(self, changes: Changes, done: Done | None = None, staged: Iterable[tuple[Piece, int, Extent | None]] = (), ino: int = 0) -> None:
        at = self.journal.at + 1
        self.journal.append(Entry(at, changes, (), done))
        size = self.state.inodes[ino].size if staged else 0
        now_s = time.monotonic()
        for piece, slot, base in staged:
            self.staging.wrote(ino, piece.at, slot, piece.start, piece.end, base=base, size=size, at=at, now_s=now_s)
        self.state.apply(changes)
        self._free(self.staging.follow(changes))
        if done is not None:
            self._remember(done)
        self._log(at, self.staging.image(changes), done=_in_log(changes, done))

    def _log(self, at: int, changes: Changes, patches: tuple[Patch, ...] = (), done: Done | None = None) -> None:
        if changes or patches:
            self._tell(Entry(at, changes, patches, done))

    def _note(self) -> int:
        """Return the number of an entry that only the log has something of."""
        at = self.journal.at + 1
        self.journal.append(Entry(at, ()))
        return at

    def _free(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self.stage.free(slot)

    def _remember(self, done: Done) -> None:
        self.done[done.mount, done.number] = done
        if len(self.done) > RECENT:
            del self.done[next(iter(self.done))]

    def released(self, ino: int) -> None:
        """Nobody knows an inode any more, of those who did (Tree.opened)."""
        changes = self.tree.released(ino)
        if changes:
            self._commit(changes)

    def drop(self, change: DropInode) -> None:
        """What has no name, and nobody knows, is gone."""
        self._commit((change,))

    def lock_ranges(self, ino: int, locks: Locks) -> None:
        """The locks on parts of a file are these."""
        self._commit((PutLocks(ino, locks),))

    # bytes

    def read(self, ino: int, offset: int, length: int) -> list[bytes]:
        """Return the bytes there, up to the end of the file. NeedBlocks."""
        parts = bytes_of.parts(self.tree, ino, offset, length)
        missing = [part.block for part in parts if part.block and slot_of(part.block) is None and self.stage.cached(part.block) is None]
        if missing:
            raise NeedBlocks(missing)
        return [self._part(part) for part in parts]

    def _part(self, part: Part) -> bytes:
        if not part.block:
            return bytes(part.length)
        slot = slot_of(part.block)
        if slot is None:
            slot = self.stage.cached(part.block)
        if slot is None:
            raise NeedBlocks((part.block,))
        return self.stage.read(slot, part.start, part.length)

    def write(
        self,
        ino: int,
        offset: int,
        data: bytes | memoryview,
        now_ns: int,
        *,
        kill_suidgid: bool = False,
        append: bool = False,
        done: tuple[int, int] | None = None,
    ) -> int:
        """Write; return how much that was: all. NeedBlocks, OSError."""
        inode = bytes_of.regular(self.tree, ino)
        if append:
            offset = inode.size
        view, at, written = memoryview(data), 0, list[tuple[Piece, memoryview]]()
        for piece in pieces(offset, len(data)):
            written.append((piece, view[at : at + piece.end - piece.start]))
            at += piece.end - piece.start
        staged, made = self._stage(ino, written)
        try:
            planned = bytes_of.write(self.tree, ino, offset, len(data), made, now_ns, kill_suidgid=kill_suidgid)
            self._commit(planned.changes, Done(*done, ino) if done is not None else None, staged, ino)
        except BaseException:
            self._unstage(ino, staged)
            raise
        return len(data)

    def punch(self, ino: int, offset: int, length: int, now_ns: int, *, kill_suidgid: bool) -> None:
        """Have bytes read as zeros. NeedBlocks, OSError."""
        zeros = memoryview(bytes(BLOCK_BYTES))
        edges = bytes_of.edges(self.tree, ino, offset, length)
        staged, made = self._stage(ino, [(piece, zeros[: piece.end - piece.start]) for piece in edges], grow=False)
        try:
            planned = bytes_of.punch(self.tree, ino, offset, length, made, now_ns, kill_suidgid=kill_suidgid)
            self._commit(planned.changes, None, staged, ino)
        except BaseException:
            self._unstage(ino, staged)
            raise

    def _stage(
        self, ino: int, written: list[tuple[Piece, memoryview]], *, grow: bool = True
    ) -> tuple[list[tuple[Piece, int, Extent | None]], dict[int, Made]]:
        """Bring bytes into slots; return (piece, slot, what there was) of each, and the blocks that were made."""
        extents = self.state.extents(ino)
        self._need(ino, (piece for piece, _data in written))
        staged: list[tuple[Piece, int, Extent | None]] = []
        made: dict[int, Made] = {}
        try:
            for piece, data in written:
                base = extents.get(piece.at)
                is_new = self.staging.get(ino, piece.at) is None
                slot = self._slot(ino, piece, base)
                staged.append((piece, slot, base))
                there = base.length if base is not None else 0
                if piece.start > there and not is_new:
                    self.stage.write(slot, there, bytes(piece.start - there))  # what was cut off may be there still
                end = max(there, piece.end) if grow else there
                self.stage.write(slot, piece.start, data[: end - piece.start])
                made[piece.at] = Made(base, Extent(slot_name(slot), end))
        except BaseException:
            self._unstage(ino, staged)
            raise
        return staged, made

    def _unstage(self, ino: int, staged: list[tuple[Piece, int, Extent | None]]) -> None:
        for piece, slot, _base in staged:
            there = self.staging.get(ino, piece.at)
            if there is None or there.slot != slot:
                self.stage.free(slot)

    def _need(self, ino: int, written: Iterable[Piece]) -> None:
        extents = self.state.extents(ino)
        needed = []
        for piece in written:
            base = extents.get(piece.at)
            if base is not None and _is_needed(base, piece) and self.stage.cached(base.block) is None:
                needed.append(base.block)
        if needed:
            raise NeedBlocks(needed)

    def _slot(self, ino: int, piece: Piece, base: Extent | None) -> int:
        """Return the slot of a block that is to be written to, a new one with what there was if it is none yet."""
        there = self.staging.get(ino, piece.at)
        if there is not None:
            return there.slot
        slot = self.stage.take()
        if base is not None and _is_needed(base, piece):
            copy = self.stage.cached(base.block)
            if copy is None:
                self.stage.free(slot)
                raise NeedBlocks((base.block,))
            try:
                self.stage.write(slot, 0, self.stage.read(copy, 0, base.length))
            except OSError:
                self.stage.free(slot)
                raise
        return slot

    # syncing

    def patch(self, ino: int) -> int | None:
        """Give the log what it lacks of a file, if that is little; return the entry after which it is there, None if it is much, or is on its way: then `take`
        and `sealed`."""
        if not self.staging.is_dirty(ino):
            return self.journal.at
        if any(staged.taken for staged in self.staging.of(ino).values()):
            return None
        dirty = [(index, staged) for index, staged in self.staging.of(ino).items() if staged.is_dirty]
        if sum(staged.high - staged.low for _index, staged in dirty) > PATCH_BYTES_MAX:
            return None
        extents, read = self.state.extents(ino), self.stage.read
        patches = tuple(Patch(ino, index, one.low, read(one.slot, one.low, one.high - one.low), extents[index].length) for index, one in dirty)
        at = self._note()
        for (_index, staged), patch in zip(dirty, patches, strict=True):
            staged.low, staged.high = BLOCK_BYTES, 0
            staged.patched, staged.logged = staged.patched or at, patch.length
        self.staging.synced(ino, None)
        self._log(at, (PutInode(self.state.inodes[ino]),), patches)
        return at

    def take(self, ino: int, index: int, staged: Staged) -> bytes:
        """Return what is in a block in the making, for a block to be made of it; what is written from now on counts as not in the log."""
        extent = self.state.extents(ino)[index]
        data = self.stage.read(staged.slot, 0, extent.length)
        staged.low, staged.high, staged.taken = BLOCK_BYTES, 0, True
        return data

    def not_sealed(self, staged: Staged, length: int) -> None:
        """No block could be made of it: the log lacks it still."""
        staged.low, staged.high, staged.taken = 0, max(staged.high, length), False

    def sealed(self, ino: int, made: dict[int, tuple[Staged, int, bytes, int]], upto: int) -> int:
        """Blocks were made and are kept: index -> (of what, its version then, name, length). `upto`: so long the file is in the log with them, at least.
        Return the entry of it."""
        there = {index: one for index, one in made.items() if self.staging.get(ino, index) is one[0]}
        inode = self.state.inodes.get(ino)
        if inode is None or not there:
            return self.journal.at
        others = [staged for index, staged in self.staging.of(ino).items() if index not in there]
        extents = {index: Extent(one[2], min(one[3], self.state.extents(ino)[index].length)) for index, one in there.items()}
        local = tuple(PutExtent(ino, index, extents[index]) for index, one in there.items() if one[0].version == one[1])
        length = None
        if self.staging.is_dirty(ino) and (any(one[0].is_dirty for one in there.values()) or any(one.is_dirty or one.taken for one in others)):
            ends = (index * BLOCK_BYTES + extent.length for index, extent in extents.items())
            length = max(self.staging.length(ino) or 0, min(upto, inode.size), *ends)
        logged = inode if length is None else msgspec.structs.replace(inode, size=min(inode.size, length))
        image: Changes = (*(PutExtent(ino, index, extent) for index, extent in extents.items()), PutInode(logged))
        at = self.journal.at + 1
        self.journal.append(Entry(at, local, (), None, image))
        slots = [(one[0].slot, one[2]) for one in there.values() if one[0].version == one[1]]
        self._as_logged(ino, image)
        self.state.apply(local)
        self.staging.follow(local)
        self.staging.logged(ino, length)
        for slot, name in slots:
            self.stage.keep(name, slot)
        self._log(at, image)
        return at

    def _as_logged(self, ino: int, image: Changes) -> None:
        """The log has these blocks in the place of some that are in the making."""
        for change in image:
            if isinstance(change, PutExtent) and (staged := self.staging.get(ino, change.index)) is not None:
                staged.base, staged.logged, staged.patched, staged.since_s = change.extent, change.extent.length, 0, time.monotonic()
                staged.taken = False


def _is_of_slot(change: Change) -> TypeGuard[PutExtent]:
    return isinstance(change, PutExtent) and slot_of(change.extent.block) is not None


def _in_log(changes: Changes, done: Done | None) -> Done | None:
    """Return what the log is to know as done: not what was written, whose bytes it may lack yet."""
    return done if done is None or not any(map(_is_of_slot, changes)) else None


def _is_needed(base: Extent, piece: Piece) -> bool:
    """Whether what there was matters to what is written over it."""
    return slot_of(base.block) is None and not (piece.start == 0 and piece.end >= base.length)
