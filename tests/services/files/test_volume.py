"""A volume, after its process was killed, is as it was; after its machine was lost, as the log has it: all that was synced, and nothing that cannot be."""

import os
import random
import stat
from pathlib import Path

import pytest

from unios.core.files.check import faults
from unios.core.files.data import cut
from unios.core.files.entry import Entry, decode, encode
from unios.core.files.inode import BLOCK_BYTES, Owner
from unios.core.files.state import State
from unios.core.files.tree import FileError, Wanted
from unios.services.files.journal import Journal
from unios.services.files.stage import Stage
from unios.services.files.volume import NeedBlocks, Volume
from unios.wire.manifests import name_of

ROOT = Owner(0, 0)
NAMES = [b"a", b"b", b"c", b"d"]


class World:
    """A volume on a disk; `log` and `blocks` are on others. What is synced is remembered."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.log: list[Entry] = []
        self.floor = 0
        """So many entries of the log are from before this journal."""
        self.blocks: dict[bytes, bytes] = {}
        self.volume = Volume(Stage(folder / "stage", fresh=True), Journal.begin(folder, 0), self.tell)
        self.volume.commit(self.volume.tree.found(ROOT, 0o777, 1))
        self.synced: dict[int, bytes] = {}
        self.now = 1
        self.counts = {"killed": 0, "lost": 0, "sealed": 0, "patched": 0, "fetched": 0}

    def tell(self, entry: Entry) -> None:
        self.log.append(decode(encode(entry)))  # type: ignore[arg-type]

    # what may happen

    def again(self, what: object) -> object:
        """Do something, and bring the blocks that it needs."""
        while True:
            try:
                return what()  # type: ignore[operator]
            except NeedBlocks as needed:
                self.counts["fetched"] += 1
                for name in needed.blocks:
                    self.volume.stage.put(name, self.blocks[name])

    def files(self) -> list[int]:
        return [ino for ino, inode in self.volume.state.inodes.items() if inode.is_regular]

    def directories(self) -> list[int]:
        return [ino for ino, inode in self.volume.state.inodes.items() if inode.is_directory]

    def content(self, ino: int) -> bytes:
        size = self.volume.state.inodes[ino].size
        return b"".join(self.again(lambda: self.volume.read(ino, 0, size)))  # type: ignore[call-overload]

    def step(self) -> None:
        self.now += 1
        rand, volume, tree = self.random, self.volume, self.volume.tree
        directory, name = rand.choice(self.directories()), rand.choice(NAMES)
        files = self.files()
        ino = rand.choice(files) if files else 0
        try:
            match rand.randrange(14):
                case 0 | 1:
                    volume.commit(tree.make(directory, name, stat.S_IFREG | 0o644, ROOT, self.now), (1, self.now))
                case 2:
                    volume.commit(tree.make(directory, name, stat.S_IFDIR | 0o755, ROOT, self.now))
                case 3:
                    volume.commit(tree.unlink(directory, name, self.now))
                case 4:
                    volume.commit(tree.rename(directory, name, rand.choice(self.directories()), rand.choice(NAMES), self.now))
                case 5 if ino:
                    volume.commit(cut(tree, ino, rand.choice((0, 10, 5_000, BLOCK_BYTES, BLOCK_BYTES + 100)), self.now))
                case 6 if ino:
                    volume.commit(tree.change(ino, Wanted(mode=0o600), self.now))
                case 7 if ino:
                    size = volume.state.inodes[ino].size
                    if size:
                        start = rand.randrange(size)
                        length = rand.randrange(1, 2 * BLOCK_BYTES)
                        self.again(lambda: volume.punch(ino, start, length, self.now, kill_suidgid=False))
                case 8 if ino:
                    self.sync(ino)
                case 9 if ino:
                    self.seal(ino)
                case _ if ino:
                    offset = rand.choice((0, 7, volume.state.inodes[ino].size, BLOCK_BYTES - 3, rand.randrange(2 * BLOCK_BYTES)))
                    data = rand.randbytes(rand.choice((1, 100, 70_000))) * rand.choice((1, 1, 30))
                    self.again(lambda: volume.write(ino, offset, data, self.now))
        except FileError:
            pass

    def sync(self, ino: int) -> None:
        """As fsync(2)."""
        if self.volume.patch(ino) is None:
            self.seal(ino, only_dirty=True)
        else:
            self.counts["patched"] += 1
        self.synced[ino] = self.content(ino)

    def seal(self, ino: int, *, only_dirty: bool = False) -> None:
        volume, made = self.volume, {}
        upto = volume.state.inodes[ino].size
        for index, staged in volume.staging.of(ino).items():
            if staged.is_dirty or not only_dirty:
                data = volume.take(ino, index, staged)
                self.blocks[name_of(data)] = data
                made[index] = (staged, staged.version, name_of(data), len(data))
        if made and self.random.random() < 0.3:  # somebody writes meanwhile
            self.again(lambda: volume.write(ino, self.random.randrange(upto or 1), b"meanwhile", self.now))
        volume.sealed(ino, made, upto)
        self.counts["sealed"] += 1
        if volume.staging.is_dirty(ino):
            assert volume.patch(ino) is not None, "what was written meanwhile is little"
        self.synced[ino] = self.content(ino)

    # what must be so

    def whole(self) -> dict[int, bytes]:
        return {ino: self.content(ino) for ino in self.files()}

    def killed(self) -> None:
        """The process is gone: the next one finds all of it."""
        before, state = self.whole(), snapshot(self.volume.state)
        done = dict(self.volume.done)
        self.volume.journal.close()
        self.volume.stage.close()
        entries, self.counts["killed"] = self.log.copy(), self.counts["killed"] + 1
        if self.random.random() < 0.5:  # the log has not had the last ones yet
            del self.log[max(self.floor, len(self.log) - self.random.randrange(10)) :]
            entries = self.log.copy()
        last = max((entry.at for entry in entries), default=0)
        journal = Journal.find(self.folder, self.volume.journal.token, last)
        assert journal is not None
        volume = self.volume = Volume(Stage(self.folder / "stage", fresh=False), journal, self.tell)
        for entry in entries:
            volume.replay(entry, patches=False)
        volume.recall(journal.read(), last)
        volume.stage.keep_only({staged.slot for _ino, _index, staged in volume.staging.all()})
        assert snapshot(volume.state) == state
        assert self.whole() == before
        assert set(done) == set(volume.done)

    def lost(self) -> None:
        """The machine is gone: another one has the log. What was synced and not changed since is there; nothing else is odd."""
        whole, mine = self.whole(), self.volume
        other = self.folder / f"other{self.counts['lost']}"
        other.mkdir()
        self.counts["lost"] += 1
        volume = self.volume = Volume(Stage(other / "stage", fresh=True), Journal.begin(other, self.log[-1].at), self.tell)
        for entry in self.log.copy():
            self.again(lambda entry=entry: volume.replay(entry, patches=True))  # type: ignore[misc]
        volume.begin()
        self.floor = len(self.log)
        assert list(faults(volume.state)) == []
        assert entries_of(volume.state) == entries_of(mine.state)
        for ino, content in whole.items():
            if not mine.staging.is_dirty(ino):
                assert self.content(ino) == content, f"file {ino} was synced"
        for ino in self.files():
            size = volume.state.inodes[ino].size
            assert size <= len(whole[ino]) or mine.staging.is_dirty(ino)
        mine.journal.close()
        mine.stage.close()
        self.folder = other
        self.killed()


def snapshot(state: State) -> list[object]:
    copy = State()
    for changes in state.snapshot():
        copy.apply(changes)
    assert copy == state
    return sorted((str(change) for changes in state.snapshot() for change in changes), key=str)


def entries_of(state: State) -> dict[int, dict[bytes, int]]:
    return {ino: dict(state.entries(ino)) for ino, inode in state.inodes.items() if inode.is_directory}


@pytest.mark.parametrize("seed", range(int(os.environ.get("UNIOS_TEST_SEEDS", "25"))))
def test_what_was_done_is_there_after_the_process_and_what_was_synced_after_the_machine(seed: int, tmp_path: Path) -> None:
    world = World(tmp_path, seed)
    for _ in range(120):
        world.step()
        chance = world.random.random()
        if chance < 0.04:
            world.killed()
        elif chance < 0.07:
            world.lost()
        assert list(faults(world.volume.state)) == []
    world.killed()
    world.lost()
    assert world.counts["sealed"] + world.counts["patched"], world.counts
    world.volume.journal.close()
    world.volume.stage.close()


def test_bytes_of_which_a_block_is_being_made_are_not_in_the_log_yet(tmp_path: Path) -> None:
    """Closing the file, or renaming it over another, meanwhile must not say so: its machine may be lost before the block is there."""
    world = World(tmp_path, 0)
    volume = world.volume
    ino = volume.commit(volume.tree.make(1, b"a", stat.S_IFREG | 0o644, ROOT, 2))
    volume.write(ino, 0, b"x" * 200_000, 3)
    (index, staged) = next(iter(volume.staging.of(ino).items()))
    data = volume.take(ino, index, staged)
    assert volume.patch(ino) is None
    volume.write(ino, 5, b"meanwhile", 4)
    assert volume.patch(ino) is None
    world.lost()
    assert world.volume.state.inodes[ino].size == 0
    for how in ("sealed", "not"):
        ino = world.volume.commit(world.volume.tree.make(1, how.encode(), stat.S_IFREG | 0o644, ROOT, 5))
        world.volume.write(ino, 0, b"y" * 1_000, 6)
        (index, staged) = next(iter(world.volume.staging.of(ino).items()))
        data = world.volume.take(ino, index, staged)
        assert world.volume.patch(ino) is None
        if how == "sealed":
            world.blocks[name_of(data)] = data
            world.volume.sealed(ino, {index: (staged, staged.version, name_of(data), len(data))}, len(data))
        else:
            world.volume.not_sealed(staged, len(data))
        assert world.volume.patch(ino) is not None
    world.lost()
    for name, ino in world.volume.state.entries(1).items():
        if name != b"a":
            assert world.content(ino) == b"y" * 1_000, name
    world.volume.journal.close()
    world.volume.stage.close()
