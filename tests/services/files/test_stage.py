"""The stage: a slot that is taken is zeros, whatever was in it; copies of blocks have a bound; nothing that is in use is lost."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from unios.core.files.inode import BLOCK_BYTES
from unios.services.files import stage as stage_of
from unios.services.files.stage import Stage

ZEROS = bytes(BLOCK_BYTES)


class NoHoles:
    """Linux's fallocate(2) on a file system that cannot make holes."""

    def __init__(self, number: int = errno.EOPNOTSUPP) -> None:
        self.number = number

    def fallocate(self, *_given: Any) -> int:
        ctypes.set_errno(self.number)
        return -1


@pytest.fixture(params=["holes", "no holes"])
def stage(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stage:
    if request.param == "no holes":
        monkeypatch.setattr(stage_of, "_libc", NoHoles())
    return Stage(tmp_path / "stage", fresh=True)


def whole(stage: Stage, slot: int) -> bytes:
    return stage.read(slot, 0, BLOCK_BYTES)


def test_a_slot_is_zeros_and_has_what_was_written(stage: Stage) -> None:
    first, second = stage.take(), stage.take()
    assert first != second and whole(stage, first) == whole(stage, second) == ZEROS
    stage.write(first, 5, b"first")
    stage.write(second, BLOCK_BYTES - 6, memoryview(b"second"))
    assert whole(stage, first) == bytes(5) + b"first" + ZEROS[10:]
    assert stage.read(second, BLOCK_BYTES - 8, 8) == b"\0\0second"


def test_a_slot_that_is_taken_again_is_zeros(stage: Stage) -> None:
    slots = [stage.take() for _ in range(3)]
    for slot in slots:
        stage.write(slot, 0, b"\xff" * BLOCK_BYTES)
    stage.free(slots[0])
    stage.free(slots[2])
    taken = {stage.take(), stage.take()}
    assert taken == {slots[0], slots[2]} and all(whole(stage, slot) == ZEROS for slot in taken)
    assert whole(stage, slots[1]) == b"\xff" * BLOCK_BYTES
    assert stage.take() not in slots


def test_a_slot_that_was_written_to_in_part_and_given_back_is_zeros(stage: Stage) -> None:
    """It is the last of the file, which ends within it."""
    slot = stage.take()
    stage.write(slot, 10, b"end")
    stage.free(slot)
    assert stage.take() == slot and whole(stage, slot) == ZEROS
    stage.free(slot)
    assert stage.take() == slot and os.fstat(stage.descriptor).st_size == 13


def test_what_is_in_use_stays_and_all_else_is_gone(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", fresh=True)
    for slot in [stage.take() for _ in range(6)]:
        stage.write(slot, 0, b"%d" % slot * 100)
    stage.put(b"block", b"copied")
    stage.close()
    stage = Stage(tmp_path / "stage", fresh=False)
    stage.keep_only({1, 3})
    assert stage.read(1, 0, 3) == b"111" and stage.read(3, 0, 3) == b"333"
    taken = [stage.take() for _ in range(5)]
    assert sorted(taken) == [0, 2, 4, 5, 6] and all(whole(stage, slot) == ZEROS for slot in taken)
    assert stage.cached(b"block") is None


def test_with_nothing_in_use_it_begins_anew(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", fresh=True)
    stage.write(stage.take(), 0, b"old")
    stage.keep_only(set())
    assert os.fstat(stage.descriptor).st_size == 0
    assert whole(stage, stage.take()) == ZEROS


def test_a_fresh_one_has_nothing_of_before(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", fresh=True)
    stage.write(stage.take(), 0, b"old")
    stage.close()
    assert Stage(tmp_path / "stage", fresh=True).read(0, 0, 3) == bytes(3)


def test_room_is_given_back_to_the_disk(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", fresh=True)
    slots = [stage.take() for _ in range(4)]
    for slot in slots:
        stage.write(slot, 0, os.urandom(BLOCK_BYTES))
    os.fsync(stage.descriptor)
    before = os.fstat(stage.descriptor).st_blocks
    for slot in slots[:3]:
        stage.free(slot)
    assert os.fstat(stage.descriptor).st_blocks <= before - 3 * BLOCK_BYTES // 512


# copies of blocks


def test_copies_have_a_bound_and_those_that_were_used_longest_ago_go(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_of, "CACHED_MAX", 3)
    for name in (b"a", b"b", b"c"):
        stage.put(name, name * 10)
    assert stage.cached(b"a") is not None  # it was used
    stage.put(b"d", b"dddd")
    assert stage.cached(b"b") is None
    for name in (b"a", b"c", b"d"):
        slot = stage.cached(name)
        assert slot is not None and stage.read(slot, 0, 5) == (name * 10 if name != b"d" else b"dddd\0")[:5]
    for at in range(20):
        stage.put(b"%d" % at, b"x")
    assert stage._next <= 5, "slots of copies that are gone are used again"


def test_a_slot_becomes_a_copy(stage: Stage) -> None:
    slot = stage.take()
    stage.write(slot, 0, b"bytes")
    stage.keep(b"block", slot)
    assert stage.cached(b"block") == slot and stage.take() != slot


def test_a_second_copy_of_a_block_is_given_back(stage: Stage) -> None:
    stage.put(b"block", b"bytes")
    there, slot = stage.cached(b"block"), stage.take()
    stage.write(slot, 0, b"bytes")
    stage.keep(b"block", slot)
    assert stage.cached(b"block") == there
    assert stage.take() == slot and whole(stage, slot) == ZEROS


def test_a_copy_that_is_there_is_not_written_again(stage: Stage) -> None:
    stage.put(b"block", b"bytes")
    there, following = stage.cached(b"block"), stage._next
    stage.put(b"block", b"bytes")
    assert stage.cached(b"block") == there and stage._next == following


# what the disk does


class Disk:
    """os.pwrite that writes 1,000 bytes at a time at most, and fails when there is no room."""

    def __init__(self, room: int) -> None:
        self.room, self.pwrite = room, os.pwrite

    def __call__(self, descriptor: int, data: Any, at: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.pwrite(descriptor, memoryview(data)[: min(1_000, self.room)], at)
        self.room -= count
        return count


def test_what_is_written_in_parts_is_whole(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(4_500)
    monkeypatch.setattr(os, "pwrite", Disk(10**6))
    slot = stage.take()
    stage.write(slot, 7, data)
    assert stage.read(slot, 7, 4_500) == data


def test_a_copy_for_which_there_is_no_room_is_not_there_and_its_slot_is_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path / "stage", fresh=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", Disk(2_500))
        with pytest.raises(OSError, match="No space"):
            stage.put(b"block", b"\xff" * 5_000)
    assert stage.cached(b"block") is None
    assert stage.take() == 0 and whole(stage, 0) == ZEROS


def test_zeros_in_the_place_of_a_hole_are_written_in_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path / "stage", fresh=True)
    slot = stage.take()
    stage.write(slot, 0, b"\xff" * BLOCK_BYTES)
    monkeypatch.setattr(stage_of, "_libc", NoHoles())
    monkeypatch.setattr(os, "pwrite", Disk(10 * BLOCK_BYTES))
    stage.free(slot)
    assert whole(stage, stage.take()) == ZEROS


def test_a_slot_that_cannot_be_made_zeros_is_not_given_to_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path / "stage", fresh=True)
    slot = stage.take()
    stage.write(slot, 0, b"\xff" * 100)
    with monkeypatch.context() as patched:
        patched.setattr(stage_of, "_libc", NoHoles(errno.EIO))
        patched.setattr(os, "pwrite", Disk(0))
        stage.free(slot)
    assert stage.take() != slot
