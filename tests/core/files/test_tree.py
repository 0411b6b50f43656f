"""The tree does what a file system of this machine does, operation by operation; its journal is all there is to know; and what cannot be is found."""

import errno
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.core.files import local
from tests.core.files.local import OWNER, Local, Ours, both, same
from unios.core.files import check, data
from unios.core.files.changes import DropEntry, DropExtents, DropInode, PutEntry, PutExtent, PutInode, PutXattr
from unios.core.files.check import faults
from unios.core.files.inode import LINKS_MAX, NAME_BYTES_MAX, ROOT, TARGET_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX, Extent, Inode, Owner
from unios.core.files.tree import EXCHANGE, NOREPLACE, XATTR_CREATE, XATTR_REPLACE, FileError, Tree, Wanted

SEEDS = range(60)
STEPS = 150
NAMES = ("a", "b", "c", "long" * 40)
SMALL = 16
KINDS = ("ext2/ext3", "tmpfs", "xfs")
OPERATIONS = (
    *("create", "create", "mkdir", "mkdir", "symlink", "mkfifo", "link", "unlink", "unlink", "rmdir", "rename", "rename", "rename", "chmod", "xattr"),
    *("hold", "write", "write", "truncate", "punch", "allocate", "read", "release"),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have many blocks."""
    for module in (data, check, local):
        monkeypatch.setattr(module, "BLOCK_BYTES", SMALL)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Ours, Local]]:
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout.strip()
    if kind not in KINDS:
        pytest.skip(f"the file system here is {kind}, which counts links or moves directories in ways of its own")
    before, folder = os.umask(0), tmp_path / "local"
    folder.mkdir(0o755)
    theirs = Local(folder)
    yield Ours(), theirs
    theirs.close()
    os.umask(before)


def path_of(chosen: random.Random) -> str:
    return "/".join(chosen.choice(NAMES) for _ in range(chosen.choice((1, 1, 2, 2, 3))))


def kind(ours: Ours, path: str) -> int:
    """Return the type of what a path names, 0 for nothing; -1 if a symbolic link is on the way to it."""
    ino = ROOT
    for name in path.split("/"):
        try:
            inode = ours.tree.inode(ino)
            if inode.is_link:
                return -1
            ino = ours.tree.lookup(ino, os.fsencode(name)).ino
        except FileError:
            return 0
    return stat.S_IFMT(ours.tree.inode(ino).mode)


def step(chosen: random.Random, ours: Ours, theirs: Local) -> None:
    path, other = path_of(chosen), path_of(chosen)
    if -1 in (kind(ours, path), kind(ours, other)):
        return  # the way would be followed by Linux
    mode = chosen.choice((0o644, 0o755, 0o700, 0o2755, 0o4711))
    held = chosen.choice(list(ours.open)) if ours.open else None
    match chosen.choice(OPERATIONS):
        case "create":
            both(ours, theirs, "create", path, mode)
        case "mkdir":
            both(ours, theirs, "mkdir", path, mode & 0o777)
        case "symlink":
            both(ours, theirs, "symlink", path, "nowhere-at-all")
        case "mkfifo":
            both(ours, theirs, "mkfifo", path, mode & 0o777)
        case "link":
            both(ours, theirs, "link", path, other)
        case "unlink":
            both(ours, theirs, "unlink", path)
        case "rmdir":
            both(ours, theirs, "rmdir", path)
        case "rename":
            both(ours, theirs, "rename", path, other, chosen.choice((0, 0, 0, NOREPLACE, EXCHANGE)))
        case "chmod":
            both(ours, theirs, "chmod", path, mode)
        case "xattr" if kind(ours, path) in (stat.S_IFREG, stat.S_IFDIR):
            name = chosen.choice(("user.a", "user.b"))
            if chosen.random() < 0.7:
                both(ours, theirs, "setxattr", path, name, chosen.randbytes(chosen.randrange(20)), chosen.choice((0, 0, 1, 2)))
            else:
                both(ours, theirs, "removexattr", path, name)
        case "hold" if kind(ours, path) in (0, stat.S_IFREG, stat.S_IFDIR):
            both(ours, theirs, "hold", path)
        case "write" if held is not None:
            both(ours, theirs, "write", held, chosen.randrange(100), chosen.randbytes(chosen.randrange(1, 70)))
        case "truncate" if held is not None:
            both(ours, theirs, "truncate", held, chosen.randrange(130))
        case "punch" if held is not None:
            both(ours, theirs, "punch", held, chosen.randrange(100), chosen.randrange(0, 60))
        case "allocate" if held is not None:
            both(ours, theirs, "allocate", held, chosen.randrange(100), chosen.randrange(0, 60), chosen.random() < 0.5)
        case "read" if held is not None:
            both(ours, theirs, "read", held, chosen.randrange(140), chosen.randrange(80))
        case "release" if held is not None:
            both(ours, theirs, "release", held)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_does_what_this_machine_does(small: None, pair: tuple[Ours, Local], seed: int) -> None:
    ours, theirs = pair
    chosen = random.Random(seed)
    for at in range(STEPS):
        step(chosen, ours, theirs)
        if at % 30 == 29:
            same(ours, theirs)
            ours.check()
    for held in list(ours.open):
        both(ours, theirs, "release", held)
    same(ours, theirs)
    ours.check()
    assert ours.tree.orphans() == []


# what this machine's file system has no answer for, or another one


def refused(number: int, action: Any, *given: Any, **more: Any) -> None:
    with pytest.raises(FileError) as error:
        action(*given, **more)
    assert error.value.errno == number, errno.errorcode[error.value.errno]


def test_bounds_are_refused_with_the_errno_of_each() -> None:
    ours = Ours()
    tree, state = ours.tree, ours.tree.state
    long = b"x" * (NAME_BYTES_MAX + 1)
    refused(errno.ENAMETOOLONG, tree.lookup, ROOT, long)
    refused(errno.ENAMETOOLONG, tree.make, ROOT, long, stat.S_IFREG, OWNER, 1)
    for name, number in ((b"", errno.EINVAL), (b"a/b", errno.EINVAL), (b"a\0", errno.EINVAL), (b".", errno.EEXIST), (b"..", errno.EEXIST)):
        refused(number, tree.make, ROOT, name, stat.S_IFREG, OWNER, 1)
    refused(errno.ENOENT, tree.make, ROOT, b"l", stat.S_IFLNK, OWNER, 1)
    refused(errno.ENAMETOOLONG, tree.make, ROOT, b"l", stat.S_IFLNK, OWNER, 1, target=b"x" * (TARGET_BYTES_MAX + 1))
    ours.create("f", 0o644)
    ours.mkdir("d", 0o755)
    file, folder = ours.walk("f"), ours.walk("d")
    refused(errno.E2BIG, tree.set_xattr, file, b"user.a", bytes(XATTR_VALUE_BYTES_MAX + 1), 1)
    refused(errno.ERANGE, tree.set_xattr, file, b"", b"", 1)
    refused(errno.ERANGE, tree.set_xattr, file, b"user." + long, b"", 1)
    for at in range(4):
        if at < XATTRS_BYTES_MAX // XATTR_VALUE_BYTES_MAX - 1:
            ours.do(tree.set_xattr(file, b"user.%d" % at, bytes(XATTR_VALUE_BYTES_MAX), 1))
    refused(errno.ENOSPC, tree.set_xattr, file, b"user.more", bytes(XATTR_VALUE_BYTES_MAX), 1)
    ours.do(tree.set_xattr(file, b"user.0", bytes(XATTR_VALUE_BYTES_MAX), 1))  # in the place of itself there is room
    for ino in (file, folder, ROOT):
        state.inodes[ino] = msgspec.structs.replace(state.inodes[ino], nlink=LINKS_MAX)
    refused(errno.EMLINK, tree.link, file, ROOT, b"g", 1)
    refused(errno.EMLINK, tree.make, ROOT, b"e", stat.S_IFDIR, OWNER, 1)
    ours.do(tree.make(ROOT, b"file", stat.S_IFREG, OWNER, 1))
    state.inodes[ROOT] = msgspec.structs.replace(state.inodes[ROOT], nlink=3)
    ours.mkdir("e", 0o755)
    refused(errno.EMLINK, tree.rename, ROOT, b"e", folder, b"e", 1)
    refused(errno.EFBIG, data.cut, tree, file, 1 << 63, 1)
    refused(errno.EFBIG, data.allocate, tree, file, (1 << 63) - 1, 1, 1)
    refused(errno.EFBIG, data.write, tree, file, (1 << 63) - 1, 1, {}, 1)
    refused(errno.EINVAL, data.allocate, tree, file, 0, 0, 1)
    refused(errno.EINVAL, data.punch, tree, file, -1, 5, {}, 1)
    refused(errno.EISDIR, data.cut, tree, folder, 0, 1)
    refused(errno.ESTALE, tree.inode, 4711)
    for flags in (NOREPLACE | EXCHANGE, 4):
        refused(errno.EINVAL, tree.rename, ROOT, b"f", ROOT, b"g", 1, flags=flags)
    refused(errno.EBUSY, tree.rename, ROOT, b".", ROOT, b"g", 1)
    refused(errno.EINVAL, tree.rmdir, ROOT, b".", 1)
    refused(errno.ENOTEMPTY, tree.rmdir, ROOT, b"..", 1)


def test_what_is_open_stays_until_it_is_closed_and_a_number_is_never_given_twice() -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ours.hold("f")
    (ino, _again) = ours.open.values()
    ours.unlink("f")
    assert ours.tree.inode(ino).nlink == 0 and ours.tree.orphans() == [ino] and ours.tree.held(ino)
    ours.write(0, 0, b"still there")
    ours.check()
    ours.release(0)
    assert ours.read(1, 0, 99) == b"still there"
    ours.release(1)
    assert not ours.tree.held(ino)
    refused(errno.ESTALE, ours.tree.inode, ino)
    assert dict(ours.tree.state.extents(ino)) == {}
    ours.create("g", 0o644)
    assert ours.walk("g") == ino + 1
    ours.unlink("g")
    ours.check()
    nameless = ours.tree.make_nameless(ROOT, stat.S_IFREG | 0o600, OWNER, 5)
    ours.do(nameless)
    ours.tree.opened(nameless.ino)
    ours.do(ours.tree.link(nameless.ino, ROOT, b"named", 6))
    assert ours.tree.inode(nameless.ino).nlink == 1 and ours.tree.released(nameless.ino) == ()
    ours.check()


def test_nothing_is_made_in_a_directory_that_has_been_removed_under_somebody() -> None:
    ours = Ours()
    ours.mkdir("d", 0o755)
    ours.create("f", 0o644)
    folder, file = ours.walk("d"), ours.walk("f")
    ours.tree.opened(folder)
    ours.rmdir("d")
    refused(errno.ENOENT, ours.tree.make, folder, b"x", stat.S_IFREG, OWNER, 1)
    refused(errno.ENOENT, ours.tree.link, file, folder, b"x", 1)
    refused(errno.ENOENT, ours.tree.rename, ROOT, b"f", folder, b"x", 1)
    refused(errno.ENOENT, ours.tree.make_nameless, folder, stat.S_IFREG, OWNER, 1)
    ours.check()


def test_what_is_made_in_a_directory_of_a_group_is_the_groups() -> None:
    ours = Ours()
    ours.do(ours.tree.make(ROOT, b"d", stat.S_IFDIR | 0o2775, Owner(1, 50), 1))
    folder = ours.walk("d")
    for name, kind in ((b"f", stat.S_IFREG), (b"e", stat.S_IFDIR)):
        ours.do(ours.tree.make(folder, name, kind | 0o755, Owner(7, 8), 1))
    file, inner = ours.tree.lookup(folder, b"f"), ours.tree.lookup(folder, b"e")
    assert (file.uid, file.gid, oct(file.mode)) == (7, 50, "0o100755")
    assert (inner.uid, inner.gid, oct(inner.mode)) == (7, 50, "0o42755")


def test_who_writes_leaves_no_program_that_runs_as_somebody_else(small: None) -> None:
    ours = Ours()
    ours.create("f", 0o6755)
    ours.create("g", 0o2644)  # without execution for the group that bit means something else, and stays
    ours.hold("f")
    ours.hold("g")
    for held, after in ((0, 0o755), (1, 0o2644)):
        ino = ours.open[held]
        ours.write(held, 0, b"x")
        assert ours.tree.inode(ino).mode & 0o7777 == (0o6755, 0o2644)[held], "unless it is said, nothing happens"
        for plan in (
            data.write(ours.tree, ino, 0, 1, {0: ours.block(ino, 0, 0, b"y")}, 1, kill_suidgid=True),
            data.cut(ours.tree, ino, 0, 1, Wanted(kill_suidgid=True)),
            data.allocate(ours.tree, ino, 0, 1, 1, kill_suidgid=True),
            data.punch(ours.tree, ino, 0, 99, {}, 1, kill_suidgid=True),
            ours.tree.change(ino, Wanted(uid=3, kill_suidgid=True), 1),
        ):
            (last,) = [one.inode for one in plan.changes if isinstance(one, PutInode)]
            assert last.mode & 0o7777 == after


def test_times_and_owners_are_what_was_asked_for_and_the_change_is_told() -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ino = ours.walk("f")
    before = ours.tree.inode(ino)
    ours.do(ours.tree.change(ino, Wanted(uid=1, gid=2, atime_ns=-3, mtime_ns=4), 99))
    after = ours.tree.inode(ino)
    assert (after.uid, after.gid, after.atime_ns, after.mtime_ns, after.ctime_ns, after.mode) == (1, 2, -3, 4, 99, before.mode)
    assert after.version == before.version + 1
    ours.do(ours.tree.change(ROOT, Wanted(mode=0o1777), 100))
    assert oct(ours.tree.inode(ROOT).mode) == "0o41777"


def test_names_change_the_times_of_their_directories_and_of_what_they_name() -> None:
    ours = Ours()
    ours.mkdir("d", 0o755)
    ours.create("f", 0o644)
    for number, action in enumerate(
        (
            lambda now: ours.tree.link(ours.walk("f"), ROOT, b"g", now),
            lambda now: ours.tree.rename(ROOT, b"g", ours.walk("d"), b"g", now),
            lambda now: ours.tree.unlink(ours.walk("d"), b"g", now),
        ),
        start=10_000,
    ):
        ours.do(action(number))
        assert ours.tree.inode(ours.walk("f")).ctime_ns == number
        touched = [ours.tree.inode(ours.walk(path)).mtime_ns for path in ("", "d")]
        assert touched == {10_000: [10_000, 1_001], 10_001: [10_001, 10_001], 10_002: [10_001, 10_002]}[number]


def test_holes_and_data_are_found_where_they_are(small: None) -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ino = ours.open[0]
    ours.write(0, 40, b"x" * 10)  # bytes 32 to 50 are data
    ours.truncate(0, 100)
    where = {
        offset: tuple(outcome_of(offset, ours.tree, ino, whence) for whence in (data.DATA, data.HOLE)) for offset in (0, 32, 45, 50, 99, 100, -1)
    }
    assert where == {
        0: (32, 0),
        32: (32, 50),
        45: (45, 50),
        50: ("ENXIO", 50),
        99: ("ENXIO", 99),
        100: ("ENXIO", "ENXIO"),
        -1: ("ENXIO", "ENXIO"),
    }
    refused(errno.EINVAL, data.seek, ours.tree, ino, 0, 5)
    assert data.stored_bytes(ours.tree, ino) == 18
    ours.punch(0, 32, 18)
    assert data.stored_bytes(ours.tree, ino) == 0 and ours.read(0, 0, 200) == bytes(100)
    ours.check()


def outcome_of(offset: int, tree: Tree, ino: int, whence: int) -> Any:
    return local.outcome(data.seek, tree, ino, offset, whence)


def test_a_write_costs_what_it_changes_and_not_what_the_file_has(small: None) -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ours.write(0, 0, bytes(SMALL * 500))
    planned = data.write(ours.tree, ours.open[0], 5, 3, {0: ours.block(ours.open[0], 0, 5, b"new")}, 1)
    assert [type(one) for one in planned.changes] == [PutExtent, PutInode]
    assert [type(one) for one in data.cut(ours.tree, ours.open[0], SMALL * 10, 1).changes] == [DropExtents, PutInode]


# what cannot be


def test_each_fault_of_a_tree_is_found(small: None) -> None:
    def spoilt(*made: Any) -> list[str]:
        ours = Ours()
        for path in ("d", "d/e"):
            ours.mkdir(path, 0o755)
        ours.create("f", 0o644)
        ours.hold("f")
        ours.write(0, 0, b"12345")
        assert list(faults(ours.tree.state)) == []
        here = {path: ours.tree.inode(ours.walk(path)) for path in ("", "d", "d/e", "f")}
        ours.tree.state.apply(one(here) if callable(one) else one for one in made)
        return list(faults(ours.tree.state))

    def put(path: str, **what: int) -> Any:
        return lambda here: PutInode(msgspec.structs.replace(here[path], **what))

    assert spoilt() == []
    for made, said in (
        ([PutEntry(ROOT, b"x", 99)], "is of 99, which is not there"),
        ([PutEntry(99, b"x", ROOT)], "names are in 99, which is no directory"),
        ([lambda here: PutEntry(here["f"].ino, b"x", ROOT)], "which is no directory"),
        ([put("f", nlink=2)], "counts 2 links, and has 1 names"),
        ([put("d", nlink=2)], "counts 2 links, and has 3"),
        ([put("d/e", parent=ROOT)], "and says that it is in 1"),
        ([lambda here: PutEntry(ROOT, b"second", here["d/e"].ino)], "has 2 names"),
        ([DropEntry(ROOT, b"d"), lambda here: PutEntry(here["d/e"].ino, b"d", here["d"].ino)], "cannot be reached from the root"),
        ([DropInode(ROOT)], "there is no root"),
        ([lambda here: PutExtent(here["d"].ino, 0, Extent(b"x", 1))], "has blocks, and is no file"),
        ([lambda here: PutExtent(here["f"].ino, 1, Extent(b"x", 1))], "block 1 of the file 4 has 1 bytes, and the file 5"),
        ([lambda here: PutExtent(here["f"].ino, 0, Extent(b"x", 0))], "has 0 bytes"),
        ([put("f", size=3)], "has 5 bytes, and the file 3"),
        ([PutXattr(99, b"x", b"")], "something is kept of 99"),
        ([PutExtent(99, 0, Extent(b"x", 1))], "something is kept of 99"),
        ([PutInode(Inode(1 << 40, stat.S_IFREG, 1, 0, 0))], "links, and has 0 names"),
        ([put("", parent=2)], "the root is no directory, or in another one"),
        ([put("", mode=stat.S_IFREG | 0o644)], "the root is no directory"),
        ([lambda here: PutEntry(ROOT, b"x/y", here["f"].ino)], "is no name"),
        ([lambda here: PutEntry(ROOT, b"", here["f"].ino)], "is no name"),
        ([lambda here: PutEntry(ROOT, b"..", here["f"].ino)], "is no name"),
        ([lambda here: PutEntry(ROOT, b"x" * 256, here["f"].ino)], "is no name"),
        ([PutEntry(ROOT, b"x", ROOT)], "is of the root"),
        ([lambda here: PutEntry(here["d/e"].ino, b"x", here["f"].ino), DropEntry(2, b"e"), put("d/e", nlink=0)], "which has been removed"),
        ([put("f", mode=0o644)], "of mode 644"),
        ([put("f", size=-3)], "has -3 bytes"),
        ([put("f", mode=stat.S_IFLNK | 0o777)], "has 5 bytes"),
        ([lambda here: PutExtent(here["f"].ino, -1, Extent(b"x", 1))], "a block -1 that is none"),
        ([lambda here: PutExtent(here["f"].ino, 0, Extent(b"", 5))], "a block 0 that is none"),
    ):
        found = spoilt(*made)
        assert any(said in one for one in found), (said, found)
    ours = Ours()
    ours.tree.state.inodes[77] = Inode(78, stat.S_IFREG, 0, 0, 0)
    assert {"the inode 77 says that it is 78", "the inode 77 has a number that has not been given away"} <= set(faults(ours.tree.state))


def test_attributes_are_made_or_replaced_as_it_is_asked() -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ino = ours.walk("f")
    refused(errno.ENODATA, ours.tree.set_xattr, ino, b"user.a", b"1", 1, flags=XATTR_REPLACE)
    ours.do(ours.tree.set_xattr(ino, b"user.a", b"1", 77, flags=XATTR_CREATE))
    assert ours.tree.inode(ino).ctime_ns == 77
    refused(errno.EEXIST, ours.tree.set_xattr, ino, b"user.a", b"2", 1, flags=XATTR_CREATE)
    ours.do(ours.tree.set_xattr(ino, b"user.a", b"2", 78, flags=XATTR_REPLACE))
    assert dict(ours.tree.state.xattrs(ino)) == {b"user.a": b"2"}
    refused(errno.ENODATA, ours.tree.drop_xattr, ino, b"user.b", 1)
    ours.do(ours.tree.drop_xattr(ino, b"user.a", 79))
    assert dict(ours.tree.state.xattrs(ino)) == {} and ours.tree.inode(ino).ctime_ns == 79


def test_what_is_just_within_a_bound_is_taken() -> None:
    ours = Ours()
    ours.do(ours.tree.make(ROOT, b"x" * NAME_BYTES_MAX, stat.S_IFLNK | 0o777, OWNER, 1, target=b"y" * TARGET_BYTES_MAX))
    found = ours.tree.lookup(ROOT, b"x" * NAME_BYTES_MAX)
    assert (found.size, found.target) == (TARGET_BYTES_MAX, b"y" * TARGET_BYTES_MAX)
    ours.create("f", 0o644)
    ino = ours.walk("f")
    ours.do(ours.tree.set_xattr(ino, b"u" * 255, bytes(XATTR_VALUE_BYTES_MAX), 1))
    ours.do(data.cut(ours.tree, ino, (1 << 63) - 1, 1))
    assert ours.tree.inode(ino).size == (1 << 63) - 1
    ours.do(data.allocate(ours.tree, ino, (1 << 63) - 2, 1, 1))
    ours.check()


def test_every_change_of_a_file_counts_once(small: None) -> None:
    ours = Ours()
    ours.create("f", 0o644)
    ours.hold("f")
    ino = ours.open[0]
    for at, action in enumerate(
        (
            lambda: ours.write(0, 0, b"x" * 40),
            lambda: ours.truncate(0, 20),
            lambda: ours.punch(0, 3, 5),
            lambda: ours.allocate(0, 0, 99, False),
            lambda: ours.chmod("f", 0o600),
        ),
        start=1,
    ):
        action()
        assert ours.tree.inode(ino).version == at
