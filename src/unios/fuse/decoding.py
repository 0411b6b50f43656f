"""Makes requests of the bytes that come from /dev/fuse. Pure: one message in, one Request out, or Malformed."""

import struct
from collections.abc import Callable
from typing import Any, Final

from unios.fuse import abi
from unios.fuse.abi import Op
from unios.fuse.requests import (
    Access,
    CopyFileRange,
    Create,
    Fallocate,
    Flush,
    Forget,
    Fsync,
    Getattr,
    Getxattr,
    Init,
    Interrupt,
    Ioctl,
    Link,
    Lock,
    Lseek,
    Malformed,
    Mkdir,
    Mknod,
    Name,
    Nothing,
    Open,
    Read,
    Release,
    Rename,
    Request,
    Setattr,
    Setxattr,
    Statx,
    Symlink,
    Write,
    op_name,
)

COPY_BYTES_MAX: Final = 0x7FFFF000
"""What one system call of Linux copies at most; the answer has no room for more than 4 GiB."""
SECOND: Final = 1_000_000_000
_NOTHING: Final = Nothing()


def decode(message: memoryview) -> Request:
    """Return the request that a message is: all of what one read of /dev/fuse gave. Raises Malformed."""
    if len(message) < abi.IN_HEADER.size:
        raise Malformed(f"it has {len(message)} bytes")
    length, op, unique, node, uid, gid, pid, extensions, _padding = abi.IN_HEADER.unpack_from(message)
    if length != len(message):
        raise Malformed(f"it says that it has {length} bytes, and has {len(message)}", unique)
    end = length - 8 * extensions
    if end < abi.IN_HEADER.size:
        raise Malformed(f"it says that {extensions * 8} of its {length} bytes are extensions", unique)
    reader = _READERS.get(op)
    try:
        body = _NOTHING if reader is None else reader(message[abi.IN_HEADER.size : end], node)
    except struct.error as error:
        raise Malformed(f"it is too short for {op_name(op)}: {error}", unique) from None
    except _Wrong as error:
        raise Malformed(f"{error} in {op_name(op)}", unique) from None
    return Request(op, unique, node, uid, gid, pid, body)


class _Wrong(Exception):
    """Why a body is none."""


def _names(data: memoryview, count: int) -> list[bytes]:
    """Return so many names, each ended by a zero byte; nothing may follow."""
    found = bytes(data).split(b"\0")
    if len(found) != count + 1 or found[-1] or not all(found[:-1]):
        raise _Wrong(f"{count} names are not there")
    return found[:-1]


def _entry(data: memoryview) -> bytes:
    """Return one name of an entry of a directory."""
    (name,) = _names(data, 1)
    return _plain(name)


def _plain(name: bytes) -> bytes:
    if b"/" in name:
        raise _Wrong("a name with a slash")
    return name


def _name_only(data: memoryview, _node: int) -> Name:
    return Name(_entry(data))


def _attribute_only(data: memoryview, _node: int) -> Name:
    return Name(*_names(data, 1))


def _forget(data: memoryview, node: int) -> Forget:
    return Forget(((node, abi.FORGET_IN.unpack_from(data)[0]),))


def _forget_many(data: memoryview, _node: int) -> Forget:
    count, _dummy = abi.BATCH_FORGET_IN.unpack_from(data)
    rest = data[abi.BATCH_FORGET_IN.size :]
    if len(rest) != count * abi.FORGET_ONE.size:
        raise _Wrong(f"{count} nodes are not there")
    return Forget(tuple(abi.FORGET_ONE.iter_unpack(rest)))


def _getattr(data: memoryview, _node: int) -> Getattr:
    flags, _dummy, fh = abi.GETATTR_IN.unpack_from(data)
    return Getattr(fh if flags & abi.GETATTR_FH else None)


def _setattr(data: memoryview, _node: int) -> Setattr:
    valid, _, fh, size, owner, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(data)
    times = (_time(atime, atime_ns), _time(mtime, mtime_ns), _time(ctime, ctime_ns))
    return Setattr(valid, fh, size, owner, *times, mode, uid, gid)


def _time(seconds: int, nanoseconds: int) -> int:
    """Seconds are signed, though the layout says otherwise: there was time before 1970."""
    if nanoseconds >= SECOND:
        raise _Wrong(f"{nanoseconds} ns")
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * SECOND + nanoseconds


def _symlink(data: memoryview, _node: int) -> Symlink:
    name, target = _names(data, 2)
    return Symlink(_plain(name), target)


def _mknod(data: memoryview, _node: int) -> Mknod:
    mode, rdev, umask, _padding = abi.MKNOD_IN.unpack_from(data)
    return Mknod(_entry(data[abi.MKNOD_IN.size :]), mode, rdev, umask)


def _mkdir(data: memoryview, _node: int) -> Mkdir:
    mode, umask = abi.MKDIR_IN.unpack_from(data)
    return Mkdir(_entry(data[abi.MKDIR_IN.size :]), mode, umask)


def _rename(data: memoryview, _node: int) -> Rename:
    (directory,) = abi.RENAME_IN.unpack_from(data)
    name, new_name = map(_plain, _names(data[abi.RENAME_IN.size :], 2))
    return Rename(name, directory, new_name, 0)


def _rename2(data: memoryview, _node: int) -> Rename:
    directory, flags, _padding = abi.RENAME2_IN.unpack_from(data)
    name, new_name = map(_plain, _names(data[abi.RENAME2_IN.size :], 2))
    return Rename(name, directory, new_name, flags)


def _link(data: memoryview, _node: int) -> Link:
    (linked,) = abi.LINK_IN.unpack_from(data)
    return Link(linked, _entry(data[abi.LINK_IN.size :]))


def _open(data: memoryview, _node: int) -> Open:
    return Open(*abi.OPEN_IN.unpack_from(data))


def _create(data: memoryview, _node: int) -> Create:
    flags, mode, umask, open_flags = abi.CREATE_IN.unpack_from(data)
    return Create(_entry(data[abi.CREATE_IN.size :]), flags, mode, umask, open_flags)


def _tmpfile(data: memoryview, _node: int) -> Create:
    """The name that comes with it is a placeholder with a slash in it: the file has none."""
    flags, mode, umask, open_flags = abi.CREATE_IN.unpack_from(data)
    return Create(b"", flags, mode, umask, open_flags)


def _read(data: memoryview, _node: int) -> Read:
    fh, offset, size, _read_flags, _owner, flags, _padding = abi.READ_IN.unpack_from(data)
    return Read(fh, offset, size, flags)


def _write(data: memoryview, _node: int) -> Write:
    fh, offset, size, write_flags, owner, flags, _padding = abi.WRITE_IN.unpack_from(data)
    given = data[abi.WRITE_IN.size :]
    if len(given) != size:
        raise _Wrong(f"{len(given)} of {size} bytes of data")
    return Write(fh, offset, given, owner, flags, bool(write_flags & abi.WRITE_CACHE), bool(write_flags & abi.WRITE_KILL_SUIDGID))


def _release(data: memoryview, _node: int) -> Release:
    fh, flags, release_flags, owner = abi.RELEASE_IN.unpack_from(data)
    return Release(fh, flags, owner, bool(release_flags & abi.RELEASE_FLOCK_UNLOCK))


def _flush(data: memoryview, _node: int) -> Flush:
    fh, _unused, _padding, owner = abi.FLUSH_IN.unpack_from(data)
    return Flush(fh, owner)


def _fsync(data: memoryview, _node: int) -> Fsync:
    fh, flags, _padding = abi.FSYNC_IN.unpack_from(data)
    return Fsync(fh, bool(flags & abi.FSYNC_FDATASYNC))


def _setxattr(data: memoryview, _node: int) -> Setxattr:
    size, flags, _more, _padding = abi.SETXATTR_IN.unpack_from(data)
    name, zero, value = bytes(data[abi.SETXATTR_IN.size :]).partition(b"\0")
    if not name or not zero or len(value) != size:
        raise _Wrong(f"{len(value)} of {size} bytes of a value")
    return Setxattr(name, value, flags)


def _getxattr(data: memoryview, _node: int) -> Getxattr:
    size, _padding = abi.GETXATTR_IN.unpack_from(data)
    (name,) = _names(data[abi.GETXATTR_IN.size :], 1)
    return Getxattr(name, size)


def _listxattr(data: memoryview, _node: int) -> Getxattr:
    return Getxattr(b"", abi.GETXATTR_IN.unpack_from(data)[0])


def _lock(data: memoryview, _node: int) -> Lock:
    fh, owner, start, end, kind, pid, flags, _padding = abi.LK_IN.unpack_from(data)
    if kind > 2 or start > end:
        raise _Wrong(f"a lock of kind {kind} from {start} to {end}")
    return Lock(fh, owner, start, end, kind, pid, bool(flags & abi.LK_FLOCK))


def _access(data: memoryview, _node: int) -> Access:
    return Access(abi.ACCESS_IN.unpack_from(data)[0])


def _interrupt(data: memoryview, _node: int) -> Interrupt:
    return Interrupt(abi.INTERRUPT_IN.unpack_from(data)[0] & ~abi.RESENT)


def _init(data: memoryview, _node: int) -> Init:
    major, minor, readahead, features = abi.INIT_IN.unpack_from(data)
    if len(data) >= abi.INIT_IN.size + abi.INIT_IN_MORE.size and features & abi.Feature.INIT_EXT:
        features |= abi.INIT_IN_MORE.unpack_from(data, abi.INIT_IN.size)[0] << 32
    return Init(major, minor, readahead, features)


def _ioctl(data: memoryview, _node: int) -> Ioctl:
    fh, flags, command, argument, size, answer = abi.IOCTL_IN.unpack_from(data)
    given = bytes(data[abi.IOCTL_IN.size :])
    if len(given) != size:
        raise _Wrong(f"{len(given)} of {size} bytes of data")
    return Ioctl(fh, flags, command, argument, given, answer)


def _fallocate(data: memoryview, _node: int) -> Fallocate:
    fh, offset, length, mode, _padding = abi.FALLOCATE_IN.unpack_from(data)
    return Fallocate(fh, offset, length, mode)


def _lseek(data: memoryview, _node: int) -> Lseek:
    fh, offset, whence, _padding = abi.LSEEK_IN.unpack_from(data)
    return Lseek(fh, offset, whence)


def _copy_file_range(data: memoryview, _node: int) -> CopyFileRange:
    asked = CopyFileRange(*abi.COPY_FILE_RANGE_IN.unpack_from(data))
    return asked._replace(length=min(asked.length, COPY_BYTES_MAX))


def _statx(data: memoryview, _node: int) -> Statx:
    flags, _reserved, fh, _sx_flags, mask = abi.STATX_IN.unpack_from(data)
    return Statx(fh if flags & abi.GETATTR_FH else None, mask)


_READERS: Final[dict[int, Callable[[memoryview, int], Any]]] = {
    Op.LOOKUP: _name_only,
    Op.UNLINK: _name_only,
    Op.RMDIR: _name_only,
    Op.REMOVEXATTR: _attribute_only,
    Op.FORGET: _forget,
    Op.BATCH_FORGET: _forget_many,
    Op.GETATTR: _getattr,
    Op.SETATTR: _setattr,
    Op.SYMLINK: _symlink,
    Op.MKNOD: _mknod,
    Op.MKDIR: _mkdir,
    Op.RENAME: _rename,
    Op.RENAME2: _rename2,
    Op.LINK: _link,
    Op.OPEN: _open,
    Op.OPENDIR: _open,
    Op.CREATE: _create,
    Op.TMPFILE: _tmpfile,
    Op.READ: _read,
    Op.READDIR: _read,
    Op.READDIRPLUS: _read,
    Op.WRITE: _write,
    Op.RELEASE: _release,
    Op.RELEASEDIR: _release,
    Op.FLUSH: _flush,
    Op.FSYNC: _fsync,
    Op.FSYNCDIR: _fsync,
    Op.SETXATTR: _setxattr,
    Op.GETXATTR: _getxattr,
    Op.LISTXATTR: _listxattr,
    Op.GETLK: _lock,
    Op.SETLK: _lock,
    Op.SETLKW: _lock,
    Op.ACCESS: _access,
    Op.INTERRUPT: _interrupt,
    Op.INIT: _init,
    Op.IOCTL: _ioctl,
    Op.FALLOCATE: _fallocate,
    Op.LSEEK: _lseek,
    Op.COPY_FILE_RANGE: _copy_file_range,
    Op.STATX: _statx,
}
