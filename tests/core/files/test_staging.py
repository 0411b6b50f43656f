"""What is in the making: which slots are free again, and what the log is told of a change: nothing of slots, and no file longer than its bytes are there."""

import stat

import pytest

from unios.core.files.changes import Change, CutExtent, DropEntry, DropExtents, DropInode, PutEntry, PutExtent, PutInode
from unios.core.files.inode import BLOCK_BYTES, Extent, Inode
from unios.core.files.staging import Staged, Staging, slot_name, slot_of

FILE, OTHER = 7, 8
BASE = Extent(b"B" * 32, 1_000)


def inode(size: int, ino: int = FILE, mode: int = stat.S_IFREG | 0o644) -> PutInode:
    return PutInode(Inode(ino, mode, 1, 0, 0, size))


def slot(number: int, length: int, index: int = 0, ino: int = FILE) -> PutExtent:
    return PutExtent(ino, index, Extent(slot_name(number), length))


def staging(base: Extent | None = None, *, size: int = 0, low: int = 0, high: int = 100, index: int = 0, at: int = 5) -> Staging:
    """One block of a file is in the making; the file was `size` long before."""
    made = Staging()
    made.wrote(FILE, index, 3, low, high, base=base, size=size, at=at, now_s=1.0)
    return made


def got(of: Staging, index: int = 0) -> Staged:
    found = of.get(FILE, index)
    assert found is not None
    return found


# names of slots


def test_names_of_slots_are_none_of_blocks() -> None:
    assert [slot_of(slot_name(number)) for number in (0, 1, 1 << 40)] == [0, 1, 1 << 40]
    assert [slot_of(name) for name in (b"", b"~", b"~" * 32, b"x" * 9, slot_name(1)[:-1], slot_name(1) + b"\0", b"b" * 32)] == [None] * 7


# what is written


def test_bytes_that_are_not_in_the_log_are_from_the_first_to_the_last_that_were_written() -> None:
    made = staging(low=50, high=60)
    made.wrote(FILE, 0, 3, 10, 20, base=None, size=999, at=9, now_s=2.0)
    made.wrote(FILE, 0, 3, 30, 40, base=None, size=999, at=9, now_s=2.0)
    one = got(made)
    assert (one.low, one.high, one.version, one.at, one.since_s, one.is_dirty) == (10, 60, 3, 5, 1.0, True)
    assert made.length(FILE) == 0, "the log has it as long as it was before the first of both"
    assert made.count == 1 and made.first() == 5 and made.first_patch() == 0


def test_the_first_entry_is_that_of_the_oldest_block_and_the_first_patch_that_of_the_oldest_patch() -> None:
    made = staging(at=9)
    made.wrote(OTHER, 2, 4, 0, 1, base=None, size=0, at=6, now_s=1.0)
    assert made.first() == 6 and made.first_patch() == 0
    made.wrote(OTHER, 3, 5, 0, 1, base=None, size=0, at=8, now_s=1.0)
    made.of(OTHER)[2].patched, made.of(FILE)[0].patched = 30, 20
    assert made.first_patch() == 20
    assert Staging().first() == Staging().first_patch() == 0


# what follows from changes


def test_what_is_cut_is_not_dirty_behind_the_cut_and_not_there_in_the_log() -> None:
    made = staging(size=500, high=400)
    assert made.follow((inode(100), slot(3, 100))) == []
    assert got(made).high == 100 and made.length(FILE) == 100
    assert made.follow((inode(5_000),)) == [] and made.length(FILE) == 100, "it grew without bytes: the log has it no longer for that"


def test_another_block_in_the_place_frees_the_slot() -> None:
    made = staging()
    assert made.follow((PutExtent(FILE, 0, BASE),)) == [3]
    assert made.get(FILE, 0) is None and made.count == 0 and FILE not in made.files
    assert made.follow((PutExtent(FILE, 0, BASE),)) == []


def test_holes_free_the_slots_that_were_there_and_no_others() -> None:
    made = Staging()
    for index in range(5):
        made.wrote(FILE, index, 10 + index, 0, 1, base=None, size=0, at=1, now_s=1.0)
    made.wrote(OTHER, 2, 20, 0, 1, base=None, size=0, at=1, now_s=1.0)
    assert made.follow((DropExtents(FILE, 1, 3),)) == [11, 12]
    assert sorted(made.of(FILE)) == [0, 3, 4] and sorted(made.of(OTHER)) == [2] and made.count == 4
    assert sorted(made.follow((DropExtents(FILE, 0, 1 << 40),))) == [10, 13, 14]
    assert made.is_dirty(FILE), "that it is shorter in the log than it is has not changed by that"


def test_a_file_that_is_gone_leaves_nothing() -> None:
    made = staging()
    assert made.follow((DropInode(FILE), DropInode(OTHER))) == [3]
    assert made.files == {} and made.dirty == [] and made.count == 0 and made.length(FILE) is None


# what the log is told


def test_what_is_not_about_bytes_in_the_making_is_told_as_it_is() -> None:
    given = (PutEntry(1, b"a", FILE), DropEntry(1, b"b"), inode(10), PutExtent(FILE, 0, BASE), DropExtents(FILE, 1, 2))
    assert Staging().image(given) == given
    made = staging()
    others = (PutEntry(1, b"a", FILE), inode(10, OTHER), PutExtent(OTHER, 0, BASE), DropExtents(FILE, 1, 2))
    assert made.image(others) == others


def test_the_log_has_a_file_no_longer_than_its_bytes_are_there() -> None:
    made = staging(size=40)
    assert made.image((inode(100),)) == (inode(40),)
    assert made.image((inode(30),)) == (inode(30),), "shorter it may be"
    made.synced(FILE, None)
    assert made.image((inode(100),)) == (inode(100),)


def test_only_files_have_a_length_that_is_not_there() -> None:
    made = staging(size=0)
    directory = inode(4_096, mode=stat.S_IFDIR | 0o755)
    assert made.image((directory,)) == (directory,)


def test_the_log_hears_nothing_of_slots() -> None:
    made = staging(BASE, size=1_000)
    assert made.image((slot(3, 1_200), inode(1_200))) == (inode(1_000),)
    assert made.image((slot(99, 5, index=8),)) == (), "of none that is not in the making any more either"


def test_a_block_that_is_cut_in_its_slot_is_cut_in_the_log() -> None:
    """Else bytes that were cut off would come back when the file grows again."""
    made = staging(BASE, size=1_000)
    changes: tuple[Change, ...] = (slot(3, 600), inode(600))
    made.follow(changes)
    assert made.image(changes) == (CutExtent(FILE, 0, 600), inode(600))
    assert (got(made).logged, got(made).base) == (600, Extent(BASE.block, 600))
    assert made.image((slot(3, 800),)) == () and got(made).logged == 600, "what grows again is not in the log"
    assert made.image((slot(3, 600),)) == (), "said once"
    assert made.image((slot(3, 599),)) == (CutExtent(FILE, 0, 599),)


def test_a_cut_of_what_the_log_has_by_patches_alone_is_told_too() -> None:
    made = staging(None)
    got(made).logged, got(made).patched = 500, 6
    assert made.image((slot(3, 400),)) == (CutExtent(FILE, 0, 400),)
    assert got(made).base is None and got(made).logged == 400


def test_a_base_that_is_shorter_than_what_the_log_has_by_patches_is_not_made_longer() -> None:
    made = staging(BASE)
    got(made).logged = 3_000
    assert made.image((slot(3, 2_000),)) == (CutExtent(FILE, 0, 2_000),)
    assert got(made).base == BASE


# snapshots


def test_a_snapshot_has_what_was_before_in_the_place_of_slots() -> None:
    made = staging(BASE, size=1_000)
    made.wrote(FILE, 1, 4, 0, 9, base=None, size=1_000, at=6, now_s=1.0)
    state = (inode(BLOCK_BYTES + 9), slot(3, 1_200), slot(4, 9, index=1), PutExtent(FILE, 2, BASE))
    assert made.snapshot(state) == (inode(1_000), PutExtent(FILE, 0, BASE), PutExtent(FILE, 2, BASE))


def test_a_snapshot_after_a_cut_has_what_was_before_as_long_as_it_is_now() -> None:
    made = staging(BASE, size=1_000)
    changes: tuple[Change, ...] = (slot(3, 600), inode(600))
    made.follow(changes)
    made.image(changes)
    assert made.snapshot((inode(600), slot(3, 600))) == (inode(600), PutExtent(FILE, 0, Extent(BASE.block, 600)))


def test_to_take_a_snapshot_changes_nothing() -> None:
    made = staging(BASE, size=1_000)
    state = (inode(1_200), slot(3, 1_200))
    assert made.snapshot(state) == made.snapshot(state)
    assert (got(made).logged, got(made).base, made.length(FILE)) == (1_000, BASE, 1_000)


def test_a_snapshot_without_anything_in_the_making_is_the_state() -> None:
    state = (inode(1_000), PutExtent(FILE, 0, BASE))
    assert Staging().snapshot(state) == state


# lengths


@pytest.mark.parametrize(("before", "upto", "after"), [(40, 70, 70), (40, 10, 40), (40, None, None)])
def test_what_is_synced_is_there_up_to_that_length_or_further_already(before: int, upto: int | None, after: int | None) -> None:
    made = staging(size=before)
    made.synced(FILE, upto)
    assert made.length(FILE) == after and made.is_dirty(FILE) == (after is not None)


def test_a_file_all_of_which_is_there_stays_so() -> None:
    made = Staging()
    made.synced(FILE, 10)
    assert made.length(FILE) is None and made.dirty == []
    made.logged(FILE, 10)
    assert made.length(FILE) == 10 and made.dirty == [FILE]
    made.logged(FILE, None)
    assert made.length(FILE) is None
