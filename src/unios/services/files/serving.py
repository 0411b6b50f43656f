"""Serving: what Linux asks of one mount, done to the volume. One thread reads and answers; what has to wait for blocks, the log or a lock is answered later.

`answer` and `refuse` of the mount may be called from any thread. An operation is in the journal before it is answered; one that comes again after a
predecessor's end, and was done, is not done again (Volume.done).
"""

import contextlib
import errno
import os
import stat
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, Protocol

from unios.core.files import data as bytes_of
from unios.core.files.inode import Inode, Owner
from unios.core.files.tree import DOTS, FileError, Planned, Wanted, refuse
from unios.fuse import replies
from unios.fuse.abi import Op, Valid
from unios.fuse.channel import Unmounted
from unios.fuse.replies import Attributes, Kept, Listing, Statfs
from unios.fuse.requests import Request
from unios.services.files.knowing import Knowing
from unios.services.files.listings import Listings
from unios.services.files.locking import Locking
from unios.services.files.volume import NeedBlocks, Volume

ALLOCATE_KEEP_SIZE: Final = 1
ALLOCATE_PUNCH: Final = 2
ALLOCATE_ZERO: Final = 16
TMPFILE: Final = 51
OPEN_KILL_SUIDGID: Final = 1
NAMESPACES: Final = (b"user.", b"trusted.", b"security.")
"""Of extended attributes; `system.` are access lists, which there are none of."""
SECOND: Final = 512
Parts = tuple[bytes | memoryview, ...] | None
"""What is answered; None: later, or never."""


class Mount(Protocol):
    """One mount of the tree. `number` names it; `kept`: for how long its Linux may keep what it is told."""

    number: int
    kept: Kept
    open_flags: int
    knowing: Knowing

    def answer(self, request: Request, *parts: bytes | memoryview) -> None: ...

    def refuse(self, request: Request, number: int) -> None: ...

    def opens(self, ino: int, flags: int) -> None:
        """A file was opened there, with the flags of open(2); `closes`: it is closed."""

    def closes(self, ino: int, flags: int) -> None: ...


class News(Protocol):
    """What mounts are being told."""

    def when_told(self, then: Callable[[], None]) -> None:
        """Call `then` when they have been."""


class Around(Protocol):
    """What is beside the volume."""

    def fetch(self, blocks: tuple[bytes, ...], then: Callable[[OSError | None], None]) -> None:
        """Bring blocks to the stage, and call `then` in another thread."""

    def sync(self, ino: int, then: Callable[[OSError | None], None]) -> None:
        """Have a file, and all that was done before, on the promised disks (ino 0: only that)."""

    def is_full(self) -> bool:
        """Whether so much is under way that what changes something has to wait."""

    def when_room(self, then: Callable[[], None]) -> None: ...

    def changed(self, mount: Mount, names: tuple[tuple[int, bytes], ...], inodes: tuple[int, ...]) -> None:
        """What other mounts may keep of these is not so any more: they are told."""

    def news(self) -> "News | None":
        """Return, once, what the operation that was just done has told; the volume's lock is held."""

    def free_bytes(self) -> tuple[int, int, int]:
        """(all, free, for those who are not root) of the disks."""


CHANGING: Final = frozenset(
    {
        Op.SETATTR, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.RENAME2, Op.LINK, Op.WRITE, Op.SETXATTR, Op.REMOVEXATTR,
        Op.CREATE, Op.FALLOCATE, TMPFILE,
    }
)  # fmt: skip


class NeedSync(Exception):
    """A file has to be synced before, and the operation tried again."""

    def __init__(self, ino: int) -> None:
        super().__init__("a file has to be synced")
        self.ino = ino


class Serving:
    """Serves requests of mounts with one volume."""

    def __init__(self, volume: Volume, around: Around) -> None:
        self.volume, self._around = volume, around
        self.locking = Locking(volume, self._again)
        self._table: dict[int, Callable[[Mount, Request], Parts]] = {
            op: action for op in Op if (action := getattr(self, f"_{op.name.lower()}", None)) is not None
        }
        self._table[Op.RENAME2] = self._rename
        self._table[Op.READDIRPLUS] = self._readdir
        self._table[Op.SETLKW] = self._setlk
        self._table[TMPFILE] = self._tmpfile
        self._listings = Listings()

    def one(self, mount: Mount, request: Request) -> None:
        """Do what is asked, and answer it, now or later. Raises unios.fuse.channel.Unmounted."""
        action = self._table.get(request.op)
        if action is None:
            mount.refuse(request, errno.ENOSYS)
            return
        if request.op in CHANGING and self._around.is_full():
            kept = lasting(request)
            self._around.when_room(lambda: self.one(mount, kept))
            return
        try:
            with self.volume.lock:
                parts = self._repeated(mount, request)
                if parts is None:
                    parts = action(mount, request)
                news = self._around.news()
        except FileError as error:
            mount.refuse(request, error.errno)
        except NeedBlocks as needed:
            self._around.fetch(needed.blocks, self._when_fetched(mount, lasting(request)))
        except NeedSync as needed:
            self._around.sync(needed.ino, self._when_fetched(mount, lasting(request)))
        except OSError as error:
            mount.refuse(request, error.errno or errno.EIO)
        except Exception:  # noqa: BLE001 a defect: whoever asked is told, the others go on
            traceback.print_exc()
            mount.refuse(request, errno.EIO)
        else:
            if parts is None:
                return
            if news is None or is_kept_back(request):
                mount.answer(request, *parts)
            else:
                news.when_told(lambda: mount.answer(request, *parts))

    def _again(self, mount: Any, request: Request) -> None:
        with contextlib.suppress(Unmounted):  # that mount: whoever is served now has another
            self.one(mount, request)

    def _when_fetched(self, mount: Mount, request: Request) -> Callable[[OSError | None], None]:
        def then(error: OSError | None) -> None:
            if error is not None:
                mount.refuse(request, error.errno or errno.EIO)
            else:
                self.one(mount, request)

        return then

    def _repeated(self, mount: Mount, request: Request) -> Parts:
        """Return the answer to what was done before, None if it was not."""
        done = self.volume.done.get((mount.number, request.number))
        if done is None:
            return None
        if request.op in (Op.MKNOD, Op.MKDIR, Op.SYMLINK, Op.LINK):
            return self._entry(mount, self.volume.tree.inode(done.ino))
        if request.op in (Op.CREATE, TMPFILE):
            return self._created(mount, self.volume.tree.inode(done.ino))
        if request.op == Op.WRITE:  # with O_APPEND
            return (replies.written(len(request.body.data)),)
        if request.op == Op.SETATTR:
            return self._getattr(mount, request)
        if request.op == Op.OPEN:  # with O_TRUNC
            return self._opened(mount, request)
        return ()

    # answers

    def _attributes(self, inode: Inode) -> Attributes:
        blocks = -(-self.volume.state.stored_bytes(inode.ino) // SECOND)
        return Attributes(
            inode.ino, inode.mode, inode.size, blocks, inode.nlink, inode.uid, inode.gid, inode.rdev, inode.atime_ns, inode.mtime_ns, inode.ctime_ns
        )

    def _entry(self, mount: Mount, inode: Inode) -> Parts:
        mount.knowing.knows(inode.ino)
        return (replies.entry(self._attributes(inode), mount.kept),)

    def _created(self, mount: Mount, inode: Inode) -> Parts:
        mount.knowing.knows(inode.ino)
        return (replies.created(self._attributes(inode), 0, mount.kept, flags=mount.open_flags),)

    def _opened(self, mount: Mount, request: Request) -> Parts:
        mount.opens(request.node, request.body.flags)
        return (replies.opened(0, mount.open_flags),)

    def _commit(self, mount: Mount, request: Request, planned: Planned, *names: tuple[int, bytes], inodes: tuple[int, ...] = ()) -> Inode | None:
        ino = self.volume.commit(planned, (mount.number, request.number))
        self._around.changed(mount, names, inodes)
        return self.volume.state.inodes.get(ino)

    # names

    def _lookup(self, mount: Mount, request: Request) -> Parts:
        tree, name = self.volume.tree, request.body.name
        try:
            return self._entry(mount, tree.lookup(request.node, name))
        except FileError as error:
            if error.errno == errno.ENOENT and mount.kept.entry_ms:
                return (replies.no_entry(mount.kept.entry_ms),)
            raise

    def _forget(self, mount: Mount, request: Request) -> Parts:
        for ino, count in request.body.nodes:
            if mount.knowing.forgets(ino, count):
                self.volume.released(ino)
        return None

    _batch_forget = _forget

    def _make(self, mount: Mount, request: Request, mode: int, **more: Any) -> Inode:
        owner = Owner(request.uid, request.gid)
        planned = self.volume.tree.make(request.node, request.body.name, mode, owner, time.time_ns(), **more)
        made = self._commit(mount, request, planned, (request.node, request.body.name))
        assert made is not None
        return made

    def _mkdir(self, mount: Mount, request: Request) -> Parts:
        return self._entry(mount, self._make(mount, request, stat.S_IFDIR | request.body.mode & 0o7777))

    def _mknod(self, mount: Mount, request: Request) -> Parts:
        body = request.body
        mode = body.mode if stat.S_IFMT(body.mode) else stat.S_IFREG | body.mode
        return self._entry(mount, self._make(mount, request, mode, rdev=body.rdev))

    def _symlink(self, mount: Mount, request: Request) -> Parts:
        return self._entry(mount, self._make(mount, request, stat.S_IFLNK | 0o777, target=request.body.target))

    def _readlink(self, _mount: Mount, request: Request) -> Parts:
        inode = self.volume.tree.inode(request.node)
        return (inode.target,) if inode.is_link else refuse(errno.EINVAL)

    def _create(self, mount: Mount, request: Request) -> Parts:
        if not request.body.flags & os.O_EXCL and request.body.name in self.volume.state.entries(request.node):
            refuse(errno.ESTALE)  # by another mount, since this one looked: Linux looks again, and opens what is there
        made = self._make(mount, request, stat.S_IFREG | request.body.mode & 0o7777)
        mount.opens(made.ino, request.body.flags)
        return self._created(mount, made)

    def _tmpfile(self, mount: Mount, request: Request) -> Parts:
        planned = self.volume.tree.make_nameless(
            request.node, stat.S_IFREG | request.body.mode & 0o7777, Owner(request.uid, request.gid), time.time_ns()
        )
        made = self._commit(mount, request, planned)
        assert made is not None
        mount.opens(made.ino, request.body.flags)
        return self._created(mount, made)

    def _link(self, mount: Mount, request: Request) -> Parts:
        body = request.body
        planned = self.volume.tree.link(body.linked, request.node, body.name, time.time_ns())
        made = self._commit(mount, request, planned, (request.node, body.name), inodes=(body.linked,))
        assert made is not None
        return self._entry(mount, made)

    def _unlink(self, mount: Mount, request: Request) -> Parts:
        planned = self.volume.tree.unlink(request.node, request.body.name, time.time_ns())
        self._commit(mount, request, planned, (request.node, request.body.name), inodes=(planned.ino,))
        return ()

    def _rmdir(self, mount: Mount, request: Request) -> Parts:
        planned = self.volume.tree.rmdir(request.node, request.body.name, time.time_ns())
        self._commit(mount, request, planned, (request.node, request.body.name), inodes=(planned.ino,))
        return ()

    def _rename(self, mount: Mount, request: Request) -> Parts:
        body, tree = request.body, self.volume.tree
        replaced = self.volume.state.entries(body.directory).get(body.new_name, 0)
        planned = tree.rename(request.node, body.name, body.directory, body.new_name, time.time_ns(), flags=body.flags)
        if replaced and self.volume.patch(planned.ino) is None:
            raise NeedSync(planned.ino)  # else whoever takes the log over has neither the old bytes under that name, nor the new ones
        self._commit(
            mount,
            request,
            planned,
            (request.node, body.name),
            (body.directory, body.new_name),
            inodes=(planned.ino, *((replaced,) if replaced else ())),
        )
        return ()

    # attributes

    def _getattr(self, mount: Mount, request: Request) -> Parts:
        return (replies.attributes_kept(self._attributes(self.volume.tree.inode(request.node)), mount.kept),)

    def _setattr(self, mount: Mount, request: Request) -> Parts:
        body, tree, now = request.body, self.volume.tree, time.time_ns()
        valid = body.valid
        wanted = Wanted(
            body.mode if valid & Valid.MODE else None,
            body.uid if valid & Valid.UID else None,
            body.gid if valid & Valid.GID else None,
            (now if valid & Valid.ATIME_NOW else body.atime_ns) if valid & Valid.ATIME else None,
            (now if valid & Valid.MTIME_NOW else body.mtime_ns) if valid & Valid.MTIME else None,
            bool(valid & Valid.KILL_SUIDGID) or (not valid & ~Valid.FH and request.uid != 0),
        )
        planned = bytes_of.cut(tree, request.node, body.size, now, wanted) if valid & Valid.SIZE else tree.change(request.node, wanted, now)
        inode = self._commit(mount, request, planned, inodes=(request.node,))
        assert inode is not None
        return (replies.attributes_kept(self._attributes(inode), mount.kept),)

    def _setxattr(self, mount: Mount, request: Request) -> Parts:
        body = request.body
        if not body.name.startswith(NAMESPACES):
            refuse(errno.EOPNOTSUPP)
        if body.name in NAMESPACES:
            refuse(errno.EINVAL)
        planned = self.volume.tree.set_xattr(request.node, body.name, bytes(body.value), time.time_ns(), flags=body.flags)
        self._commit(mount, request, planned, inodes=(request.node,))
        return ()

    def _removexattr(self, mount: Mount, request: Request) -> Parts:
        self._commit(mount, request, self.volume.tree.drop_xattr(request.node, request.body.name, time.time_ns()), inodes=(request.node,))
        return ()

    def _getxattr(self, _mount: Mount, request: Request) -> Parts:
        self.volume.tree.inode(request.node)
        value = self.volume.state.xattrs(request.node).get(request.body.name)
        return _sized(refuse(errno.ENODATA) if value is None else value, request.body.size)

    def _listxattr(self, _mount: Mount, request: Request) -> Parts:
        self.volume.tree.inode(request.node)
        return _sized(replies.names(self.volume.state.xattrs(request.node)), request.body.size)

    def _statfs(self, _mount: Mount, _request: Request) -> Parts:
        whole, free, available = self._around.free_bytes()
        inodes = len(self.volume.state.inodes)
        return (replies.statfs(Statfs(whole // 4096, free // 4096, available // 4096, inodes + (1 << 32), 1 << 32)),)

    # data

    def _open(self, mount: Mount, request: Request) -> Parts:
        bytes_of.regular(self.volume.tree, request.node)
        if request.body.flags & os.O_TRUNC:
            wanted = Wanted(kill_suidgid=bool(request.body.open_flags & OPEN_KILL_SUIDGID))
            self._commit(mount, request, bytes_of.cut(self.volume.tree, request.node, 0, time.time_ns(), wanted), inodes=(request.node,))
        return self._opened(mount, request)

    def _read(self, _mount: Mount, request: Request) -> Parts:
        return tuple(self.volume.read(request.node, request.body.offset, request.body.size))

    def _write(self, mount: Mount, request: Request) -> Parts:
        body = request.body
        append = bool(body.flags & os.O_APPEND) and not body.kept_back
        done = (mount.number, request.number) if append else None  # anything else may be written twice
        count = self.volume.write(request.node, body.offset, body.data, time.time_ns(), kill_suidgid=body.kill_suidgid, append=append, done=done)
        self._around.changed(mount, (), (request.node,))
        return (replies.written(count),)

    def _fallocate(self, mount: Mount, request: Request) -> Parts:
        body, now, kills = request.body, time.time_ns(), request.uid != 0
        keep_size = bool(body.mode & ALLOCATE_KEEP_SIZE)
        if body.mode == ALLOCATE_PUNCH | ALLOCATE_KEEP_SIZE:
            self.volume.punch(request.node, body.offset, body.length, now, kill_suidgid=kills)
        elif body.mode & ~ALLOCATE_KEEP_SIZE == ALLOCATE_ZERO:
            inode = bytes_of.regular(self.volume.tree, request.node)
            if inode.size > body.offset:
                self.volume.punch(request.node, body.offset, min(body.length, inode.size - body.offset), now, kill_suidgid=kills)
            self._allocate(mount, request, now, keep_size=keep_size, kill_suidgid=kills)
        elif body.mode & ~ALLOCATE_KEEP_SIZE == 0:
            self._allocate(mount, request, now, keep_size=keep_size, kill_suidgid=kills)
        else:
            refuse(errno.EOPNOTSUPP)
        self._around.changed(mount, (), (request.node,))
        return ()

    def _allocate(self, mount: Mount, request: Request, now: int, *, keep_size: bool, kill_suidgid: bool) -> None:
        body = request.body
        planned = bytes_of.allocate(self.volume.tree, request.node, body.offset, body.length, now, keep_size=keep_size, kill_suidgid=kill_suidgid)
        self._commit(mount, request, planned)

    def _lseek(self, _mount: Mount, request: Request) -> Parts:
        return (replies.sought(bytes_of.seek(self.volume.tree, request.node, request.body.offset, request.body.whence)),)

    def _fsync(self, mount: Mount, request: Request) -> Parts:
        self.volume.tree.inode(request.node)
        kept = lasting(request)

        def then(error: OSError | None) -> None:
            with contextlib.suppress(Unmounted):  # others wait for the same
                if error is not None:
                    mount.refuse(kept, error.errno or errno.EIO)
                else:
                    mount.answer(kept)

        self._around.sync(request.node, then)
        return None

    _fsyncdir = _syncfs = _fsync

    def _flush(self, mount: Mount, request: Request) -> Parts:
        if request.node in self.volume.state.inodes:
            self.volume.patch(request.node)  # what little was written is in the log with the next things; much in some seconds
        self.locking.closed(request.node, mount.number, request.body.lock_owner, whole=False)
        return ()

    def _release(self, mount: Mount, request: Request) -> Parts:
        mount.closes(request.node, request.body.flags)
        if request.body.flock:
            self.locking.closed(request.node, mount.number, request.body.lock_owner, whole=True)
        return ()

    # listings

    def _opendir(self, _mount: Mount, request: Request) -> Parts:
        self.volume.tree.directory(request.node)
        return (replies.opened(self._listings.open()),)

    def _releasedir(self, _mount: Mount, request: Request) -> Parts:
        self._listings.close(request.body.fh)
        return ()

    def _readdir(self, mount: Mount, request: Request) -> Parts:
        body, inodes = request.body, self.volume.state.inodes
        self.volume.tree.directory(request.node)
        plus = request.op == Op.READDIRPLUS
        listing = Listing(body.size, plus=plus)
        for name, ino, cookie in self._listings.read(body.fh, self.volume.state, request.node, body.offset):
            known = name not in DOTS
            if (inode := inodes.get(ino)) is None:
                continue
            if not listing.add(name, self._attributes(inode), cookie, mount.kept, known=known):
                break
            if plus and known:
                mount.knowing.knows(ino)
        return (bytes(listing),)

    # locks

    def _setlk(self, mount: Mount, request: Request) -> Parts:
        self.volume.tree.inode(request.node)
        return self.locking.set(mount, request, waits=request.op == Op.SETLKW)

    def _getlk(self, mount: Mount, request: Request) -> Parts:
        return self.locking.get(mount, request)

    def _interrupt(self, mount: Mount, request: Request) -> Parts:
        self.locking.interrupt(mount, request.body.number)
        return None

    def _destroy(self, _mount: Mount, _request: Request) -> Parts:
        return ()


def _sized(value: bytes, size: int) -> Parts:
    if not size:
        return (replies.xattr_size(len(value)),)
    return (value,) if len(value) <= size else refuse(errno.ERANGE)


def lasting(request: Request) -> Request:
    """Return a request that stays as it is when the next one is read."""
    body = request.body
    data = getattr(body, "data", None)
    if isinstance(data, memoryview):
        body = body._replace(data=memoryview(bytes(data)))
    return Request(request.op, request.unique, request.node, request.uid, request.gid, request.pid, body)


def is_kept_back(request: Request) -> bool:
    """Return whether Linux writes pages back: it may do so because it was told something, which waits for the answer."""
    return request.op == Op.WRITE and bool(request.body.kept_back)
