"""A small tree in memory that speaks FUSE: what the tests of the protocol mount. Locks are one table for all its mounts."""

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Any

from unios.fuse import abi, replies
from unios.fuse.abi import Op, Valid
from unios.fuse.channel import Channel, Unmounted
from unios.fuse.replies import Attributes, Kept, Listing, Statfs
from unios.fuse.requests import Request, op_name

EXCHANGE, NOREPLACE = 2, 1
MAX = (1 << 63) - 1


class Inode:
    def __init__(self, ino: int, mode: int) -> None:
        self.ino, self.mode, self.nlink, self.uid, self.gid, self.rdev = ino, mode, 1, 0, 0, 0
        self.atime = self.mtime = self.ctime = time.time_ns()
        self.data = bytearray()
        self.entries: dict[bytes, Inode] = {}
        self.xattrs: dict[bytes, bytes] = {}

    @property
    def attributes(self) -> Attributes:
        size = len(self.data)
        times = (self.atime, self.mtime, self.ctime)
        return Attributes(self.ino, self.mode, size, -(-size // 512), self.nlink, self.uid, self.gid, self.rdev, *times)


class Refused(OSError):
    """The errno that is to be answered."""

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))


class Tree:
    """The file system. `before`: is given each request first, and returns whether it has taken it."""

    def __init__(self, kept: Kept = replies.NOT_KEPT) -> None:
        self.kept = kept
        self.inodes = {abi.ROOT: Inode(abi.ROOT, stat.S_IFDIR | 0o755)}
        self.next = 2
        self.seen: set[str] = set()
        self.before: Callable[[Channel, Request], bool] = lambda _channel, _request: False
        self.locks: dict[int, list[tuple[int, int, int, tuple[int, int, bool]]]] = {}
        self.waiting: list[tuple[Channel, Request]] = []

    def serve(self, channel: Channel) -> None:
        """Until it is unmounted."""
        try:
            while (request := channel.read()) is not None:
                self.seen.add(op_name(request.op))
                if not self.before(channel, request):
                    self.one(channel, request)
        except Unmounted:
            return

    def one(self, channel: Channel, request: Request) -> None:
        action = getattr(self, f"on_{op_name(request.op).lower()}", None)
        try:
            parts = action(channel, request) if action else refuse(errno.ENOSYS)
        except OSError as error:
            channel.refuse(request, error.errno or errno.EIO)
        else:
            if parts is not None:
                channel.answer(request, *parts)

    def inode(self, request: Request) -> Inode:
        return self.inodes.get(request.node) or refuse(errno.ESTALE)

    def child(self, request: Request, name: bytes) -> Inode:
        if len(name) > 255:  # Linux itself lets longer ones through
            refuse(errno.ENAMETOOLONG)
        return self.inode(request).entries.get(name) or refuse(errno.ENOENT)

    def make(self, node: int, name: bytes, mode: int) -> Inode:
        directory = self.inodes[node]
        if name in directory.entries:
            refuse(errno.EEXIST)
        made = self.inodes[self.next] = Inode(self.next, mode)
        self.next += 1
        if name:
            directory.entries[name] = made
        return made

    def entry(self, inode: Inode) -> tuple[bytes]:
        return (replies.entry(inode.attributes, self.kept),)

    # names

    def on_lookup(self, _channel: Channel, request: Request) -> Any:
        return self.entry(self.child(request, request.body.name))

    def on_forget(self, *_: object) -> None:
        return None

    on_batch_forget = on_forget

    def on_mkdir(self, _channel: Channel, request: Request) -> Any:
        return self.entry(self.make(request.node, request.body.name, stat.S_IFDIR | request.body.mode))

    def on_mknod(self, _channel: Channel, request: Request) -> Any:
        made = self.make(request.node, request.body.name, request.body.mode)
        made.rdev = request.body.rdev
        return self.entry(made)

    def on_symlink(self, _channel: Channel, request: Request) -> Any:
        made = self.make(request.node, request.body.name, stat.S_IFLNK | 0o777)
        made.data[:] = request.body.target
        return self.entry(made)

    def on_readlink(self, _channel: Channel, request: Request) -> Any:
        return (bytes(self.inode(request).data),)

    def on_link(self, _channel: Channel, request: Request) -> Any:
        linked = self.inodes[request.body.linked]
        self.inodes[request.node].entries[request.body.name] = linked
        linked.nlink += 1
        return self.entry(linked)

    def on_unlink(self, _channel: Channel, request: Request) -> Any:
        self.child(request, request.body.name).nlink -= 1
        del self.inode(request).entries[request.body.name]
        return ()

    def on_rmdir(self, _channel: Channel, request: Request) -> Any:
        if self.child(request, request.body.name).entries:
            refuse(errno.ENOTEMPTY)
        return self.on_unlink(_channel, request)

    def on_rename(self, _channel: Channel, request: Request) -> Any:
        body = request.body
        here, there = self.inode(request).entries, self.inodes[body.directory].entries
        if body.flags & EXCHANGE:
            here[body.name], there[body.new_name] = there[body.new_name], here[body.name]
        elif body.flags & NOREPLACE and body.new_name in there:
            refuse(errno.EEXIST)
        else:
            there[body.new_name] = here.pop(body.name)
        return ()

    on_rename2 = on_rename

    # attributes

    def on_getattr(self, _channel: Channel, request: Request) -> Any:
        return (replies.attributes_kept(self.inode(request).attributes, self.kept),)

    def on_setattr(self, _channel: Channel, request: Request) -> Any:
        inode, body = self.inode(request), request.body
        now = time.time_ns()
        if body.valid & Valid.SIZE:
            inode.data[:] = inode.data[: body.size].ljust(body.size, b"\0")
        if body.valid & Valid.MODE:
            inode.mode = body.mode
        if body.valid & Valid.UID:
            inode.uid = body.uid
        if body.valid & Valid.GID:
            inode.gid = body.gid
        if body.valid & Valid.ATIME:
            inode.atime = now if body.valid & Valid.ATIME_NOW else body.atime_ns
        if body.valid & Valid.MTIME:
            inode.mtime = now if body.valid & Valid.MTIME_NOW else body.mtime_ns
        return (replies.attributes_kept(inode.attributes, self.kept),)

    def on_setxattr(self, _channel: Channel, request: Request) -> Any:
        xattrs, body = self.inode(request).xattrs, request.body
        if body.flags == os.XATTR_CREATE and body.name in xattrs:
            refuse(errno.EEXIST)
        if body.flags == os.XATTR_REPLACE and body.name not in xattrs:
            refuse(errno.ENODATA)
        xattrs[body.name] = body.value
        return ()

    def on_getxattr(self, _channel: Channel, request: Request) -> Any:
        value = self.inode(request).xattrs.get(request.body.name)
        return sized(refuse(errno.ENODATA) if value is None else value, request.body.size)

    def on_listxattr(self, _channel: Channel, request: Request) -> Any:
        return sized(replies.names(self.inode(request).xattrs), request.body.size)

    def on_removexattr(self, _channel: Channel, request: Request) -> Any:
        if self.inode(request).xattrs.pop(request.body.name, None) is None:
            refuse(errno.ENODATA)
        return ()

    def on_statfs(self, *_: object) -> Any:
        return (replies.statfs(Statfs(1_000, 600, 500, 100, 50)),)

    # data

    def on_create(self, _channel: Channel, request: Request) -> Any:
        return (replies.created(self.make(request.node, request.body.name, request.body.mode).attributes, 7, self.kept, flags=abi.Opened.KEEP_CACHE),)

    on_tmpfile = on_create

    def on_open(self, _channel: Channel, _request: Request) -> Any:
        return (replies.opened(7, abi.Opened.KEEP_CACHE),)

    on_opendir = on_open

    def on_read(self, channel: Channel, request: Request) -> Any:
        with memoryview(self.inode(request).data) as data:
            channel.answer(request, data[request.body.offset : request.body.offset + request.body.size])

    def on_write(self, _channel: Channel, request: Request) -> Any:
        data, body = self.inode(request).data, request.body
        data.extend(bytes(max(0, body.offset - len(data))))
        data[body.offset : body.offset + len(body.data)] = body.data
        return (replies.written(len(body.data)),)

    def on_lseek(self, _channel: Channel, request: Request) -> Any:
        size = len(self.inode(request).data)
        if request.body.offset >= size:
            refuse(errno.ENXIO)
        return (replies.sought(request.body.offset if request.body.whence == os.SEEK_DATA else size),)

    def on_fallocate(self, _channel: Channel, request: Request) -> Any:
        data, body = self.inode(request).data, request.body
        data.extend(bytes(max(0, body.offset + body.length - len(data))))
        return ()

    def on_copy_file_range(self, _channel: Channel, request: Request) -> Any:
        body, to = request.body, self.inodes[request.body.to_node].data
        part = self.inode(request).data[body.offset : body.offset + body.length]
        to[body.to_offset : body.to_offset + len(part)] = part
        return (replies.written(len(part)),)

    def on_fsync(self, *_: object) -> Any:
        return ()

    on_fsyncdir = on_releasedir = on_access = on_destroy = on_syncfs = on_fsync

    def on_readdir(self, _channel: Channel, request: Request) -> Any:
        listing = Listing(request.body.size, plus=request.op == Op.READDIRPLUS)
        own = self.inode(request)
        entries = [(b".", own), (b"..", own), *own.entries.items()]
        for at in range(request.body.offset, len(entries)):
            name, inode = entries[at]
            if not listing.add(name, inode.attributes, at + 1, self.kept, known=at > 1):
                break
        return (bytes(listing),)

    on_readdirplus = on_readdir

    # locks

    def conflict(self, node: int, start: int, end: int, kind: int, owner: tuple[int, int, bool]) -> tuple[int, int, int, Any] | None:
        held = self.locks.get(node, [])
        return next(
            (one for one in held if one[3] != owner and one[3][2] == owner[2] and one[0] <= end and start <= one[1] and (kind or one[2])), None
        )

    def free(self, node: int, owner: tuple[int, int, bool], start: int = 0, end: int = MAX) -> None:
        kept = []
        for a, z, kind, who in self.locks.get(node, []):
            if who != owner:
                kept.append((a, z, kind, who))
            else:
                kept += [(a, start - 1, kind, who)] if a < start else []
                kept += [(end + 1, z, kind, who)] if end < z else []
        self.locks[node] = kept
        waiting, self.waiting = self.waiting, []
        for channel, request in waiting:
            if request.node == node:
                self.one(channel, request)
            else:
                self.waiting.append((channel, request))

    def on_setlk(self, channel: Channel, request: Request) -> Any:
        body = request.body
        owner = (channel.descriptor, body.owner, body.flock)
        if body.kind == 2:
            self.free(request.node, owner, body.start, body.end)
            return ()
        if self.conflict(request.node, body.start, body.end, body.kind, owner):
            if request.op == Op.SETLK:
                refuse(errno.EAGAIN)
            self.waiting.append((channel, request))
            return None
        self.locks.setdefault(request.node, []).append((body.start, body.end, body.kind, owner))
        return ()

    on_setlkw = on_setlk

    def on_getlk(self, channel: Channel, request: Request) -> Any:
        body = request.body
        found = self.conflict(request.node, body.start, body.end, body.kind, (channel.descriptor, body.owner, False))
        return (replies.lock(*found[:3], 4711) if found else replies.lock(body.start, body.end, 2, 0),)

    def on_interrupt(self, _channel: Channel, request: Request) -> None:
        for waiting in [one for one in self.waiting if one[1].number == request.body.number]:
            self.waiting.remove(waiting)
            waiting[0].refuse(waiting[1], errno.EINTR)

    def on_flush(self, channel: Channel, request: Request) -> Any:
        self.free(request.node, (channel.descriptor, request.body.lock_owner, False))
        return ()

    def on_release(self, channel: Channel, request: Request) -> Any:
        if request.body.flock:
            self.free(request.node, (channel.descriptor, request.body.lock_owner, True))
        return ()


def sized(value: bytes, size: int) -> tuple[bytes]:
    if size and size < len(value):
        refuse(errno.ERANGE)
    return (value if size else replies.xattr_size(len(value)),)


def refuse(number: int) -> Any:
    raise Refused(number)
