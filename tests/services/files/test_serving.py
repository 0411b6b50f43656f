"""What Linux asks is answered once, whatever goes wrong with it; what waits is done later; what was done is not done again when it comes again."""

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.services.files.played import PlayedAround, PlayedMount, create, ino_of, request, volume_in, write
from unios.core.files.entry import Done, Entry
from unios.core.files.inode import BLOCK_BYTES, ROOT, Owner
from unios.fuse import abi, requests
from unios.fuse.abi import Op, Valid
from unios.fuse.requests import Request
from unios.services.files.journal import Journal
from unios.services.files.serving import Serving, lasting
from unios.services.files.stage import Stage
from unios.services.files.volume import Volume
from unios.wire.manifests import name_of


class World:
    def __init__(self, volume: Volume, mount: int = 1) -> None:
        self.volume, self.around = volume, PlayedAround(volume)
        self.serving, self.mount = Serving(volume, self.around), PlayedMount(mount, volume)

    def ask(self, asked: Request) -> tuple[int, bytes]:
        """Return (errno or 0, what was answered)."""
        before = len(self.mount.answers), len(self.mount.refusals)
        self.serving.one(self.mount, asked)
        answers, refusals = self.mount.answers[before[0] :], self.mount.refusals[before[1] :]
        assert len(answers) + len(refusals) == 1, "one answer to each"
        return (0, answers[0][1]) if answers else (refusals[0][1], b"")

    def file(self, name: bytes) -> int:
        made = self.volume.tree.make(ROOT, name, stat.S_IFREG | 0o644, Owner(0, 0), 1)
        return self.volume.commit(made)

    def directory(self, name: bytes) -> int:
        return self.volume.commit(self.volume.tree.make(ROOT, name, stat.S_IFDIR | 0o755, Owner(0, 0), 1))

    def content(self, ino: int) -> bytes:
        return b"".join(self.volume.read(ino, 0, 1 << 22))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(volume_in(tmp_path))


def getattr_of(ino: int, unique: int = 2) -> Request:
    return request(Op.GETATTR, requests.Getattr(None), ino, unique=unique)


def named(op: int, name: bytes, **more: Any) -> Request:
    return request(op, requests.Name(name), **more)


def setattr_of(ino: int, valid: int, *, size: int = 0, mode: int = 0, resent: bool = False) -> Request:
    return request(Op.SETATTR, requests.Setattr(valid, 0, size, 0, 0, 0, 0, mode, 0, 0), ino, resent=resent)


# what goes wrong


def test_a_defect_is_an_error_of_whoever_asked_and_the_next_is_served(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_given: Any, **_more: Any) -> Any:
        raise AssertionError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(world.volume.tree, "make", broken)
        assert world.ask(create(b"f")) == (errno.EIO, b"")
    assert "a defect" in capsys.readouterr().err
    assert world.ask(create(b"f", unique=4))[0] == 0 and ino_of(world.volume, b"f")


def test_what_is_not_known_is_not_there(world: World) -> None:
    assert world.ask(request(9_999, requests.Nothing()))[0] == errno.ENOSYS
    assert world.ask(request(Op.IOCTL, requests.Ioctl(0, 0, 0, 0, b"", 0)))[0] == errno.ENOSYS


def test_what_is_refused_is_refused_with_its_number(world: World) -> None:
    ino = world.file(b"f")
    assert world.ask(named(Op.LOOKUP, b"g"))[0] == errno.ENOENT
    assert world.ask(named(Op.RMDIR, b"f"))[0] == errno.ENOTDIR
    assert world.ask(getattr_of(999))[0] == errno.ESTALE
    assert world.ask(named(Op.LOOKUP, b"x" * 256))[0] == errno.ENAMETOOLONG
    assert world.ask(request(Op.READLINK, requests.Nothing(), ino))[0] == errno.EINVAL
    assert world.ask(request(Op.FALLOCATE, requests.Fallocate(0, 0, 10, 1 << 9), ino))[0] == errno.EOPNOTSUPP


@pytest.mark.parametrize("number", [errno.ENOSPC, None])
def test_a_disk_that_is_full_is_told_and_nothing_was_done(world: World, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    ino = world.file(b"f")
    assert world.ask(write(ino, 0, b"before"))[0] == 0

    def full(*_given: Any) -> Any:
        raise OSError(number, "no room") if number else OSError("for no reason")

    with monkeypatch.context() as patched:
        patched.setattr(world.volume.journal, "append", full)
        for asked in (create(b"g"), write(ino, 0, b"after!"), named(Op.UNLINK, b"f")):
            assert world.ask(asked)[0] == (number or errno.EIO)
    assert not ino_of(world.volume, b"g") and ino_of(world.volume, b"f") == ino
    assert world.ask(create(b"g"))[0] == 0


# what waits


def test_what_changes_something_waits_for_room_and_goes_on_in_order(world: World) -> None:
    ino = world.file(b"f")
    world.around.full = True
    buffer = bytearray(b"one")
    for unique in (2, 4, 6):
        buffer[:] = b"%03d" % unique
        world.serving.one(world.mount, write(ino, unique, buffer, unique=unique))
    assert world.mount.told == [] and len(world.around.held) == 3
    assert world.ask(getattr_of(ino, unique=8))[0] == 0, "what changes nothing does not wait"
    buffer[:] = b"xxx"  # the next request lies there
    world.around.room()
    assert [number for number, _ in world.mount.answers] == [8, 2, 4, 6]
    assert world.content(ino) == bytes(2) + b"0000006"


@pytest.mark.parametrize("op", sorted({Op.SETATTR, Op.CREATE, Op.MKDIR, Op.MKNOD, Op.SYMLINK, Op.LINK, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.RENAME2}))
def test_all_that_grows_the_journal_waits_for_room(world: World, op: int) -> None:
    world.around.full = True
    world.serving.one(world.mount, request(op, None))
    assert len(world.around.held) == 1 and world.mount.told == []


def test_what_was_resent_is_so_still_when_it_has_waited(world: World) -> None:
    assert world.ask(create(b"f"))[0] == 0
    world.around.full = True
    world.serving.one(world.mount, create(b"f", resent=True))
    world.around.room()
    assert world.mount.refusals == [] and len(world.mount.answers) == 2


def test_an_answer_waits_until_other_mounts_have_been_told(world: World) -> None:
    world.around.telling = []
    world.serving.one(world.mount, create(b"f"))
    assert world.mount.told == [] and ino_of(world.volume, b"f") and world.around.changes == [(1, ((ROOT, b"f"),), ())]
    world.around.telling[0]()
    assert world.mount.told == [2]


def sealed(world: World, data: bytes) -> tuple[int, bytes]:
    """Return a file whose block is not on hand, and the block's name."""
    volume, ino = world.volume, world.file(b"sealed")
    volume.write(ino, 0, data, 1)
    staged = volume.staging.of(ino)[0]
    volume.sealed(ino, {0: (staged, staged.version, name_of(data), len(volume.take(ino, 0, staged)))}, len(data))
    volume.stage.free(volume.stage._cached.pop(name_of(data)))
    return ino, name_of(data)


def test_what_needs_a_block_is_done_when_it_is_there(world: World) -> None:
    ino, name = sealed(world, b"content")
    buffer = bytearray(b"XX")
    world.serving.one(world.mount, request(Op.READ, requests.Read(0, 0, 100, 0), ino, unique=2))
    world.serving.one(world.mount, write(ino, 1, buffer, unique=4))
    buffer[:] = b"yy"
    assert world.mount.told == [] and [blocks for blocks, _ in world.around.fetching] == [(name,), (name,)]
    world.volume.stage.put(name, b"content")
    for _blocks, then in world.around.fetching:
        then(None)
    assert world.mount.answers[0] == (2, b"content") and world.content(ino) == b"cXXtent"


def test_a_block_that_is_not_to_be_had_is_an_error(world: World) -> None:
    ino, _name = sealed(world, b"content")
    for unique, error in ((2, OSError(errno.EIO, "lost")), (4, OSError("for no reason"))):
        world.serving.one(world.mount, request(Op.READ, requests.Read(0, 0, 100, 0), ino, unique=unique))
        world.around.fetching[-1][1](error)
    assert world.mount.refusals == [(2, errno.EIO), (4, errno.EIO)]


def test_fsync_is_answered_when_it_is_synced(world: World) -> None:
    ino = world.file(b"f")
    for unique, error in ((2, None), (4, OSError(errno.ENOSPC, "no room")), (6, OSError("for no reason"))):
        world.serving.one(world.mount, request(Op.FSYNC, requests.Fsync(0, False), ino, unique=unique))
        assert unique not in world.mount.told
        asked, then = world.around.syncing[-1]
        then(error)
        assert asked == ino and unique in world.mount.told
    assert world.mount.answers == [(2, b"")] and world.mount.refusals == [(4, errno.ENOSPC), (6, errno.EIO)]


def test_an_fsync_of_a_mount_that_is_gone_troubles_nobody(world: World) -> None:
    """Who tells that it is synced has others to tell."""
    ino = world.file(b"f")
    for unique in (2, 4):
        world.serving.one(world.mount, request(Op.FSYNC, requests.Fsync(0, False), ino, unique=unique))
    world.mount.is_gone = True
    world.around.syncing[0][1](None)
    world.around.syncing[1][1](OSError(errno.EIO, "lost"))


def test_what_lasts_is_not_in_the_buffer_any_more() -> None:
    buffer = bytearray(b"data")
    kept = lasting(write(7, 0, buffer, unique=8, resent=True))
    buffer[:] = b"next"
    assert bytes(kept.body.data) == b"data" and kept.resent and kept.number == 8
    assert lasting(named(Op.LOOKUP, b"n")).body == requests.Name(b"n")


# what comes again


def entry_ino(answer: bytes) -> int:
    return int(struct.unpack_from("<Q", answer)[0])


MAKING = {
    "create": lambda resent: create(b"new", resent=resent),
    "mkdir": lambda resent: request(Op.MKDIR, requests.Mkdir(b"new", 0o755, 0), resent=resent),
    "mknod": lambda resent: request(Op.MKNOD, requests.Mknod(b"new", stat.S_IFIFO | 0o644, 0, 0), resent=resent),
    "symlink": lambda resent: request(Op.SYMLINK, requests.Symlink(b"new", b"target"), resent=resent),
}
ENDING = {
    "unlink": lambda resent: named(Op.UNLINK, b"file", resent=resent),
    "rmdir": lambda resent: named(Op.RMDIR, b"empty", resent=resent),
    "rename": lambda resent: request(Op.RENAME, requests.Rename(b"file", ROOT, b"new", 0), resent=resent),
    "exchange": lambda resent: request(Op.RENAME2, requests.Rename(b"file", ROOT, b"empty", 2), resent=resent),
    "setxattr": lambda resent: request(Op.SETXATTR, requests.Setxattr(b"user.new", b"v", 1), ROOT, resent=resent),
    "removexattr": lambda resent: named(Op.REMOVEXATTR, b"user.old", resent=resent),
}


def names(volume: Volume) -> dict[bytes, int]:
    return dict(volume.state.entries(ROOT))


def again(world: World, folder: Path, mount: int = 1) -> World:
    """As the next process has it, after this one was killed."""
    world.volume.journal.close()
    world.volume.stage.close()
    journal = Journal.find(folder, world.volume.journal.token, 0)
    assert journal is not None
    volume = Volume(Stage(folder / "stage", fresh=False), journal, lambda _entry: None)
    volume.recall(journal.read(), 0)
    volume.stage.keep_only({staged.slot for _ino, _index, staged in volume.staging.all()})
    return World(volume, mount)


def prepared(world: World) -> None:
    world.file(b"file")
    world.directory(b"empty")
    world.volume.commit(world.volume.tree.set_xattr(ROOT, b"user.old", b"v", 1))


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("what", MAKING)
def test_what_was_made_is_not_made_again(world: World, tmp_path: Path, what: str, killed: bool) -> None:
    error, answer = world.ask(MAKING[what](False))
    made = entry_ino(answer)
    assert error == 0 and names(world.volume) == {b"new": made}
    if killed:
        world = again(world, tmp_path)
    at = world.volume.journal.at
    error, answer = world.ask(MAKING[what](True))
    assert (error, entry_ino(answer)) == (0, made)
    assert names(world.volume) == {b"new": made} and world.volume.journal.at == at
    assert len(answer) == abi.ENTRY.size + abi.ATTRIBUTES.size + (abi.OPENED.size if what == "create" else 0)
    world.volume.commit(world.volume.tree.rename(ROOT, b"new", ROOT, b"old", 2) if what == "mkdir" else world.volume.tree.unlink(ROOT, b"new", 2))
    assert made in world.volume.state.inodes, "its Linux knows it: it was told"


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("what", ENDING)
def test_what_has_been_done_is_not_done_again(world: World, tmp_path: Path, what: str, killed: bool) -> None:
    prepared(world)
    assert world.ask(ENDING[what](False)) == (0, b"")
    if killed:
        world = again(world, tmp_path)
    before, xattrs, at = names(world.volume), dict(world.volume.state.xattrs(ROOT)), world.volume.journal.at
    assert world.ask(ENDING[what](True)) == (0, b"")
    assert (names(world.volume), dict(world.volume.state.xattrs(ROOT)), world.volume.journal.at) == (before, xattrs, at)


def test_a_name_that_was_given_is_not_given_again(world: World, tmp_path: Path) -> None:
    ino = world.file(b"file")
    link = requests.Link(ino, b"new")
    assert world.ask(request(Op.LINK, link))[0] == 0
    world = again(world, tmp_path)
    error, answer = world.ask(request(Op.LINK, link, resent=True))
    assert (error, entry_ino(answer)) == (0, ino) and world.volume.state.inodes[ino].nlink == 2


def test_attributes_that_were_set_are_told_when_it_is_asked_again(world: World, tmp_path: Path) -> None:
    """An answer without them is none: Linux does not take it."""
    ino = world.file(b"file")
    for valid, size, mode in ((Valid.MODE, 0, stat.S_IFREG | 0o600), (Valid.SIZE, 10, 0)):
        _error, first = world.ask(setattr_of(ino, valid, size=size, mode=mode))
        world = again(world, tmp_path)
        at = world.volume.journal.at
        assert world.ask(setattr_of(ino, valid, size=size, mode=mode, resent=True)) == (0, first)
        assert len(first) == abi.ATTRIBUTES_KEPT.size + abi.ATTRIBUTES.size and world.volume.journal.at == at


def test_a_file_that_was_cut_when_it_was_opened_is_open_and_not_cut_again(world: World, tmp_path: Path) -> None:
    ino = world.file(b"file")
    opening = requests.Open(os.O_RDWR | os.O_TRUNC, 0)
    world.ask(write(ino, 0, b"before"))
    _error, first = world.ask(request(Op.OPEN, opening, ino, unique=4))
    world = again(world, tmp_path)
    world.volume.write(ino, 0, b"of another", 2)
    assert world.ask(request(Op.OPEN, opening, ino, unique=4, resent=True)) == (0, first)
    assert len(first) == abi.OPENED.size and world.content(ino) == b"of another" and world.mount.opened[ino] == 1


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_written_at_the_end_is_not_written_there_again(world: World, tmp_path: Path, killed: bool) -> None:
    ino = world.file(b"file")
    first = world.ask(write(ino, 0, b"one", unique=2, flags=os.O_APPEND))
    world.ask(write(ino, 0, b"two", unique=4, flags=os.O_APPEND))
    if killed:
        world = again(world, tmp_path)
    assert world.ask(write(ino, 0, b"one", unique=2, flags=os.O_APPEND, resent=True)) == first == (0, abi.WRITTEN.pack(3, 0))
    world.ask(write(ino, 0, b"three", unique=6, flags=os.O_APPEND, resent=True))
    assert world.content(ino) == b"onetwothree"


def test_the_log_does_not_have_it_that_something_was_written_whose_bytes_it_lacks(tmp_path: Path) -> None:
    """Who goes on from it on another machine has to write it."""
    log: list[Entry] = []
    world = World(volume_in(tmp_path, log.append))
    ino = world.file(b"file")
    world.ask(write(ino, 0, b"one", unique=2, flags=os.O_APPEND))
    world.ask(create(b"new", unique=4))
    assert [entry.done for entry in log if entry.done] == [Done(1, 4, ino_of(world.volume, b"new"))]
    assert set(world.volume.done) == {(1, 2), (1, 4)}
    world.volume.journal.close()
    journal, again_told = Journal.find(tmp_path, world.volume.journal.token, 0), list[Entry]()
    assert journal is not None
    successor = Volume(Stage(tmp_path / "stage", fresh=False), journal, again_told.append)
    successor.recall(journal.read(), 0)
    assert [entry.done for entry in again_told] == [entry.done for entry in log] and set(successor.done) == {(1, 2), (1, 4)}


def test_what_was_not_done_is_done_when_it_comes_again(world: World, tmp_path: Path) -> None:
    for _ in range(2):
        assert world.ask(create(b"f", resent=True))[0] == 0 and ino_of(world.volume, b"f")
        world = again(world, tmp_path)
    assert world.ask(create(b"f", unique=4, resent=True))[0] == errno.EEXIST, "that is another request"


def test_the_numbers_of_another_mount_are_others(world: World, tmp_path: Path) -> None:
    assert world.ask(create(b"f"))[0] == 0
    assert again(world, tmp_path, mount=2).ask(create(b"f", resent=True))[0] == errno.EEXIST


def test_a_file_that_another_mount_has_made_meanwhile_is_no_error_of_whoever_would_make_or_open_it(world: World) -> None:
    """O_CREAT without O_EXCL: ESTALE has Linux look again."""
    world.file(b"f")
    assert world.ask(create(b"f", flags=os.O_RDWR))[0] == errno.ESTALE
    assert world.ask(create(b"f", flags=os.O_RDWR | os.O_EXCL, unique=4))[0] == errno.EEXIST
    assert world.ask(create(b"g", flags=os.O_RDWR, unique=6))[0] == 0
    assert world.ask(create(b"g", flags=os.O_RDWR, unique=6, resent=True))[0] == 0


# listings


def test_a_successor_does_not_take_the_listing_of_one_directory_for_that_of_another(world: World) -> None:
    """Their numbers are of two processes."""
    numbers = set()
    for _ in range(2):
        serving = Serving(world.volume, world.around)
        serving.one(world.mount, request(Op.OPENDIR, requests.Open(0, 0)))
        numbers.add(abi.OPENED.unpack(world.mount.answers[-1][1])[0])
    assert len(numbers) == 2 and max(numbers) < 1 << 63


def test_allocated_room_reads_as_zeros_and_a_file_grows_with_it(world: World) -> None:
    ino = world.file(b"f")
    world.ask(write(ino, 0, b"x" * 100))
    assert world.ask(request(Op.FALLOCATE, requests.Fallocate(0, 50, BLOCK_BYTES, 1), ino))[0] == 0
    assert world.volume.state.inodes[ino].size == 100
    assert world.ask(request(Op.FALLOCATE, requests.Fallocate(0, 50, 100, 16), ino, unique=4))[0] == 0
    assert world.content(ino) == b"x" * 50 + bytes(100)
