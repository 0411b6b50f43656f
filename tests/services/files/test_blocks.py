"""What is synced is kept elsewhere before anybody is told so; what could not be kept is kept the next time; nothing that is written meanwhile is lost."""

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.files.played import Then, Waiter, volume_in
from unios.client import blocks as client
from unios.core.files.changes import PutExtent
from unios.core.files.check import faults
from unios.core.files.data import cut
from unios.core.files.entry import Entry, decode, encode
from unios.core.files.inode import BLOCK_BYTES, ROOT, Owner
from unios.core.files.staging import slot_of
from unios.errors import DataLost, NoRoom, Unavailable
from unios.services.files import blocks as blocks_of
from unios.services.files.blocks import USER, Blocks
from unios.services.files.journal import Journal
from unios.services.files.stage import Stage
from unios.services.files.volume import PATCH_BYTES_MAX, NeedBlocks, Volume

MUCH = PATCH_BYTES_MAX + 1
"""Bytes of which a block is made."""


class Elsewhere:
    """The other nodes. `keep` waits while `open` is not set, and raises what is in `failing`, one after the other (None: it does not)."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.calls: list[list[bytes]] = []
        self.failing: list[BaseException | None] = []
        self.open, self.arrived = threading.Event(), threading.Event()
        self.open.set()

    def keep(self, _connection: Any, names: list[bytes], content: client.Content, *, user: str, sent: Callable[[int], None]) -> None:
        assert user == USER
        self.calls.append(names)
        self.arrived.set()
        assert self.open.wait(20)
        if self.failing and (error := self.failing.pop(0)) is not None:
            raise error
        for name in names:
            self.kept[name] = content.read(name)
            assert len(self.kept[name]) == content.size(name)
            sent(content.size(name))

    def fetch(self, _connection: Any, names: Iterable[bytes], *, user: str) -> Iterator[bytes]:
        assert user == USER
        for name in names:
            if name not in self.kept:
                raise DataLost("no node that is left has it")
            yield self.kept[name]


class World:
    def __init__(self, folder: Path, elsewhere: Elsewhere) -> None:
        self.folder, self.elsewhere = folder, elsewhere
        self.log: list[Entry] = []
        self.volume = volume_in(folder, self.tell)
        self.whens: list[int] = []
        self.blocks = Blocks(None, self.volume, self.when)  # type: ignore[arg-type]

    def tell(self, entry: Entry) -> None:
        written = decode(encode(entry))
        assert isinstance(written, Entry)
        self.log.append(written)

    def when(self, at: int, then: Then) -> None:
        self.whens.append(at)
        then(None)

    def file(self, name: bytes = b"f") -> int:
        return self.volume.commit(self.volume.tree.make(ROOT, name, 0o100644, Owner(0, 0), 1))

    def write(self, ino: int, offset: int, data: bytes) -> None:
        with self.volume.lock:
            self.volume.write(ino, offset, data, 1)

    def sync(self, ino: int) -> OSError | None:
        waiter = Waiter()
        self.blocks.sync(ino, waiter)
        return waiter.wait()

    def elsewhere_is(self, ino: int, upto: int | None = None) -> bytes:
        """Return what another machine, which has the log and the blocks, has of a file."""
        folder = self.folder / f"other-{time.monotonic_ns()}"
        folder.mkdir()
        other = Volume(Stage(folder / "stage", fresh=True), Journal.begin(folder, 0), lambda _entry: None)
        for entry in self.log[:upto]:
            self._again(other, lambda entry=entry: other.replay(entry, patches=True))  # type: ignore[misc]
        other.begin()
        assert list(faults(other.state)) == []
        found = self._again(other, lambda: b"".join(other.read(ino, 0, 1 << 40))) if ino in other.state.inodes else b""
        other.journal.close()
        other.stage.close()
        return bytes(found)

    def _again(self, volume: Volume, what: Callable[[], Any]) -> Any:
        while True:
            try:
                return what()
            except NeedBlocks as needed:
                for name in needed.blocks:
                    volume.stage.put(name, self.elsewhere.kept[name])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    made = Elsewhere()
    monkeypatch.setattr(client, "keep", made.keep)
    monkeypatch.setattr(client, "fetch", made.fetch)
    monkeypatch.setattr(Blocks, "_connection", lambda _self: None)
    return made


@pytest.fixture
def world(tmp_path: Path, elsewhere: Elsewhere) -> Iterator[World]:
    made = World(tmp_path, elsewhere)
    yield made
    elsewhere.open.set()
    made.blocks.close()


# syncing


def test_little_goes_to_the_log_and_no_block_is_made(world: World) -> None:
    ino = world.file()
    world.write(ino, 0, b"x" * PATCH_BYTES_MAX)
    assert world.elsewhere_is(ino) == b""
    assert world.sync(ino) is None
    assert world.elsewhere_is(ino) == b"x" * PATCH_BYTES_MAX and world.elsewhere.calls == []
    assert world.whens == [world.log[-1].at]


def test_much_becomes_blocks_that_are_kept_and_in_the_log_before_it_is_told(world: World) -> None:
    ino, told = world.file(), Waiter()
    data = b"x" * BLOCK_BYTES + b"y" * 10
    world.write(ino, 0, data)
    world.elsewhere.open.clear()
    world.blocks.sync(ino, told)
    assert world.elsewhere.arrived.wait(20) and not told.is_told and world.whens == []
    world.elsewhere.open.set()
    assert told.wait() is None and world.elsewhere_is(ino) == data
    assert world.whens == [world.log[-1].at] and world.volume.staging.count == 0
    assert all(slot_of(extent.block) is None for extent in world.volume.state.extents(ino).values())


def test_what_is_synced_already_waits_for_the_log_alone(world: World) -> None:
    ino = world.file()
    assert world.sync(ino) is None and world.sync(0) is None
    assert world.whens == [world.volume.journal.at] * 2 and world.elsewhere.calls == []


def test_of_two_who_sync_a_file_at_once_none_is_told_before_its_bytes_are_kept(world: World) -> None:
    ino, first, second = world.file(), Waiter(), Waiter()
    world.write(ino, 0, b"x" * MUCH)
    world.elsewhere.open.clear()
    world.blocks.sync(ino, first)
    assert world.elsewhere.arrived.wait(20)
    world.blocks.sync(ino, second)
    assert not first.is_told and not second.is_told
    world.elsewhere.open.set()
    assert first.wait() is None and second.wait() is None
    assert (first.count, second.count) == (1, 1) and len(world.elsewhere.calls) == 1


def test_who_syncs_what_was_written_meanwhile_is_told_when_that_is_kept_too(world: World) -> None:
    ino, first, second = world.file(), Waiter(), Waiter()
    world.write(ino, 0, b"x" * MUCH)
    world.elsewhere.open.clear()
    world.blocks.sync(ino, first)
    assert world.elsewhere.arrived.wait(20)
    world.write(ino, 10, b"y" * MUCH)
    world.blocks.sync(ino, second)
    world.elsewhere.open.set()
    assert first.wait() is None and second.wait() is None
    assert len(world.elsewhere.calls) == 2 and world.elsewhere_is(ino) == b"x" * 10 + b"y" * MUCH


def test_other_files_do_not_wait(world: World) -> None:
    ino, other, told = world.file(), world.file(b"g"), Waiter()
    world.write(ino, 0, b"x" * MUCH)
    world.write(other, 0, b"little")
    world.elsewhere.open.clear()
    world.blocks.sync(ino, told)
    assert world.elsewhere.arrived.wait(20)
    assert world.sync(other) is None and not told.is_told
    world.elsewhere.open.set()
    told.wait()


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (NoRoom("the disks are full"), errno.ENOSPC),
        (Unavailable("nobody is there"), errno.EIO),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (ZeroDivisionError("a defect"), errno.EIO),
    ],
)
def test_what_could_not_be_kept_is_told_and_kept_the_next_time(world: World, error: Exception, number: int) -> None:
    ino = world.file()
    world.write(ino, 0, b"x" * MUCH)
    world.elsewhere.failing = [error]
    told = world.sync(ino)
    assert told is not None and told.errno == number
    assert world.elsewhere_is(ino) == b"" and world.volume.staging.is_dirty(ino) and b"".join(world.volume.read(ino, 0, MUCH)) == b"x" * MUCH
    assert world.sync(ino) is None
    assert world.elsewhere_is(ino) == b"x" * MUCH and len(world.elsewhere.calls) == 2


def test_who_waits_for_a_sync_that_fails_has_one_of_his_own(world: World) -> None:
    ino, first, second = world.file(), Waiter(), Waiter()
    world.write(ino, 0, b"x" * MUCH)
    world.elsewhere.open.clear()
    world.elsewhere.failing = [NoRoom("full")]
    world.blocks.sync(ino, first)
    assert world.elsewhere.arrived.wait(20)
    world.blocks.sync(ino, second)
    world.elsewhere.open.set()
    assert first.wait() is not None and second.wait() is None
    assert world.elsewhere_is(ino) == b"x" * MUCH


def test_what_is_written_while_blocks_are_made_is_not_lost(world: World) -> None:
    ino, told = world.file(), Waiter()
    world.write(ino, 0, b"x" * MUCH)
    world.elsewhere.open.clear()
    world.blocks.sync(ino, told)
    assert world.elsewhere.arrived.wait(20)
    world.write(ino, 5, b"meanwhile")
    world.write(ino, MUCH, b"and more")
    world.elsewhere.open.set()
    assert told.wait() is None
    whole = b"x" * 5 + b"meanwhile" + b"x" * (MUCH - 14) + b"and more"
    assert b"".join(world.volume.read(ino, 0, 2 * MUCH)) == whole
    assert world.elsewhere_is(ino) == b"x" * MUCH, "what was there when it was asked is"
    assert world.sync(ino) is None and world.elsewhere_is(ino) == whole


def test_a_file_is_as_long_as_it_was_when_it_was_asked_whatever_is_written_meanwhile(world: World) -> None:
    ino, told = world.file(), Waiter()
    world.write(ino, 0, b"x" * MUCH)
    world.volume.commit(cut(world.volume.tree, ino, 2 * MUCH, 2))
    world.elsewhere.open.clear()
    world.blocks.sync(ino, told)
    assert world.elsewhere.arrived.wait(20)
    world.write(ino, 3 * MUCH, b"meanwhile")
    world.elsewhere.open.set()
    assert told.wait() is None and world.elsewhere_is(ino) == b"x" * MUCH + bytes(MUCH)


def test_a_block_that_was_cut_away_and_begun_anew_before_its_turn_is_the_new_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of, "BATCH_BYTES", 1)
    ino, told = world.file(), Waiter()
    world.write(ino, 0, b"x" * 2 * BLOCK_BYTES)
    world.elsewhere.open.clear()
    world.blocks.sync(ino, told)
    assert world.elsewhere.arrived.wait(20)
    with world.volume.lock:
        world.volume.commit(cut(world.volume.tree, ino, BLOCK_BYTES, 2))
        world.volume.stage.take()  # so that the new one has another slot
        world.write(ino, BLOCK_BYTES, b"anew")
    world.elsewhere.open.set()
    assert told.wait() is None and world.sync(ino) is None
    assert world.elsewhere_is(ino) == b"".join(world.volume.read(ino, 0, 3 * BLOCK_BYTES)) == b"x" * BLOCK_BYTES + b"anew"


def test_what_was_written_while_keeping_failed_is_not_lost(world: World) -> None:
    ino, told = world.file(), Waiter()
    world.write(ino, 0, b"x" * MUCH)
    world.elsewhere.open.clear()
    world.elsewhere.failing = [NoRoom("full")]
    world.blocks.sync(ino, told)
    assert world.elsewhere.arrived.wait(20)
    world.write(ino, MUCH + 5, b"further")
    world.elsewhere.open.set()
    assert told.wait() is not None and world.sync(ino) is None
    assert world.elsewhere_is(ino) == b"x" * MUCH + bytes(5) + b"further"


def test_a_file_that_is_cut_or_gone_while_its_blocks_are_made_is_so(world: World) -> None:
    for name, gone in ((b"f", False), (b"g", True)):
        ino, told = world.file(name), Waiter()
        world.write(ino, 0, name * 2 * BLOCK_BYTES)
        world.elsewhere.open.clear()
        world.elsewhere.arrived.clear()
        world.blocks.sync(ino, told)
        assert world.elsewhere.arrived.wait(20)
        with world.volume.lock:
            world.volume.commit(world.volume.tree.unlink(ROOT, name, 2) if gone else cut(world.volume.tree, ino, 100, 2))
        world.elsewhere.open.set()
        assert told.wait() is None
        assert world.elsewhere_is(ino) == (b"" if gone else name * 100)
        assert list(faults(world.volume.state)) == [] and world.volume.staging.count == 0


def test_a_disk_without_room_for_the_journal_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_entry: Entry) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for size in (10, MUCH):
        ino = world.file(b"%d" % size)
        world.write(ino, 0, b"x" * size)
        with monkeypatch.context() as patched:
            patched.setattr(world.volume.journal, "append", full)
            told = world.sync(ino)
            assert told is not None and told.errno == errno.ENOSPC
        assert world.sync(ino) is None and world.elsewhere_is(ino) == b"x" * size, f"{size} bytes"


@pytest.mark.parametrize("size", [20_000, BLOCK_BYTES])
def test_what_cannot_be_read_from_the_disk_once_is_synced_the_next_time(world: World, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    ino, data = world.file(), b"x" * size + bytes(BLOCK_BYTES - size) + b"y" * size
    world.write(ino, 0, b"x" * size)
    world.write(ino, BLOCK_BYTES, b"y" * size)
    real, slots = world.volume.stage.read, list[int]()

    def broken(slot: int, start: int, length: int) -> bytes:
        slots.append(slot)
        if len(slots) == 2:
            raise OSError(errno.EIO, "the disk is broken")
        return real(slot, start, length)

    with monkeypatch.context() as patched:
        patched.setattr(world.volume.stage, "read", broken)
        told = world.sync(ino)
        assert told is not None and told.errno == errno.EIO
    assert world.sync(ino) is None and world.elsewhere_is(ino) == data


def test_at_every_moment_the_log_is_a_tree_and_the_file_no_longer_than_its_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of, "BATCH_BYTES", 1)
    ino, data = world.file(), b"".join(bytes((at,)) * BLOCK_BYTES for at in range(1, 4)) + b"end"
    world.write(ino, 0, data)
    assert world.sync(ino) is None and len(world.elsewhere.calls) == 4
    for upto in range(1, len(world.log) + 1):
        found = world.elsewhere_is(ino, upto)
        assert data.startswith(found), f"after {upto} entries it has {len(found)} bytes"


# what nobody has asked for


def test_what_lies_for_long_becomes_blocks_many_files_at_once(world: World) -> None:
    inos = [world.file(b"%d" % at) for at in range(20)]
    for ino in inos:
        world.write(ino, 0, b"%d" % ino)
    assert world.blocks.tidy(idle_s=0) and not world.blocks.tidy(idle_s=0)
    assert [len(names) for names in world.elsewhere.calls] == [20] and world.volume.staging.count == 0
    assert all(world.elsewhere_is(ino) == b"%d" % ino for ino in inos)


def test_what_was_begun_a_moment_ago_and_what_is_being_synced_is_left(world: World) -> None:
    ino, busy, told = world.file(), world.file(b"g"), Waiter()
    world.write(ino, 0, b"little")
    assert not world.blocks.tidy(idle_s=3_600) and world.volume.staging.count == 1
    world.write(busy, 0, b"x" * MUCH)
    world.elsewhere.open.clear()
    world.blocks.sync(busy, told)
    assert world.elsewhere.arrived.wait(20)
    world.elsewhere.open.set()
    assert world.blocks.tidy(idle_s=0)
    assert told.wait() is None and len(world.elsewhere.calls) == 2 and sum(map(len, world.elsewhere.calls)) == 2


def test_no_more_than_so_many_blocks_are_made_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of, "BATCH_BLOCKS", 2)
    ino, data = world.file(), b"".join(bytes((at,)) * BLOCK_BYTES for at in range(1, 6))
    world.write(ino, 0, data)
    for left in (3, 1, 0):
        assert world.blocks.tidy(idle_s=0) and world.volume.staging.count == left
        assert world.elsewhere_is(ino) == data[: (5 - left) * BLOCK_BYTES]
    assert [len(names) for names in world.elsewhere.calls] == [2, 2, 1]


def test_what_could_not_be_made_unasked_is_made_the_next_time_and_nobody_waits_for_ever(world: World) -> None:
    ino = world.file()
    world.write(ino, 0, b"x" * MUCH)
    world.elsewhere.failing = [Unavailable("nobody is there")]
    with pytest.raises(Unavailable):
        world.blocks.tidy(idle_s=0)
    assert world.sync(ino) is None and world.elsewhere_is(ino) == b"x" * MUCH


def test_what_was_synced_stays_so_when_blocks_of_it_cannot_be_made_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of a file are in the log as patches. That they are made to blocks fails, then with one of them, after another file's."""
    monkeypatch.setattr(blocks_of, "BATCH_BLOCKS", 2)
    other, ino = world.file(b"other"), world.file()
    world.write(other, 0, b"other")
    world.write(ino, 0, b"first")
    world.write(ino, BLOCK_BYTES, b"second")
    assert world.sync(other) is None and world.sync(ino) is None
    whole = b"first" + bytes(BLOCK_BYTES - 5) + b"second"
    assert world.elsewhere_is(ino) == whole
    staged = world.volume.staging.of(other)[0]
    staged.since_s += 3_600
    world.elsewhere.failing = [Unavailable("nobody is there")]
    with pytest.raises(Unavailable):
        world.blocks.tidy(idle_s=0)
    staged.since_s = 0
    assert world.blocks.tidy(idle_s=0)
    assert world.elsewhere_is(ino) == whole, "one of its blocks has been made, the other one not yet"
    assert world.blocks.tidy(idle_s=0) and world.elsewhere_is(ino) == whole


def test_it_is_full_with_so_many_in_the_making(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of, "STAGED_MAX", 1)
    world.write(world.file(), 0, b"a")
    assert not world.blocks.is_full
    world.write(world.file(b"g"), 0, b"a")
    assert world.blocks.is_full


# bringing


def test_blocks_are_brought_once_each(world: World) -> None:
    data = {client.name_of(one): one for one in (b"a" * 10, b"b" * 20)}
    world.elsewhere.kept.update(data)
    told, names = Waiter(), list(data)
    world.blocks.fetch((names[0], names[1], names[0]), told)
    assert told.wait() is None
    for name, content in data.items():
        slot = world.volume.stage.cached(name)
        assert slot is not None and world.volume.stage.read(slot, 0, len(content)) == content


def test_a_block_that_is_nowhere_is_an_error(world: World) -> None:
    told = Waiter()
    world.blocks.fetch((b"n" * 32,), told)
    error = told.wait()
    assert error is not None and error.errno == errno.EIO and told.count == 1


def test_a_block_in_the_making_is_a_slot_in_the_journal_and_a_block_in_the_log(world: World) -> None:
    ino = world.file()
    world.write(ino, 0, b"x" * MUCH)
    assert world.sync(ino) is None
    extents = [change for entry in world.log for change in entry.changes if isinstance(change, PutExtent)]
    assert [slot_of(change.extent.block) for change in extents] == [None] and extents[0].extent.block in world.elsewhere.kept
