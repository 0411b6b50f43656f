"""What Linux asks of a file system by way of FUSE, one class for each kind. decoding.py makes them of bytes."""

from typing import Any, Final, NamedTuple

from unios.errors import ProtocolError
from unios.fuse import abi
from unios.fuse.abi import Op


class Malformed(ProtocolError):
    """Bytes that are no request. `unique`: of which number, if so much could be read; 0: nobody waits for an answer."""

    def __init__(self, why: str, unique: int = 0) -> None:
        super().__init__(f"a request of FUSE makes no sense: {why}")
        self.unique = unique


class Name(NamedTuple):
    """LOOKUP, UNLINK, RMDIR, REMOVEXATTR. Of a name in the directory `node`; of an attribute's for the last."""

    name: bytes


class Nothing(NamedTuple):
    """READLINK, STATFS, DESTROY, SYNCFS, and what is not known here: it is answered ENOSYS."""


class Forget(NamedTuple):
    """FORGET and BATCH_FORGET: (node, how many lookups are forgotten) of each. It has no answer."""

    nodes: tuple[tuple[int, int], ...]


class Getattr(NamedTuple):
    """`fh` is None where no open file is named."""

    fh: int | None


class Setattr(NamedTuple):
    """What `valid` names of it is to be changed. Times in ns since 1970; where `valid` has ATIME_NOW or MTIME_NOW the time is that of now."""

    valid: int
    fh: int
    size: int
    lock_owner: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int
    gid: int


class Symlink(NamedTuple):
    name: bytes
    target: bytes


class Mknod(NamedTuple):
    name: bytes
    mode: int
    rdev: int
    umask: int


class Mkdir(NamedTuple):
    name: bytes
    mode: int
    umask: int


class Rename(NamedTuple):
    """RENAME and RENAME2. `flags`: RENAME_NOREPLACE (1), RENAME_EXCHANGE (2)."""

    name: bytes
    directory: int
    new_name: bytes
    flags: int


class Link(NamedTuple):
    """A further name for the inode `linked`."""

    linked: int
    name: bytes


class Open(NamedTuple):
    """OPEN and OPENDIR; `flags` as open(2) has them."""

    flags: int
    open_flags: int


class Create(NamedTuple):
    """CREATE and TMPFILE."""

    name: bytes
    flags: int
    mode: int
    umask: int
    open_flags: int


class Read(NamedTuple):
    """READ, READDIR and READDIRPLUS."""

    fh: int
    offset: int
    size: int
    flags: int


class Write(NamedTuple):
    """`data` lies in the buffer of the reader: it is gone with the next request. `kept_back`: pages that Linux had held, of whoever wrote them."""

    fh: int
    offset: int
    data: memoryview
    lock_owner: int
    flags: int
    kept_back: bool
    kill_suidgid: bool


class Release(NamedTuple):
    """RELEASE and RELEASEDIR. `flock`: the locks of flock(2) of `lock_owner` end with it."""

    fh: int
    flags: int
    lock_owner: int
    flock: bool


class Flush(NamedTuple):
    """A descriptor of an open file was closed: the locks of fcntl(2) of `lock_owner` end."""

    fh: int
    lock_owner: int


class Fsync(NamedTuple):
    """FSYNC and FSYNCDIR. `data_only`: fdatasync(2)."""

    fh: int
    data_only: bool


class Setxattr(NamedTuple):
    """`flags`: XATTR_CREATE (1), XATTR_REPLACE (2)."""

    name: bytes
    value: bytes
    flags: int


class Getxattr(NamedTuple):
    """GETXATTR, and LISTXATTR with an empty name. `size` 0: how large is it?"""

    name: bytes
    size: int


class Lock(NamedTuple):
    """GETLK, SETLK, SETLKW. `kind`: F_RDLCK (0), F_WRLCK (1), F_UNLCK (2); bytes `start` to `end`, both included."""

    fh: int
    owner: int
    start: int
    end: int
    kind: int
    pid: int
    flock: bool


class Access(NamedTuple):
    mask: int


class Interrupt(NamedTuple):
    """Whoever asked the request of that number has had a signal. It has no answer; that request gets EINTR, or what it would have got."""

    number: int


class Init(NamedTuple):
    major: int
    minor: int
    readahead_bytes: int
    features: int


class Ioctl(NamedTuple):
    fh: int
    flags: int
    command: int
    argument: int
    data: bytes
    size: int


class Fallocate(NamedTuple):
    fh: int
    offset: int
    length: int
    mode: int


class Lseek(NamedTuple):
    """`whence`: SEEK_DATA (3), SEEK_HOLE (4); the others Linux answers itself."""

    fh: int
    offset: int
    whence: int


class CopyFileRange(NamedTuple):
    fh: int
    offset: int
    to_node: int
    to_fh: int
    to_offset: int
    length: int
    flags: int


class Statx(NamedTuple):
    fh: int | None
    mask: int


class Request:
    """One request. `op` may be a number that Op does not have: then `body` is Nothing."""

    __slots__ = ("body", "gid", "node", "op", "pid", "uid", "unique")

    def __init__(self, op: int, unique: int, node: int, uid: int, gid: int, pid: int, body: Any) -> None:
        self.op, self.unique, self.node, self.uid, self.gid, self.pid, self.body = op, unique, node, uid, gid, pid, body

    @property
    def number(self) -> int:
        """What it is called, the same if it is sent again; `unique` is what an answer names."""
        return self.unique & ~abi.RESENT

    @property
    def resent(self) -> bool:
        """Whether it was given to a reader before who has not answered, and may have done it."""
        return self.unique >= abi.RESENT

    def __repr__(self) -> str:
        return f"Request({op_name(self.op)}, {self.unique}, node={self.node}, uid={self.uid}, gid={self.gid}, pid={self.pid}, {self.body})"


_OPS: Final = frozenset(Op)


def op_name(op: int) -> str:
    """Return what people call it."""
    return Op(op).name if op in _OPS else str(op)
