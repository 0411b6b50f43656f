"""Tree: what operations on names, attributes and data do to the files of one owner, as POSIX and Linux have it. Decides only: Planned, or FileError.

Nothing is changed here: who asks applies the changes, in the order in which they were planned, before anything else is planned. Times are the caller's.
An inode without a name stays while somebody has it open (`held`), as an orphan: `opened` and `released` say so. Whether somebody may is not asked here:
for a mount Linux asks that itself.
"""

import errno
import stat
from collections import Counter
from typing import Final, NamedTuple, NoReturn

import msgspec

from unios.core.files.changes import Change, Changes, DropEntry, DropInode, DropXattr, PutEntry, PutInode, PutXattr
from unios.core.files.inode import (
    LINKS_MAX,
    NAME_BYTES_MAX,
    ROOT,
    TARGET_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
    XATTRS_BYTES_MAX,
    Inode,
    Owner,
)
from unios.core.files.state import State

NOREPLACE: Final = 1
EXCHANGE: Final = 2
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
PERMISSIONS: Final = 0o7777
TIME_NS_MAX: Final = (1 << 63) - 1
"""In the year 2262; as far before 1970 in 1677."""
DOTS: Final = (b".", b"..")


class FileError(Exception):
    """The errno that a program is to see."""

    def __init__(self, number: int, why: str = "") -> None:
        super().__init__(why or errno.errorcode.get(number, str(number)))
        self.errno = number


class Planned(NamedTuple):
    """What an operation does. `ino`: of what it made, moved or changed."""

    changes: Changes
    ino: int


class Wanted(NamedTuple):
    """What is to be changed of attributes; None: stays. `size` is data.py's."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    kill_suidgid: bool = False
    """Whoever does this may not leave a program that runs as somebody else."""


def refuse(number: int, why: str = "") -> NoReturn:
    raise FileError(number, why)


class Tree:
    """One owner's. `state` is what there is."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self._opens: Counter[int] = Counter()
        self._nameless: set[int] = set()
        """Of the orphans those that never had a name, and may get one; nobody else's file comes back."""

    # looking

    def inode(self, ino: int) -> Inode:
        """Raises ESTALE if there is none (any more)."""
        return self.state.inodes.get(ino) or refuse(errno.ESTALE, f"there is no inode {ino} any more")

    def directory(self, ino: int) -> Inode:
        """Raises ENOTDIR, ESTALE."""
        found = self.inode(ino)
        return found if found.is_directory else refuse(errno.ENOTDIR)

    def lookup(self, directory: int, name: bytes) -> Inode:
        """Return what has that name; `.` and `..` too. Raises ENOENT, ENOTDIR, ENAMETOOLONG."""
        here = self.directory(directory)
        if name == b".":
            return here
        if name == b"..":
            return self.inode(here.parent) if here.nlink else refuse(errno.ENOENT, "the directory has been removed")
        if len(name) > NAME_BYTES_MAX:
            refuse(errno.ENAMETOOLONG)
        ino = self.state.entries(directory).get(name)
        return self.inode(ino) if ino is not None else refuse(errno.ENOENT)

    # who has what open

    def opened(self, ino: int) -> None:
        """Somebody has it open, once more. Raises ESTALE."""
        self.inode(ino)
        self._opens[ino] += 1

    def released(self, ino: int) -> Changes:
        """Somebody has closed it: return what goes with that."""
        self._opens[ino] -= 1
        if self._opens[ino] > 0:
            return ()
        del self._opens[ino]
        self._nameless.discard(ino)
        found = self.state.inodes.get(ino)
        return (DropInode(ino),) if found is not None and found.nlink == 0 else ()

    def held(self, ino: int) -> bool:
        """Return whether somebody has it open."""
        return self._opens[ino] > 0

    def orphans(self) -> list[int]:
        """Return what has no name: if nobody has it open either, as after a restart, it is to be dropped."""
        return [ino for ino, inode in self.state.inodes.items() if inode.nlink == 0]

    # making

    def found(self, owner: Owner, mode: int, now_ns: int) -> Planned:
        """Make the root of an empty tree."""
        root = Inode(ROOT, stat.S_IFDIR | mode & PERMISSIONS, 2, owner.uid, owner.gid, 0, now_ns, now_ns, now_ns, parent=ROOT)
        return Planned((PutInode(root),), ROOT)

    def make(self, directory: int, name: bytes, mode: int, owner: Owner, now_ns: int, *, rdev: int = 0, target: bytes = b"") -> Planned:
        """Make a file, directory, symbolic link, pipe, socket or device, as the type in `mode` says. Raises EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EMLINK."""
        here = self._place(directory, name)
        if name in self.state.entries(directory):
            refuse(errno.EEXIST)
        made = self._new(here, mode, owner, now_ns, rdev, target)
        if made.is_directory and here.nlink >= LINKS_MAX:
            refuse(errno.EMLINK)
        touched = _touched(here, now_ns, links=int(made.is_directory))
        return Planned((PutInode(made), PutEntry(directory, name, made.ino), PutInode(touched)), made.ino)

    def make_nameless(self, directory: int, mode: int, owner: Owner, now_ns: int) -> Planned:
        """Make a file that has no name yet, as O_TMPFILE does; who asks for it opens it."""
        made = self._new(self.directory(directory), mode, owner, now_ns, 0, b"")
        self._nameless.add(made.ino)
        return Planned((PutInode(msgspec.structs.replace(made, nlink=0)),), made.ino)

    def _new(self, here: Inode, mode: int, owner: Owner, now_ns: int, rdev: int, target: bytes) -> Inode:
        if here.nlink == 0:
            refuse(errno.ENOENT, "the directory has been removed")
        is_directory = stat.S_ISDIR(mode)
        if stat.S_ISLNK(mode):
            if not target:
                refuse(errno.ENOENT)
            if len(target) > TARGET_BYTES_MAX:
                refuse(errno.ENAMETOOLONG)
        gid = owner.gid
        if here.mode & stat.S_ISGID:  # what is made there is the group's, and so are directories below
            gid = here.gid
            mode |= stat.S_ISGID if is_directory else 0
        return Inode(
            self.state.next_ino,
            mode,
            2 if is_directory else 1,
            owner.uid,
            gid,
            len(target),
            now_ns,
            now_ns,
            now_ns,
            rdev if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else 0,
            here.ino if is_directory else 0,
            target,
        )

    def link(self, ino: int, directory: int, name: bytes, now_ns: int) -> Planned:
        """Give an inode one more name. Raises EPERM for a directory, EEXIST, EMLINK, ENOENT."""
        here, linked = self._place(directory, name), self.inode(ino)
        if name in self.state.entries(directory):
            refuse(errno.EEXIST)
        if linked.is_directory:
            refuse(errno.EPERM)
        if here.nlink == 0:
            refuse(errno.ENOENT, "the directory has been removed")
        if linked.nlink == 0 and ino not in self._nameless:
            refuse(errno.ENOENT, "its last name has been taken away")
        if linked.nlink >= LINKS_MAX:
            refuse(errno.EMLINK)
        linked = _changed(linked, now_ns, nlink=linked.nlink + 1)
        return Planned((PutInode(linked), PutEntry(directory, name, ino), PutInode(_touched(here, now_ns))), ino)

    def _place(self, directory: int, name: bytes) -> Inode:
        """Return the directory in which a name is to be made or taken away. Raises ENOTDIR, ENAMETOOLONG, EINVAL."""
        here = self.directory(directory)
        if len(name) > NAME_BYTES_MAX:
            refuse(errno.ENAMETOOLONG)
        if not name or b"/" in name or b"\0" in name:
            refuse(errno.EINVAL)
        if name in DOTS:
            refuse(errno.EEXIST)
        return here

    # taking away

    def unlink(self, directory: int, name: bytes, now_ns: int) -> Planned:
        """Take a name away, and the inode with its last one, unless somebody has it open. Raises EISDIR, ENOENT, ENOTDIR."""
        here, gone = self.directory(directory), self.lookup(directory, name)
        if gone.is_directory:
            refuse(errno.EISDIR)
        return Planned((DropEntry(directory, name), *self._less(gone, now_ns), PutInode(_touched(here, now_ns))), gone.ino)

    def rmdir(self, directory: int, name: bytes, now_ns: int) -> Planned:
        """Take an empty directory away. Raises ENOTEMPTY, ENOTDIR, ENOENT, EINVAL for `.`."""
        here = self.directory(directory)
        if name in DOTS:
            refuse(errno.EINVAL if name == b"." else errno.ENOTEMPTY)
        gone = self.lookup(directory, name)
        if not gone.is_directory:
            refuse(errno.ENOTDIR)
        if self.state.entries(gone.ino):
            refuse(errno.ENOTEMPTY)
        touched = _touched(here, now_ns, links=-1)
        return Planned((DropEntry(directory, name), *self._less(gone, now_ns), PutInode(touched)), gone.ino)

    def _less(self, gone: Inode, now_ns: int) -> list[Change]:
        """Return what becomes of an inode that has lost a name; a directory has but one."""
        nlink = 0 if gone.is_directory else gone.nlink - 1
        if nlink or self.held(gone.ino):
            return [PutInode(_changed(gone, now_ns, nlink=nlink))]
        return [DropInode(gone.ino)]

    # moving

    def rename(self, directory: int, name: bytes, to: int, new_name: bytes, now_ns: int, *, flags: int = 0) -> Planned:
        """Move a name, in the place of what has the new one, if anything has. `flags`: NOREPLACE, EXCHANGE. Raises what rename(2) does."""
        if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
            refuse(errno.EINVAL)
        if name in DOTS or new_name in DOTS:
            refuse(errno.EBUSY)
        there = self._place(to, new_name)
        moved = self.lookup(directory, name)
        other_ino = self.state.entries(to).get(new_name)
        other = self.inode(other_ino) if other_ino is not None else None
        if flags & NOREPLACE and other is not None:
            refuse(errno.EEXIST)
        if flags & EXCHANGE and other is None:
            refuse(errno.ENOENT)
        if there.nlink == 0:
            refuse(errno.ENOENT, "the directory has been removed")
        if moved.is_directory and self._is_below(to, moved.ino):
            refuse(errno.EINVAL)
        if other is not None and other.is_directory and self._is_below(directory, other.ino):
            refuse(errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY)
        if other is not None and other.ino == moved.ino:
            return Planned((), moved.ino)
        if flags & EXCHANGE and other is not None:
            return self._exchange(directory, name, moved, to, new_name, other, now_ns)
        if other is not None:
            self._may_replace(moved, other)
        return self._move(directory, name, moved, to, new_name, other, now_ns)

    def _may_replace(self, moved: Inode, other: Inode) -> None:
        if moved.is_directory and not other.is_directory:
            refuse(errno.ENOTDIR)
        if other.is_directory and not moved.is_directory:
            refuse(errno.EISDIR)
        if other.is_directory and self.state.entries(other.ino):
            refuse(errno.ENOTEMPTY)

    def _move(self, directory: int, name: bytes, moved: Inode, to: int, new_name: bytes, other: Inode | None, now_ns: int) -> Planned:
        apart = directory != to
        leaves = int(moved.is_directory and apart)
        replaced = int(other is not None and other.is_directory)
        if leaves and not replaced and self.inode(to).nlink >= LINKS_MAX:
            refuse(errno.EMLINK)
        changes: list[Change] = [DropEntry(directory, name)]
        if other is not None:
            changes += [DropEntry(to, new_name), *self._less(other, now_ns)]
        changes.append(PutEntry(to, new_name, moved.ino))
        changes.append(PutInode(_changed(moved, now_ns, parent=to if moved.is_directory else 0)))
        if apart:
            changes.append(PutInode(_touched(self.inode(directory), now_ns, links=-leaves)))
        changes.append(PutInode(_touched(self.inode(to), now_ns, links=leaves - replaced)))
        return Planned(tuple(changes), moved.ino)

    def _exchange(self, directory: int, name: bytes, moved: Inode, to: int, new_name: bytes, other: Inode, now_ns: int) -> Planned:
        changes: list[Change] = [PutEntry(directory, name, other.ino), PutEntry(to, new_name, moved.ino)]
        changes += [PutInode(_changed(one, now_ns, parent=where if one.is_directory else 0)) for one, where in ((moved, to), (other, directory))]
        more = (int(other.is_directory) - int(moved.is_directory)) if directory != to else 0
        if more and self.inode(directory if more > 0 else to).nlink >= LINKS_MAX:
            refuse(errno.EMLINK)
        changes.append(PutInode(_touched(self.inode(directory), now_ns, links=more)))
        if directory != to:
            changes.append(PutInode(_touched(self.inode(to), now_ns, links=-more)))
        return Planned(tuple(changes), moved.ino)

    def _is_below(self, ino: int, above: int) -> bool:
        """Return whether a directory is another, or below it. Raises EIO in a tree in which directories are in each other (check.py)."""
        for _ in range(len(self.state.inodes)):
            if ino in (above, ROOT):
                return ino == above
            ino = self.inode(ino).parent
        refuse(errno.EIO, f"the directory {ino} is in itself")

    # attributes

    def change(self, ino: int, wanted: Wanted, now_ns: int) -> Planned:
        """Change attributes. Raises EPERM for the mode of a symbolic link, EINVAL."""
        return Planned((PutInode(with_wanted(self.inode(ino), wanted, now_ns)),), ino)

    def set_xattr(self, ino: int, name: bytes, value: bytes, now_ns: int, *, flags: int = 0) -> Planned:
        """Set an extended attribute. Raises EEXIST and ENODATA as `flags` say, ERANGE, E2BIG, ENOSPC."""
        inode, there = self.inode(ino), self.state.xattrs(ino)
        if not name or len(name) > XATTR_NAME_BYTES_MAX:
            refuse(errno.ERANGE)
        if len(value) > XATTR_VALUE_BYTES_MAX:
            refuse(errno.E2BIG)
        if flags & XATTR_CREATE and name in there:
            refuse(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in there:
            refuse(errno.ENODATA)
        others = sum(len(one) + len(of) for one, of in there.items() if one != name)
        if others + len(name) + len(value) > XATTRS_BYTES_MAX:
            refuse(errno.ENOSPC)
        return Planned((PutXattr(ino, name, value), PutInode(_changed(inode, now_ns))), ino)

    def drop_xattr(self, ino: int, name: bytes, now_ns: int) -> Planned:
        """Take an extended attribute away. Raises ENODATA."""
        inode = self.inode(ino)
        if name not in self.state.xattrs(ino):
            refuse(errno.ENODATA)
        return Planned((DropXattr(ino, name), PutInode(_changed(inode, now_ns))), ino)


def with_wanted(inode: Inode, wanted: Wanted, now_ns: int) -> Inode:
    """Return an inode with what is wanted of it. Times beyond what there is room for are the last that there are. Raises EOPNOTSUPP."""
    if wanted.mode is not None and inode.is_link:
        refuse(errno.EOPNOTSUPP)
    mode = inode.mode if wanted.mode is None else stat.S_IFMT(inode.mode) | wanted.mode & PERMISSIONS
    if wanted.kill_suidgid and not inode.is_directory:
        mode = without_suidgid(mode)
    return _changed(
        inode,
        now_ns,
        mode=mode,
        uid=inode.uid if wanted.uid is None else wanted.uid,
        gid=inode.gid if wanted.gid is None else wanted.gid,
        atime_ns=inode.atime_ns if wanted.atime_ns is None else _bounded(wanted.atime_ns),
        mtime_ns=inode.mtime_ns if wanted.mtime_ns is None else _bounded(wanted.mtime_ns),
    )


def _bounded(time_ns: int) -> int:
    return max(-TIME_NS_MAX, min(TIME_NS_MAX, time_ns))


def without_suidgid(mode: int) -> int:
    """Return a mode that makes nobody somebody else: without set-user-id, and without set-group-id where a group may execute it."""
    return mode & ~stat.S_ISUID & ~(stat.S_ISGID if mode & stat.S_IXGRP else 0)


def _changed(inode: Inode, now_ns: int, **what: int) -> Inode:
    return msgspec.structs.replace(inode, ctime_ns=now_ns, version=inode.version + 1, **what)


def _touched(directory: Inode, now_ns: int, *, links: int = 0) -> Inode:
    """Return a directory in which names have changed; `links`: so many more directories are in it."""
    return _changed(directory, now_ns, mtime_ns=now_ns, nlink=directory.nlink + links)
