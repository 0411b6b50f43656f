"""Entries and changes come out as they went in; what each is called in the bytes never changes; bytes that make no sense say so, and nothing else."""

import random
from typing import get_args

import msgspec
import pytest

from unios.core.files import changes as changes_of
from unios.core.files.changes import (
    Change,
    Changes,
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
from unios.core.files.entry import Began, Done, Entry, Patch, Written, decode, encode
from unios.core.files.inode import Extent, Inode
from unios.core.files.ranges import Lock
from unios.undecodable import UNDECODABLE

BIG = (1 << 63) - 1
ODD = bytes(range(256))
INODE = Inode(BIG, 0o120777, 2, 3, 4, 5, -6, 7, -BIG, 9, 10, ODD, 12)
ALL: dict[int, Change] = {
    0: PutInode(INODE),
    1: DropInode(3),
    2: PutEntry(1, b"\xff\n", 7),
    3: DropEntry(1, ODD),
    4: PutExtent(1, 2, Extent(b"b" * 32, 1 << 20)),
    5: DropExtents(1, 0, BIG),
    6: PutXattr(1, b"user.a", ODD),
    7: DropXattr(1, b"user.a"),
    8: NextIno(BIG),
    9: CutExtent(1, 2, 3),
    10: PutLocks(1, (Lock(0, BIG, 1, 2, (1 << 64) - 1, True, 5), Lock(0, 1, 0, 1, 1, False))),
}
"""What each change has been called in every journal and log that there is. A change gets a number of its own: none is given twice."""
WHOLE = Entry(BIG, tuple(ALL.values()), (Patch(1, 2, 3, ODD, 4), Patch(1, 3, 0, b"", 0)), Done(1, (1 << 64) - 1, 3), (ALL[0], ALL[9]))


@pytest.mark.parametrize("tag", ALL)
def test_a_change_is_called_what_it_always_was(tag: int) -> None:
    raw = msgspec.msgpack.decode(changes_of.encode((ALL[tag],)))
    assert raw[0][0] == tag
    assert changes_of.decode(changes_of.encode((ALL[tag],))) == (ALL[tag],)


def test_the_table_has_all_changes() -> None:
    assert {type(change) for change in ALL.values()} == set(get_args(Change))


def test_what_was_written_by_the_first_version_is_read() -> None:
    """The order of fields is as fixed as the numbers."""
    assert changes_of.encode((ALL[1], ALL[2], ALL[9])) == b"\x93\x92\x01\x03\x94\x02\x01\xc4\x02\xff\n\x07\x94\x09\x01\x02\x03"
    old = [1, [[4, 7, 2, [b"b" * 32, 5]]]]
    assert decode(msgspec.msgpack.encode([0, *old])) == Entry(1, (PutExtent(7, 2, Extent(b"b" * 32, 5)),))
    inode = [9, 0o100644, 1, 2, 3, 4, 5, 6, 7, 8, 0, b"", 11]
    assert decode(msgspec.msgpack.encode([0, 1, [[0, inode]], [[9, 1, 2, b"data", 6]], [4, 5, 9], [[9, 9, 1, 6]]])) == Entry(
        1,
        (PutInode(Inode(9, 0o100644, 1, 2, 3, 4, 5, 6, 7, 8, 0, b"", 11)),),
        (Patch(ino=9, index=1, start=2, data=b"data", length=6),),
        Done(mount=4, number=5, ino=9),
        (CutExtent(ino=9, index=1, length=6),),
    )
    assert decode(msgspec.msgpack.encode([1, "token", "n1"])) == Began("token", "n1")
    lock = [[10, 1, [[0, 9, 1, 2, 3, True, 4]]]]
    assert changes_of.decode(msgspec.msgpack.encode(lock)) == (PutLocks(1, (Lock(start=0, end=9, kind=1, mount=2, owner=3, whole=True, pid=4),)),)


@pytest.mark.parametrize("written", [WHOLE, Entry(1, ()), Entry(1, (), image=()), Began("t", "n")], ids=["whole", "empty", "no image", "began"])
def test_an_entry_comes_out_as_it_went_in(written: Written) -> None:
    assert decode(encode(written)) == written


def test_no_image_is_not_an_empty_one() -> None:
    """Without one the log has what the changes say; with an empty one it has nothing of them."""
    for image in (None, ()):
        found = decode(encode(Entry(1, (), image=image)))
        assert isinstance(found, Entry) and found.image == image


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_make_no_sense_say_so_and_nothing_else(seed: int) -> None:
    chosen, refused = random.Random(seed), 0
    for whole, read in ((encode(WHOLE), decode), (changes_of.encode(tuple(ALL.values())), changes_of.decode)):
        for _ in range(300):
            data = bytearray(whole)
            match chosen.randrange(4):
                case 0:
                    del data[chosen.randrange(len(data)) :]
                case 1:
                    for _ in range(chosen.randrange(1, 4)):
                        data[chosen.randrange(len(data))] = chosen.randrange(256)
                case 2:
                    data = bytearray(chosen.randbytes(chosen.randrange(40)))
                case 3:
                    data = bytearray(b"\x91" * chosen.choice((10, 5_000))) + data
            try:
                read(bytes(data))
            except UNDECODABLE:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x91\x02", b"\x92\x63\x01", b"\x92\x0b\x01", encode(WHOLE) + b"\0", encode(WHOLE)[:-1]])
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with pytest.raises(UNDECODABLE):
        decode(data)


def test_a_change_that_this_version_does_not_know_is_refused() -> None:
    with pytest.raises(UNDECODABLE):
        changes_of.decode(msgspec.msgpack.encode([[len(ALL), 1]]))


def test_an_empty_list_of_changes_is_one() -> None:
    nothing: Changes = ()
    assert changes_of.decode(changes_of.encode(nothing)) == nothing
