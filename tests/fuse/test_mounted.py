"""The protocol with the real Linux: what programs do comes through whole; a reader is replaced under them; what they have kept back is recalled; locks."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounted import Mounted, needs_fuse
from unios.errors import CallerError, NotFound, Unavailable
from unios.fuse import mounting, replies
from unios.fuse.channel import Channel, Unmounted
from unios.fuse.session import Session

pytestmark = needs_fuse

EVERYTHING = """
def refused(number, action, *args):
    try:
        action(*args)
    except OSError as error:
        assert error.errno == number, (error, number)
    else:
        raise AssertionError(f"{action} {args} was not refused")

os.umask(0o22)
os.mkdir("d", 0o750)
assert oct(os.stat("d").st_mode) == "0o40750"
f = os.open("d/f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
assert os.write(f, b"hello world") == 11
refused(errno.EEXIST, os.open, "d/f", os.O_CREAT | os.O_EXCL)
assert os.pread(f, 5, 6) == b"world"
os.ftruncate(f, 5)
assert os.fstat(f).st_size == 5 and oct(os.fstat(f).st_mode) == "0o100644"
os.posix_fallocate(f, 0, 8192)
assert os.fstat(f).st_size == 8192
assert os.lseek(f, 0, os.SEEK_HOLE) == 8192 and os.lseek(f, 10, os.SEEK_DATA) == 10
os.fsync(f)
os.fdatasync(f)
big = os.urandom(3_000_000)
assert os.pwrite(f, big, 4096) == len(big)
g = os.open("g", os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(f, g, 5, 0, 0) == 5 and os.pread(g, 9, 0) == b"hello"
m = mmap.mmap(f, 0)
assert m[4096 : 4096 + len(big)] == big
m[0:5] = b"HELLO"
m.flush()
assert os.pread(f, 5, 0) == b"HELLO"
m.close()
os.close(f)
os.close(g)
os.utime("d/f", ns=(1, -1_500_000_000))
assert (os.stat("d/f").st_atime_ns, os.stat("d/f").st_mtime_ns) == (1, -1_500_000_000)
os.utime("d/f")
assert abs(os.stat("d/f").st_mtime - time.time()) < 60
os.chmod("d/f", 0o4711)
os.chown("d/f", 12, 34)
assert (os.stat("d/f").st_uid, os.stat("d/f").st_gid) == (12, 34)
os.symlink("d/f", "s")
assert os.readlink("s") == "d/f" and os.stat("s").st_size == 3_004_096
os.link("d/f", "h")
assert os.stat("h").st_nlink == 2 and os.stat("h").st_ino == os.stat("d/f").st_ino
os.mkfifo("p", 0o600)
os.mknod("c", 0o020600, os.makedev(1, 3))
assert os.stat("c").st_rdev == os.makedev(1, 3)
os.setxattr("d/f", "user.a", b"1" * 4000, os.XATTR_CREATE)
refused(errno.EEXIST, os.setxattr, "d/f", "user.a", b"", os.XATTR_CREATE)
os.setxattr("d/f", "user.b", b"")
assert os.getxattr("d/f", "user.a") == b"1" * 4000 and sorted(os.listxattr("d/f")) == ["user.a", "user.b"]
os.removexattr("d/f", "user.a")
refused(errno.ENODATA, os.getxattr, "d/f", "user.a")
odd = bytes(range(1, 47)) + bytes(range(48, 256))
os.close(os.open(odd[:255], os.O_CREAT))
refused(errno.ENAMETOOLONG, os.open, b"x" * 256, os.O_CREAT)
for n in range(700):
    os.close(os.open(f"d/many-{n:04}-{'x' * 200}", os.O_CREAT))
names = os.listdir("d")
assert len(names) == 701 and len(set(names)) == 701
with os.scandir("d") as entries:
    assert sum(entry.stat().st_size for entry in entries) == 3_004_096
here = os.open(".", os.O_DIRECTORY)
os.fsync(here)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.renameat2(here, b"h", here, b"s", 2) == 0 and os.readlink("h") == "d/f"
assert libc.renameat2(here, b"h", here, b"s", 1) == -1 and ctypes.get_errno() == errno.EEXIST
os.rename("h", "t")
assert libc.syncfs(here) == 0
t = os.open(".", os.O_TMPFILE | os.O_RDWR)
os.write(t, b"nameless")
os.close(t)
held = os.open("g", os.O_RDONLY)
os.unlink("g")
assert os.pread(held, 5, 0) == b"hello"
os.close(held)
refused(errno.ENOTEMPTY, os.rmdir, "d")
os.mkdir("e")
os.rmdir("e")
refused(errno.ENOENT, os.stat, "e")
v = os.statvfs(".")
assert (v.f_blocks, v.f_bfree, v.f_bavail, v.f_files, v.f_ffree, v.f_namemax) == (1000, 600, 500, 100, 50, 255)
print("all")
"""


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    with Mounted() as made:
        yield made


@pytest.mark.parametrize("options", [(), ("--keep",), ("--keep", "--writeback")], ids=["asked", "kept", "written-back"])
def test_whatever_a_program_does_comes_through(options: tuple[str, ...]) -> None:
    with Mounted(*options) as mounted:
        assert mounted.run(EVERYTHING) == "all"
        mounted.run("f = os.open('d/f', os.O_RDWR)\nfcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nfcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)")
        mounted.run("fcntl.fcntl(os.open('d/f', os.O_RDWR), fcntl.F_GETLK, bytes(32))")
        assert set(ASKED.split()) - set(mounted.do("seen")) == set()


ASKED = """LOOKUP GETATTR SETATTR READLINK SYMLINK MKNOD MKDIR UNLINK RMDIR LINK OPEN READ WRITE STATFS RELEASE FSYNC SETXATTR GETXATTR LISTXATTR
REMOVEXATTR FLUSH OPENDIR RELEASEDIR CREATE FALLOCATE READDIRPLUS LSEEK COPY_FILE_RANGE RENAME RENAME2 TMPFILE GETLK SETLK FSYNCDIR"""


# a reader is replaced


USES = {
    "READ": ("f = os.open('f', os.O_RDONLY)\nprint(os.read(f, 9).decode())", "some text"),
    "WRITE": ("f = os.open('f', os.O_RDWR)\nprint(os.pwrite(f, b'SOME', 0), os.pread(f, 9, 0).decode())", "4 SOME text"),
    "GETATTR": ("f = os.open('f', os.O_RDWR)\nprint(os.fstat(f).st_size)", "9"),
    "LOOKUP": ("print(os.path.exists('f'))", "True"),
    "OPEN": ("print(os.read(os.open('f', os.O_RDONLY), 4).decode())", "some"),
    "FLUSH": ("os.close(os.open('f', os.O_RDONLY))\nprint('closed')", "closed"),
    "READDIRPLUS": ("print(os.listdir('.'))", "['f']"),
    "MKDIR": ("os.mkdir('d')\nprint(os.listdir('.'))", "['f', 'd']"),
    "SETLK": ("fcntl.lockf(os.open('f', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)\nprint('locked')", "locked"),
    "FSYNC": ("os.fsync(os.open('f', os.O_RDWR))\nprint('synced')", "synced"),
}


@pytest.mark.parametrize("op", sorted(USES))
def test_a_reader_that_dies_in_the_middle_is_replaced_and_the_program_notices_nothing(op: str) -> None:
    code, said = USES[op]
    with Mounted("--file", "f", "some text") as mounted:
        mounted.do("hang", op)
        program = mounted.start(code)
        mounted.until("held", op)
        mounted.kill()
        time.sleep(0.1)
        assert program.poll() is None, "it waits"
        mounted.serve("--file", "f", "some text")
        found, _ = program.communicate(timeout=20)
        assert (program.returncode, found.strip()) == (0, said)
        assert op in mounted.do("state")["resent"]


def test_open_files_and_whoever_waits_for_a_lock_live_through_a_change_of_readers() -> None:
    with Mounted("--file", "f", "some text") as mounted:
        holder = mounted.start(
            "f = os.open('f', os.O_RDWR)\nfcntl.lockf(f, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.readline()\nprint(os.pread(f, 4, 0))"
        )
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        waiter = mounted.start("fcntl.lockf(os.open('f', os.O_RDWR), fcntl.LOCK_EX)\nprint('mine')")
        mounted.until("waiting", 1)
        mounted.kill()
        mounted.serve("--file", "f", "some text")  # of the lock that was granted it knows nothing: that is for whoever keeps locks to bring along
        assert waiter.communicate(timeout=20)[0] == "mine\n"
        assert holder.communicate("go on\n", timeout=20)[0] == "b'some'\n"


def test_without_a_successor_the_mount_is_cut_and_nobody_hangs() -> None:
    with Mounted("--file", "f", "some text") as mounted:
        mounted.do("hang", "READ")
        code = """
f = os.open('f', os.O_RDONLY)
try:
    os.read(f, 9)
except OSError as error:
    print(errno.errorcode[error.errno])
try:
    os.stat('f')
except OSError as error:
    print(errno.errorcode[error.errno])
"""
        program = mounted.start(code)
        mounted.until("held", "READ")
        mounted.cut()
        assert program.communicate(timeout=10)[0].split() in (["ECONNABORTED", "ENOTCONN"], ["ENOTCONN", "ENOTCONN"])
        assert mounting.unmount(mounted.folder) and not mounting.unmount(mounted.folder)


# recall


def test_what_was_read_is_kept_until_it_is_recalled() -> None:
    with Mounted("--keep", "--file", "f", "before") as mounted:
        reader = mounted.start(
            "f = os.open('f', os.O_RDONLY)\nfor line in sys.stdin:\n    print(os.pread(f, 9, 0), os.stat('f').st_size, flush=True)"
        )

        def look() -> str:
            assert reader.stdin is not None and reader.stdout is not None
            reader.stdin.write("look\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        assert look() == "b'before' 6"
        mounted.do("change", "f", "changed")
        assert look() == "b'before' 6"
        assert mounted.do("recall", "f") == {"known": True, "written": 0}
        assert look() == "b'changed' 7"
        mounted.do("store", "f", "CHANGED")
        assert look() == "b'CHANGED' 7"
        assert mounted.do("recall", "4711") == {"known": False, "written": 0}, "nobody here knows that file"
        reader.communicate()


def test_a_name_that_is_kept_is_there_until_it_is_recalled() -> None:
    with Mounted("--keep", "--file", "f", "text") as mounted:
        assert mounted.run("print(os.path.exists('f'))") == "True"
        assert mounted.do("gone", "f") is True
        assert mounted.run("print(os.path.exists('f'))") == "False"
        mounted.do("file", "f", "again")
        assert mounted.run("print(open('f').read())") == "again"
        assert mounted.do("forget", "f") is True and mounted.do("forget", "never") is False


WRITER = """
f = os.open('f', os.O_RDWR)
for line in sys.stdin:
    word, _, text = line.strip().partition(' ')
    try:
        if word == 'write':
            print(os.pwrite(f, text.encode(), 0), flush=True)
        elif word == 'read':
            print(os.pread(f, 9, 0).decode(), flush=True)
        elif word == 'map':
            m = mmap.mmap(f, 9)
            m[:len(text)] = text.encode()
            print('mapped', flush=True)
        else:
            os.fsync(f)
            print('synced', flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""


@pytest.fixture
def writing() -> Iterator[tuple[Mounted, Any]]:
    with Mounted("--keep", "--writeback", "--file", "f", "some text") as mounted:
        program = mounted.start(WRITER)

        def say(line: str) -> str:
            assert program.stdin is not None and program.stdout is not None
            program.stdin.write(line + "\n")
            program.stdin.flush()
            return program.stdout.readline().strip()

        yield mounted, say
        program.communicate(timeout=20)


def test_what_was_kept_back_is_written_when_it_is_recalled(writing: tuple[Mounted, Any]) -> None:
    mounted, say = writing
    assert say("write SOME") == "4" and mounted.do("data", "f") == "some text"
    assert mounted.do("recall", "f") == {"known": True, "written": 1}
    assert mounted.do("data", "f") == "SOME text"
    mounted.do("change", "f", "theirs 12")
    assert say("read") == "theirs 12"
    assert say("map mine") == "mapped" and mounted.do("recall", "f")["written"] == 1
    assert mounted.do("data", "f") == "minerS 12".lower()


def test_what_was_kept_back_and_is_refused_is_said_at_fsync_once_and_gone(writing: tuple[Mounted, Any]) -> None:
    """So it goes for whoever's delegation has expired: what he wrote meanwhile must not undo what others have written since."""
    mounted, say = writing
    assert say("write LOST") == "4"
    mounted.do("refuse", "WRITE")
    assert mounted.do("recall", "f") == {"known": True, "written": 1}
    mounted.do("refuse")
    assert mounted.do("data", "f") == "some text"
    assert say("fsync") == "EIO"
    assert say("read") == "some text" and say("fsync") == "synced"


# locks


HOLD = "f = os.open('f', os.O_RDWR)\n{lock}(f, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.readline()"
TRY = """f = os.open('f', os.O_RDWR)
try:
    {lock}(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print('mine')
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("lock", ["fcntl.lockf", "fcntl.flock"])
def test_locks_hold_between_mounts_and_end_with_whoever_held_or_wanted_them(lock: str) -> None:
    hold, try_ = HOLD.format(lock=lock), TRY.format(lock=lock)
    with Mounted("--file", "f", "text", mounts=2) as mounted:
        holder = mounted.start(hold)
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert mounted.run(try_, at=1) == "EAGAIN" and mounted.run(try_) == "EAGAIN"
        signalled = mounted.start("signal.signal(signal.SIGALRM, lambda *_: 1 / 0)\nsignal.setitimer(signal.ITIMER_REAL, 0.2)\n" + hold, at=1)
        assert "ZeroDivisionError" in signalled.communicate(timeout=20)[0]
        killed = mounted.start(hold, at=1)
        mounted.until("waiting", 1)
        killed.kill()
        killed.wait(10)
        mounted.until("waiting", 0)
        waiter = mounted.start(hold, at=1)
        mounted.until("waiting", 1)
        holder.kill()
        assert waiter.stdout is not None and waiter.stdout.readline() == "held\n"
        assert mounted.run(try_) == "EAGAIN"
        waiter.communicate("end\n", timeout=20)
        assert mounted.run(try_) == "mine"
        holder.communicate()


def test_who_has_the_range_is_told() -> None:
    with Mounted("--file", "f", "text", mounts=2) as mounted:
        code = "import struct\nf = os.open('f', os.O_RDWR)\nfcntl.lockf(f, fcntl.LOCK_EX, 10, 5)\nprint('held', flush=True)\nsys.stdin.readline()"
        holder = mounted.start(code)
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        ask = """
import struct
f = os.open('f', os.O_RDWR)
print(struct.unpack_from('hhqqi', fcntl.fcntl(f, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))))
"""
        assert mounted.run(ask, at=1) == "(1, 0, 5, 10, 0)", "its pid is of no process here"
        assert mounted.run(TRY.format(lock="fcntl.lockf").replace("LOCK_NB)", "LOCK_NB, 5)"), at=1) == "mine"
        holder.communicate("end\n", timeout=20)


# mounting


def test_what_cannot_be_mounted_says_why(mounted: Mounted) -> None:
    file = mounted.home / "file"
    file.write_text("")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotFound, match="there is no folder"):
        mounting.mount(mounted.home / "nowhere")
    with pytest.raises(CallerError, match="is no folder"):
        mounting.mount(file)
    with pytest.raises(Unavailable, match="this Linux has no FUSE"):
        mounting.mount(mounted.home, device=str(mounted.home / "nodevice"))
    assert len(os.listdir("/proc/self/fd")) == before
    assert not mounting.unmount(mounted.home / "nowhere")


def test_the_mount_says_what_it_is_and_who_may_enter(mounted: Mounted) -> None:
    (line,) = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(mounted.folder) in line]
    source, _folder, kind, options, *_ = line.split()
    assert (source, kind) == ("unios", "fuse.unios") and {"nosuid", "nodev", "default_permissions", "allow_other"} <= set(options.split(","))


def test_a_dead_mount_is_not_mounted_over_and_a_link_is_followed_to_it(mounted: Mounted) -> None:
    link = mounted.home / "link"
    link.symlink_to("mount0")
    for way in (mounted.folder, link):
        with pytest.raises(Unavailable, match="is mounted already"):
            mounting.mount(way)
    mounted.cut()
    with pytest.raises(Unavailable, match="is mounted already"):
        mounting.mount(link)
    assert mounting.unmount(link) and not mounting.unmount(link) and mounting.kind_of(mounted.folder) == ""
    odd = mounted.home / "with a blank\tand more"
    odd.mkdir()
    descriptor = mounting.mount(odd)
    assert mounting.kind_of(odd) == "fuse.unios"
    os.close(descriptor)
    assert mounting.unmount(odd)
    assert mounting.kind_of(Path("/proc")) and not mounting.unmount(Path("/proc")), "what is not ours stays"


# a reader in all kinds of trouble


def test_what_linux_does_not_take_is_refused_and_nobody_waits_for_ever() -> None:
    with Mounted("--file", "f", "some text") as mounted:
        for asked, said in (("parts", "hello"), ("wide", "hello"), ("too-much", "EIO"), ("no-errno", "EIO")):
            mounted.do("answer", asked)
            mounted.do("recall", "f")
            code = (
                "try:\n    print(os.read(os.open('f', os.O_RDONLY), 9).decode())\nexcept OSError as error:\n    print(errno.errorcode[error.errno])"
            )
            assert mounted.run(code).rstrip("\0") == said, asked


def test_a_deleted_directory_that_somebody_is_in_is_known_and_a_name_without_end_is_not() -> None:
    with Mounted("--keep") as mounted:
        mounted.run("os.mkdir('d')\nopen('d/f', 'w').close()")
        holder = mounted.start("f = os.open('d/f', os.O_RDONLY)\nprint('held', flush=True)\nsys.stdin.readline()")
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert mounted.do("gone", "d") is True
        assert mounted.do("forget", "x" * 5_000) is False
        holder.communicate("end\n", timeout=20)


def test_a_descriptor_that_is_not_mounted_says_so(tmp_path: Path) -> None:
    descriptor = os.open(mounting.DEVICE, os.O_RDWR)
    agreed = Session(41, 0, 4_096, 4_096)
    with pytest.raises(Unmounted):
        Channel.begin(descriptor)
    channel = Channel.adopt(descriptor, agreed)
    assert not channel.tell(*replies.resend())
    with pytest.raises(Unmounted):
        channel.read()
    channel.close()
    channel.close()


def test_a_reader_that_dies_over_init_is_followed_by_one_that_begins_anew_or_adopts(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    descriptor = mounting.mount(folder)
    try:
        os.read(descriptor, 1 << 17)  # INIT is taken, and its reader gone
        kept: list[Session] = []
        channel = Channel.begin(descriptor, again=True, keep=kept.append)
        assert kept == [channel.session] and channel.session.can_resend
        assert not Channel.adopt(os.dup(descriptor), kept[0]).session.writes_back
    finally:
        os.close(descriptor)
        mounting.unmount(folder)
