"""What a tree refuses, or makes good, when several are at it, or when it is asked for something that is out of all bounds."""

import errno
import stat
from typing import Any

import msgspec
import pytest

from tests.core.files import local
from tests.core.files.local import OWNER, Ours
from unios.core.files import check, data
from unios.core.files.data import Made, Overtaken
from unios.core.files.inode import LINKS_MAX, ROOT, Extent
from unios.core.files.tree import EXCHANGE, FileError, Wanted

SMALL = 16


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have many blocks."""
    for module in (data, check, local):
        monkeypatch.setattr(module, "BLOCK_BYTES", SMALL)


def refused(number: int, action: Any, *given: Any, **more: Any) -> None:
    with pytest.raises(FileError) as error:
        action(*given, **more)
    assert error.value.errno == number, errno.errorcode[error.value.errno]


# what several do at once


def test_a_block_that_was_made_of_another_than_there_is_now_is_made_again(small: None) -> None:
    """Else one of two writers would undo the other, and bytes that were cut off would come back."""
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ino = ours.open[0]
    first, second = ours.block(ino, 0, 0, b"AA"), ours.block(ino, 0, 5, b"BB")
    ours.do(data.write(ours.tree, ino, 0, 2, {0: first}, 1))
    with pytest.raises(Overtaken):
        data.write(ours.tree, ino, 5, 2, {0: second}, 1)
    ours.do(data.write(ours.tree, ino, 5, 2, {0: ours.block(ino, 0, 5, b"BB")}, 1))
    assert ours.read(0, 0, 9) == b"AA\0\0\0BB"
    late = ours.block(ino, 0, 0, b"x")
    ours.truncate(0, 0)
    with pytest.raises(Overtaken):
        data.write(ours.tree, ino, 0, 1, {0: late}, 1)
    for base, extent in ((None, Extent(b"", 1)), (None, Extent(b"x", 0)), (None, Extent(b"x", 2)), (None, Extent(b"x", SMALL + 1))):
        with pytest.raises(ValueError, match="block 0 of"):
            data.write(ours.tree, ino, 0, 1, {0: Made(base, extent)}, 1)
    with pytest.raises(ValueError, match="were made where"):
        data.write(ours.tree, ino, 0, 1, {}, 1)
    assert data.write(ours.tree, ino, 100, 0, {}, 1).changes == (), "nothing was written: nothing grows"


def test_a_size_and_what_else_is_asked_with_it_are_one_change(small: None) -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ours.write(0, 0, b"x" * 40)
    ours.do(data.cut(ours.tree, ours.open[0], 3, 50, Wanted(mtime_ns=7, mode=0o600)))
    after = ours.tree.inode(ours.open[0])
    assert (after.size, after.mtime_ns, after.ctime_ns, oct(after.mode)) == (3, 7, 50, "0o100600")
    ours.check()


def test_a_hole_costs_what_is_there_and_not_how_long_it_is() -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ours.write(0, 0, b"12345")
    ino, length = ours.open[0], (1 << 63) - 1
    assert data.edges(ours.tree, ino, 0, length) == []
    ours.do(data.punch(ours.tree, ino, 0, length, {}, 1))
    assert ours.read(0, 0, 9) == bytes(5) and data.stored_bytes(ours.tree, ino) == 0
    refused(errno.EINVAL, data.edges, ours.tree, ino, 0, 0)
    refused(errno.EFBIG, data.edges, ours.tree, ino, 1, length)


def test_times_that_there_is_no_room_for_are_the_last_that_there_are() -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ours.do(ours.tree.change(ours.walk("f"), Wanted(atime_ns=-(10**30), mtime_ns=10**30), 1))
    after = ours.tree.inode(ours.walk("f"))
    assert (after.atime_ns, after.mtime_ns) == (-(2**63 - 1), 2**63 - 1)


def test_what_has_lost_its_last_name_gets_none_again() -> None:
    """It is somebody's who has it open; what never had one is O_TMPFILE's."""
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ours.unlink("f")
    refused(errno.ENOENT, ours.tree.link, ours.open[0], ROOT, b"again", 1)
    ours.mkdir("d", 0o755)
    ours.mkdir("d/e", 0o755)
    removed = ours.walk("d/e")
    ours.tree.opened(removed)
    ours.rmdir("d/e")
    refused(errno.ENOENT, ours.tree.lookup, removed, b"..")


def test_an_exchange_too_keeps_to_the_bound_of_links() -> None:
    ours = Ours()
    for path in ("d", "e", "d/x"):
        ours.mkdir(path, 0o755)
    ours.create("e/y", 0o644)
    one, other = ours.walk("d"), ours.walk("e")
    ours.tree.state.inodes[other] = msgspec.structs.replace(ours.tree.inode(other), nlink=LINKS_MAX)
    for given in ((one, b"x", other, b"y"), (other, b"y", one, b"x")):
        refused(errno.EMLINK, ours.tree.rename, *given, 1, flags=EXCHANGE)


def test_directories_that_are_in_each_other_stop_nobody() -> None:
    ours = Ours()
    for path in ("d", "d/e", "f"):
        ours.mkdir(path, 0o755)
    one, other = ours.walk("d"), ours.walk("d/e")
    ours.tree.state.inodes[one] = msgspec.structs.replace(ours.tree.inode(one), parent=other)
    refused(errno.EIO, ours.tree.rename, ROOT, b"f", other, b"f", 1)


def test_a_snapshot_comes_in_bounded_parts() -> None:
    ours = Ours()
    for at in range(2_500):
        ours.do(ours.tree.make(ROOT, b"%d" % at, stat.S_IFREG | 0o644, OWNER, 1))
    parts = list(ours.tree.state.snapshot())
    assert max(map(len, parts)) == 1_000 and sum(map(len, parts)) == 1 + 1 + 2_500 + 2_500
    ours.check()
