"""The same operations on a folder of this machine and on a Tree: what Linux's own file system does is what ours has to do."""

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unios.core.files import changes, data
from unios.core.files.check import faults
from unios.core.files.data import Made, Part
from unios.core.files.inode import BLOCK_BYTES, ROOT, Extent, Inode, Owner
from unios.core.files.state import State
from unios.core.files.tree import FileError, Planned, Tree, Wanted

OWNER = Owner(os.geteuid(), os.getegid())
LIBC = ctypes.CDLL(None, use_errno=True)


class Ours:
    """A tree with its blocks, driven by paths. Every entry of the journal goes through its bytes, and is applied to a second state too."""

    def __init__(self) -> None:
        self.tree, self.copy = Tree(), State()
        self.blocks: dict[bytes, bytes] = {}
        self.now_ns = 1_000
        self.open: dict[int, int] = {}
        self.do(self.tree.found(OWNER, 0o755, 0))

    def do(self, planned: Planned) -> int:
        self.journal(planned.changes)
        return planned.ino

    def journal(self, made: changes.Changes) -> None:
        whose = [one.inode.ino for one in made if isinstance(one, changes.PutInode)]
        assert len(whose) == len(set(whose)), "the second would undo the first"
        entry = changes.encode(made)
        self.tree.state.apply(changes.decode(entry))
        self.copy.apply(changes.decode(entry))
        self.now_ns += 1

    def check(self) -> None:
        """All fits together, and whoever has read the journal, or a snapshot, has the same."""
        assert list(faults(self.tree.state)) == []
        assert self.copy == self.tree.state
        again = State()
        for part in self.tree.state.snapshot():
            again.apply(changes.decode(changes.encode(part)))
        assert again == self.tree.state
        assert [list(one.entries(ino)) for one in (again,) for ino in one.inodes] == [
            list(self.tree.state.entries(ino)) for ino in self.tree.state.inodes
        ]

    def walk(self, path: str) -> int:
        """Return the inode of a path; symbolic links on the way are not followed here, and none of the tests goes through one."""
        ino = ROOT
        for name in filter(None, path.split("/")):
            ino = self.tree.lookup(ino, os.fsencode(name)).ino
        return ino

    def place(self, path: str) -> tuple[int, bytes]:
        directory, _, name = path.rpartition("/")
        return self.tree.directory(self.walk(directory)).ino, os.fsencode(name)

    # operations

    def create(self, path: str, mode: int) -> None:
        self.do(self.tree.make(*self.place(path), stat.S_IFREG | mode, OWNER, self.now_ns))

    def mkdir(self, path: str, mode: int) -> None:
        self.do(self.tree.make(*self.place(path), stat.S_IFDIR | mode, OWNER, self.now_ns))

    def symlink(self, path: str, target: str) -> None:
        self.do(self.tree.make(*self.place(path), stat.S_IFLNK | 0o777, OWNER, self.now_ns, target=target.encode()))

    def mkfifo(self, path: str, mode: int) -> None:
        self.do(self.tree.make(*self.place(path), stat.S_IFIFO | mode, OWNER, self.now_ns))

    def link(self, path: str, new: str) -> None:
        linked = self.walk(path)
        self.do(self.tree.link(linked, *self.place(new), self.now_ns))

    def unlink(self, path: str) -> None:
        self.do(self.tree.unlink(*self.place(path), self.now_ns))

    def rmdir(self, path: str) -> None:
        self.do(self.tree.rmdir(*self.place(path), self.now_ns))

    def rename(self, path: str, new: str, flags: int) -> None:
        place = self.place(path)
        self.do(self.tree.rename(*place, *self.place(new), self.now_ns, flags=flags))

    def chmod(self, path: str, mode: int) -> None:
        self.do(self.tree.change(self.walk(path), Wanted(mode=mode), self.now_ns))

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self.do(self.tree.set_xattr(self.walk(path), name.encode(), value, self.now_ns, flags=flags))

    def removexattr(self, path: str, name: str) -> None:
        self.do(self.tree.drop_xattr(self.walk(path), name.encode(), self.now_ns))

    def hold(self, path: str) -> None:
        """Open it, and keep it open."""
        ino = self.walk(path)
        data.regular(self.tree, ino)
        self.tree.opened(ino)
        self.open[max(self.open, default=-1) + 1] = ino

    def write(self, held: int, offset: int, what: bytes) -> None:
        ino = self.open[held]
        made = {piece.at: self.block(ino, piece.at, piece.start, part) for piece, part in cut_up(offset, what)}
        self.do(data.write(self.tree, ino, offset, len(what), made, self.now_ns))

    def block(self, ino: int, index: int, start: int, what: bytes) -> Made:
        """Keep another block: what the present one has, with `what` in it."""
        before = self.tree.state.extents(ino).get(index)
        had = self.blocks[before.block][: before.length] if before else b""
        whole = had[:start].ljust(start, b"\0") + what + had[start + len(what) :]
        self.blocks.setdefault(whole, whole)
        return Made(before, Extent(whole, len(whole)))

    def truncate(self, held: int, size: int) -> None:
        self.do(data.cut(self.tree, self.open[held], size, self.now_ns))

    def punch(self, held: int, offset: int, length: int) -> None:
        ino = self.open[held]
        made = {
            piece.at: self.block(ino, piece.at, piece.start, bytes(min(piece.end, self.tree.state.extents(ino)[piece.at].length) - piece.start))
            for piece in data.edges(self.tree, ino, offset, length)
        }
        self.do(data.punch(self.tree, ino, offset, length, made, self.now_ns))

    def allocate(self, held: int, offset: int, length: int, keep: bool) -> None:
        self.do(data.allocate(self.tree, self.open[held], offset, length, self.now_ns, keep_size=keep))

    def read(self, held: int, offset: int, length: int) -> bytes:
        return b"".join(map(self.bytes, data.parts(self.tree, self.open[held], offset, length)))

    def bytes(self, part: Part) -> bytes:
        return self.blocks[part.block][part.start : part.start + part.length] if part.block else bytes(part.length)

    def release(self, held: int) -> None:
        self.journal(self.tree.released(self.open.pop(held)))

    # what there is

    def listing(self) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def look(ino: int, path: str) -> None:
            inode = self.tree.inode(ino)
            found[path or "/"] = self.seen(inode)
            for name, child in self.tree.state.entries(ino).items():
                look(child, f"{path}/{os.fsdecode(name)}")

        look(ROOT, "")
        return found

    def seen(self, inode: Inode) -> tuple[Any, ...]:
        content = b"".join(map(self.bytes, data.parts(self.tree, inode.ino, 0, inode.size))) if inode.is_regular else inode.target
        size = 0 if inode.is_directory else inode.size
        return (inode.mode, inode.nlink, size, content, dict(self.tree.state.xattrs(inode.ino)))


def cut_up(offset: int, what: bytes) -> list[tuple[data.Piece, bytes]]:
    return [
        (piece, what[(at := piece.at * BLOCK_BYTES + piece.start - offset) : at + piece.end - piece.start])
        for piece in data.pieces(offset, len(what))
    ]


class Local:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.root = str(folder)
        self.open: dict[int, int] = {}

    def at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def create(self, path: str, mode: int) -> None:
        os.close(os.open(self.at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self.at(path))

    def mkfifo(self, path: str, mode: int) -> None:
        os.mkfifo(self.at(path), mode)

    def link(self, path: str, new: str) -> None:
        os.link(self.at(path), self.at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def rename(self, path: str, new: str, flags: int) -> None:
        if LIBC.renameat2(-100, os.fsencode(self.at(path)), -100, os.fsencode(self.at(new)), flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def chmod(self, path: str, mode: int) -> None:
        if os.path.islink(self.at(path)):
            raise OSError(errno.EOPNOTSUPP, "")
        os.chmod(self.at(path), mode)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(self.at(path), name, value, flags, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.at(path), name, follow_symlinks=False)

    def hold(self, path: str) -> None:
        self.open[max(self.open, default=-1) + 1] = os.open(self.at(path), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)

    def write(self, held: int, offset: int, what: bytes) -> None:
        os.pwrite(self.open[held], what, offset)

    def truncate(self, held: int, size: int) -> None:
        os.ftruncate(self.open[held], size)

    def punch(self, held: int, offset: int, length: int) -> None:
        self._fallocate(held, 3, offset, length)

    def allocate(self, held: int, offset: int, length: int, keep: bool) -> None:
        self._fallocate(held, int(keep), offset, length)

    def _fallocate(self, held: int, mode: int, offset: int, length: int) -> None:
        if LIBC.fallocate(self.open[held], mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def read(self, held: int, offset: int, length: int) -> bytes:
        return os.pread(self.open[held], length, offset)

    def release(self, held: int) -> None:
        os.close(self.open.pop(held))

    def listing(self) -> dict[str, Any]:
        found = {}
        for folder, folders, files in os.walk(self.root):
            for name in ["", *(files + [one for one in folders if os.path.islink(f"{folder}/{one}")])]:
                path = f"{folder}/{name}" if name else folder
                found[path.removeprefix(self.root) or "/"] = seen(path)
        return found

    def close(self) -> None:
        for held in list(self.open):
            self.release(held)


def seen(path: str) -> tuple[Any, ...]:
    status = os.lstat(path)
    content = b""
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path).encode()
    elif stat.S_ISREG(status.st_mode):
        content = Path(path).read_bytes()
    xattrs = {name.encode(): os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
    return (status.st_mode, status.st_nlink, 0 if stat.S_ISDIR(status.st_mode) else status.st_size, content, xattrs)


def outcome(action: Callable[..., Any], *given: Any) -> Any:
    """Return what came of it: its answer, or the errno."""
    try:
        return action(*given)
    except FileError as error:
        return errno.errorcode[error.errno]
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def both(ours: Ours, local: Local, operation: str, *given: Any) -> Any:
    """Do it on both; return what came of it, which must be the same."""
    mine, theirs = outcome(getattr(ours, operation), *given), outcome(getattr(local, operation), *given)
    assert mine == theirs, f"{operation} {given}: {mine}, and on this machine {theirs}"
    return mine


def same(ours: Ours, local: Local) -> None:
    """What there is is the same on both."""
    mine, theirs = ours.listing(), local.listing()
    assert mine.keys() == theirs.keys()
    for path, here in mine.items():
        assert here == theirs[path], f"{path}: {here}, and on this machine {theirs[path]}"
