"""Numbers and layouts of the FUSE protocol. Source: include/uapi/linux/fuse.h; all fields are little-endian on the machines that unios runs on."""

import enum
import struct
from typing import Final


class Op(enum.IntEnum):
    """What Linux asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class Feature(enum.IntFlag):
    """What both sides may agree on at the beginning. Linux offers; what is answered with is in force."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    HAS_RESEND = 1 << 39


class Notice(enum.IntEnum):
    """What the file system may tell Linux unasked."""

    INVALIDATE_INODE = 2
    INVALIDATE_ENTRY = 3
    STORE = 4
    DELETE = 6
    RESEND = 7


class Valid(enum.IntFlag):
    """Of a SETATTR: which attributes are to be changed."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class Opened(enum.IntFlag):
    """Of the answer to OPEN, OPENDIR and CREATE."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6


MAJOR: Final = 7
MINOR: Final = 41
"""The newest whose layouts are written here."""
MINOR_MIN: Final = 36
"""Linux 5.17: from then on all that is used is there, but for HAS_RESEND (6.9)."""
RESENT: Final = 1 << 63
"""In the number of a request: it was given to a reader before, who has not answered."""
ROOT: Final = 1
"""The number of the uppermost directory."""
WRITE_CACHE: Final = 1 << 0
"""Of a WRITE: pages that were kept back. Who wrote them is not known."""
WRITE_KILL_SUIDGID: Final = 1 << 2
GETATTR_FH: Final = 1 << 0
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
LK_FLOCK: Final = 1 << 0
FSYNC_FDATASYNC: Final = 1 << 0
EXPIRE_ONLY: Final = 1 << 0
"""Of INVALIDATE_ENTRY: ask again at the next look, and leave what is mounted below."""

IN_HEADER: Final = struct.Struct("<IIQQIIIHH")
"""len, opcode, unique, node, uid, gid, pid, length of extensions in units of 8 bytes"""
OUT_HEADER: Final = struct.Struct("<IiQ")
"""len, -errno or the number of a notice, unique (0 of a notice)"""
ATTRIBUTES: Final = struct.Struct("<QQQQQQIIIIIIIIII")
"""ino, size, blocks, atime, mtime, ctime; their nanoseconds; mode, nlink, uid, gid, rdev, blksize, flags"""
ENTRY: Final = struct.Struct("<QQQQII")
"""node, generation, seconds that the entry and the attributes may be kept; their nanoseconds"""
ATTRIBUTES_KEPT: Final = struct.Struct("<QII")
OPENED: Final = struct.Struct("<QIi")
WRITTEN: Final = struct.Struct("<II")
STATFS: Final = struct.Struct("<QQQQQIIII24x")
XATTR_SIZE: Final = struct.Struct("<II")
LOCK: Final = struct.Struct("<QQII")
SOUGHT: Final = struct.Struct("<Q")
INIT_IN: Final = struct.Struct("<IIII")
INIT_IN_MORE: Final = struct.Struct("<I44x")
INIT_OUT: Final = struct.Struct("<IIIIHHIIHHII24x")
DIRENT: Final = struct.Struct("<QQII")
INVALIDATE_INODE: Final = struct.Struct("<Qqq")
INVALIDATE_ENTRY: Final = struct.Struct("<QII")
DELETED: Final = struct.Struct("<QQII")
STORED: Final = struct.Struct("<QQII")
GETATTR_IN: Final = struct.Struct("<IIQ")
SETATTR_IN: Final = struct.Struct("<IIQQQQQQIIIIIIII")
MKNOD_IN: Final = struct.Struct("<IIII")
MKDIR_IN: Final = struct.Struct("<II")
RENAME_IN: Final = struct.Struct("<Q")
RENAME2_IN: Final = struct.Struct("<QII")
LINK_IN: Final = struct.Struct("<Q")
OPEN_IN: Final = struct.Struct("<II")
CREATE_IN: Final = struct.Struct("<IIII")
READ_IN: Final = struct.Struct("<QQIIQII")
WRITE_IN: Final = struct.Struct("<QQIIQII")
RELEASE_IN: Final = struct.Struct("<QIIQ")
FLUSH_IN: Final = struct.Struct("<QIIQ")
FSYNC_IN: Final = struct.Struct("<QII")
SETXATTR_IN: Final = struct.Struct("<IIII")
GETXATTR_IN: Final = struct.Struct("<II")
LK_IN: Final = struct.Struct("<QQQQIIII")
ACCESS_IN: Final = struct.Struct("<II")
INTERRUPT_IN: Final = struct.Struct("<Q")
FORGET_IN: Final = struct.Struct("<Q")
BATCH_FORGET_IN: Final = struct.Struct("<II")
FORGET_ONE: Final = struct.Struct("<QQ")
FALLOCATE_IN: Final = struct.Struct("<QQQII")
LSEEK_IN: Final = struct.Struct("<QQII")
COPY_FILE_RANGE_IN: Final = struct.Struct("<QQQQQQQ")
IOCTL_IN: Final = struct.Struct("<QIIQII")
STATX_IN: Final = struct.Struct("<IIQII")
