"""Blocks: immutable pieces of data, named by their BLAKE3 hash, kept in files of this node, apart for each user.

- A block is on disk before it is acknowledged: written aside, synced, renamed, its folder synced.
- It is hashed again on every read. One that is not what its name says is removed and counts as missing: whoever wanted it looks elsewhere.
- Knowing a name gives no right: a block is looked for among its user's own, so nobody reads another's by guessing.
- Their bytes are bounded. At the bound the longest unused go, but none that is young or pinned; then nothing more is taken.
- One user's are too, so that there is always room for another: he may keep BLOCKS_USER_SHARE times what is left free, and makes room among his own. Alone
  he gets three quarters of all, two get three sevenths each (the dynamic threshold of A. Choudhury and E. Hahne, IEEE/ACM ToN 6, 1998). The node's own
  user has no such bound.
- The blocks of files (FILES_USER) are no cache of anything: they count for no bound and never go to make room. Only the disk bounds them.

Blocking, and called from threads; one lock guards the counts of bytes, another the names until they are on the disk.
Never decides what is needed: the caller names what is pinned.

    blocks/u-<user>/<first two hex digits>/<the rest>
    blocks/incoming/<number>            a block that is being written; removed at the start
"""

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple
from urllib.parse import quote

from unios.errors import CallerError, NoRoom, Unavailable
from unios.limits import BLOCK_BYTES, BLOCKS_BYTES_MAX, BLOCKS_USER_SHARE, BLOCKS_YOUNG_S, DISK_FREE_BYTES_MIN, FILES_USER
from unios.wire.manifests import NAME_BYTES, name_of

SYNC_EACH_MAX: Final = 16
"""So many files are synced one by one; more by one syncfs, which waits for whatever else is to be written there too."""
TOUCH_S: Final = 600
"""A block's time of use is kept as exactly as this."""

Pinned = Callable[[], Collection[tuple[str, bytes]]]
"""Return (user, name) of the blocks that must not go."""


class Kept(NamedTuple):
    """A block in the folder: `user` as its folder is called."""

    used_s: float
    user: str
    name: bytes
    size: int


class BlockStore:
    """That of one node, `node` by name. `owner`: the node's own user, who is bounded by what the node keeps and by nothing else."""

    def __init__(
        self, folder: str, *, bytes_max: int = BLOCKS_BYTES_MAX, young_s: float = BLOCKS_YOUNG_S, owner: str = "", node: str = "this node"
    ) -> None:
        self._node = node
        self._folder, self._bytes_max, self._young_s, self._owner = folder, bytes_max, young_s, folder_of(owner)
        self._lock = threading.Lock()
        self._naming = threading.Lock()
        """Of who gives names, until they are on the disk or taken back. Taken before `_lock`."""
        self._sure: set[str] = set()
        """Folders in which all names are on the disk, as far as this process has seen to it."""
        self._numbers = itertools.count()
        shutil.rmtree(f"{folder}/incoming", ignore_errors=True)
        os.makedirs(f"{folder}/incoming", mode=0o700, exist_ok=True)
        self.used_bytes = 0
        """Of what has come since the start, until `count` has added what was there; those of files do not count."""
        self._used: Counter[str] = Counter()
        """The same of each user, by his folder."""
        self._known: set[tuple[str, bytes]] | None = set()
        """What has come or gone since the start, until then; None: all is counted."""

    def _add(self, user_folder: str, size: int) -> None:
        """The lock is held."""
        if user_folder != _FILES:
            self.used_bytes += size
        self._used[user_folder] += size

    def count(self) -> None:
        """Count what is there from earlier lives; once, and other work may go on meanwhile."""
        there = list(self._all())
        with self._lock:
            known, self._known = self._known or set(), None
            for kept in there:
                if (kept.user, kept.name) not in known:
                    self._add(kept.user, kept.size)

    def _place(self, user: str, name: bytes) -> tuple[str, str]:
        if len(name) != NAME_BYTES:
            raise CallerError("that is no name of a block")
        text = name.hex()
        return f"{self._folder}/{folder_of(user)}/{text[:2]}", text[2:]

    def missing(self, user: str, names: Iterable[bytes]) -> list[bytes]:
        """Return those that are not here; the others count as used now."""
        now, absent = time.time(), []
        for name in names:
            path = "/".join(self._place(user, name))
            try:
                if os.stat(path).st_mtime < now - TOUCH_S:
                    os.utime(path)
            except OSError:
                absent.append(name)
        return absent

    def get(self, user: str, name: bytes) -> bytes | None:
        """Return a block, None if it is not here. One that is damaged is removed, and is not here."""
        path = "/".join(self._place(user, name))
        try:
            with open(path, "rb") as file:
                data = file.read(BLOCK_BYTES + 1)
        except OSError:
            return None
        if is_whole(name, data):
            return data
        self._remove(folder_of(user), name)
        return None

    def _remove(self, user_folder: str, name: bytes) -> bool:
        text = name.hex()
        path = f"{self._folder}/{user_folder}/{text[:2]}/{text[2:]}"
        with self._lock:
            try:
                size = os.stat(path).st_size
                os.unlink(path)
            except OSError:
                return False
            if self._known is None or (user_folder, name) in self._known:
                self._add(user_folder, -size)
            else:
                self._known.add((user_folder, name))  # it was not counted yet, and is not to be
        return True

    def drop(self, user: str, names: Iterable[bytes], pinned: Pinned) -> int:
        """Remove blocks that are not pinned; return how many there were."""
        kept, count = pinned(), 0
        for name in names:
            self._place(user, name)  # CallerError: it is no name
            if (user, name) not in kept:
                count += self._remove(folder_of(user), name)
        return count

    def list(self, user: str, after: bytes, limit: int) -> "list[tuple[bytes, int]]":
        """Return (name, size) of a user's blocks, sorted."""
        mine = sorted((kept.name, kept.size) for kept in self._of(folder_of(user)) if kept.name > after)
        return mine[:limit]

    def _of(self, user_folder: str) -> Iterable[Kept]:
        for part in _names(f"{self._folder}/{user_folder}"):
            for entry in _names(f"{self._folder}/{user_folder}/{part}"):
                with contextlib.suppress(OSError, ValueError):
                    status = os.stat(f"{self._folder}/{user_folder}/{part}/{entry}")
                    yield Kept(status.st_mtime, user_folder, bytes.fromhex(part + entry), status.st_size)

    def _all(self) -> Iterable[Kept]:
        for user_folder in _names(self._folder):
            if user_folder.startswith("u-"):
                yield from self._of(user_folder)

    def batch(self, user: str, pinned: Pinned) -> "Batch":
        """Begin to take blocks in."""
        return Batch(self, user, pinned)

    def check_room(self, needed: int) -> None:
        """Raise NoRoom if so many bytes more are more than the disk has."""
        free = free_bytes(self._folder)
        if free < needed + DISK_FREE_BYTES_MIN:
            raise NoRoom(lacks(self._node, needed, free))

    # for Batch

    def write_aside(self, user: str, data: bytes, pinned: Pinned) -> str:
        """Write a block where nobody looks for it; return the path. Raises NoRoom when there is no room."""
        mine = folder_of(user)
        with self._lock:
            self._add(mine, len(data))
        path = f"{self._folder}/incoming/{next(self._numbers)}"
        try:
            self.check_room(len(data))
            if self._is_over_share(mine) and not self._make_room(pinned, mine):
                raise NoRoom(
                    f"{user} keeps {self._used[mine] - len(data)} bytes of blocks on {self._node}, his share: live processes of his and results need them, "
                    "or they are of the last hour; end what he does not need, or try later"
                )
            if mine != _FILES and self.used_bytes > self._bytes_max and not self.evict(pinned):
                raise NoRoom(f"{self._node} keeps {self._bytes_max} bytes of blocks, its bound, and live processes need them")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.forget_aside(user, path, len(data))
            raise NoRoom(f"a block cannot be written on {self._node}: {error.strerror}") from error
        except Unavailable:
            self.forget_aside(user, path, len(data))
            raise
        return path

    def forget_aside(self, user: str, path: str, size: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)
        with self._lock:
            self._add(folder_of(user), -size)

    def settle(self, user: str, written: "dict[bytes, tuple[str, int]]", relied: Collection[bytes] = ()) -> None:
        """Bring blocks that were written aside to the disk, and to their names, out of `written`; and the names of those that were here already, `relied`: who
        brought them perhaps waits for the disk still, or was killed before. Raises Unavailable if the disk refuses.

        What is left in `written` then is still aside: it is the caller's to forget, and what has its name is not.
        """
        brought: list[bytes] = []
        try:
            sync([path for path, _size in written.values()], self._folder)
            with self._naming:
                folders = {self._place(user, name)[0] for name in relied}
                for name, (path, size) in list(written.items()):
                    folder, last = self._place(user, name)
                    folders.add(folder)
                    self._make(folder)
                    if self._bring(user, name, path, f"{folder}/{last}"):
                        brought.append(name)
                    else:
                        self.forget_aside(user, path, size)
                    del written[name]
                self._sync_names(user, folders, brought)
                gone = self.missing(user, relied)
        except OSError as error:
            raise _refusal(error)(f"blocks cannot be brought to the disk of {self._node}: {error.strerror}") from error
        if gone:
            raise Unavailable(f"blocks that were on {self._node} are gone meanwhile, or their disk has failed: put them again")

    def make_sure(self, user: str, names: Collection[bytes]) -> None:
        """Return when the names of those that are here are on the disk. Raises Unavailable if the disk refuses."""
        self.settle(user, {}, set(names).difference(self.missing(user, names)))

    def _make(self, folder: str) -> None:
        """Make a folder of blocks. `_naming` is held."""
        self._sure.discard(folder)
        if not os.path.isdir(folder):
            self._sure -= {os.path.dirname(folder), self._folder}
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def _sync_names(self, user: str, folders: Collection[str], brought: Collection[bytes]) -> None:
        """Bring what is in these folders, and their own names, to the disk; if that fails nobody is to find those that were just brought. `_naming` is held."""
        needed = {*folders, *map(os.path.dirname, folders), self._folder, os.path.dirname(self._folder)} if folders else set[str]()
        try:
            sync(sorted(needed - self._sure), self._folder)
        except OSError:
            for name in brought:
                self._remove(folder_of(user), name)
            raise
        self._sure |= needed

    def _bring(self, user: str, name: bytes, path: str, place: str) -> bool:
        """Give it its name; return whether it had not been there. Looked at and done in one: two batches may bring the same."""
        with self._lock:
            if os.path.exists(place):
                return False
            os.rename(path, place)
            if self._known is not None:
                self._known.add((folder_of(user), name))
            return True

    def _share(self) -> int:
        """Return how many bytes a user may keep now who is not the node's own."""
        return BLOCKS_USER_SHARE * max(0, self._bytes_max - self.used_bytes)

    def _is_over_share(self, user_folder: str) -> bool:
        return user_folder not in (self._owner, _FILES) and self._used[user_folder] > self._share()

    def _make_room(self, pinned: Pinned, user_folder: str) -> bool:
        """Let the longest unused of one user go until he keeps well within his share; return whether he keeps within it."""
        self._let_go(pinned, self._of(user_folder), lambda: self._used[user_folder] <= self._share() * 9 // 10)
        return not self._is_over_share(user_folder)

    def evict(self, pinned: Pinned) -> bool:
        """Let the longest unused go until a tenth of the bound is free; return whether the bound is kept now."""
        self._let_go(pinned, self._all(), lambda: self.used_bytes <= self._bytes_max * 9 // 10)
        return self.used_bytes <= self._bytes_max

    def _let_go(self, pinned: Pinned, among: Iterable[Kept], enough: Callable[[], bool]) -> None:
        kept = {(folder_of(user), name) for user, name in pinned()}
        young = time.time() - self._young_s
        for block in sorted(among):
            if enough() or block.used_s > young:
                return
            if block.user != _FILES and (block.user, block.name) not in kept:
                self._remove(block.user, block.name)


class Batch:
    """Blocks that come to the disk together. Use `with`: what was not committed is gone at its end."""

    def __init__(self, store: BlockStore, user: str, pinned: Pinned) -> None:
        self._store, self._user, self._pinned = store, user, pinned
        self._written: dict[bytes, tuple[str, int]] = {}
        self._relied: set[bytes] = set()
        """Those that were there already."""
        self.bytes = 0

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, *_exc: object) -> None:
        for path, size in self._written.values():
            self._store.forget_aside(self._user, path, size)
        self._written.clear()

    def __len__(self) -> int:
        return len(self._written)

    def add(self, data: bytes) -> bytes:
        """Take a block in; return its name, which is made here and never believed. It is acknowledged by `commit`."""
        if not 0 < len(data) <= BLOCK_BYTES:
            raise CallerError(f"a block has 1 to {BLOCK_BYTES} bytes; one of {len(data)} was sent")
        name = name_of(data)
        if name in self._written:
            return name
        if not self._store.missing(self._user, (name,)):
            self._relied.add(name)
        else:
            self._written[name] = (self._store.write_aside(self._user, data, self._pinned), len(data))
            self.bytes += len(data)
        return name

    def commit(self) -> None:
        """Return when all are on disk. Idempotent."""
        if self._written or self._relied:
            self._store.settle(self._user, self._written, self._relied)
            self._written.clear()
            self._relied.clear()
            self.bytes = 0


def lacks(node: str, needed: int, free: int) -> str:
    """Return the sentence on a disk without room for so many bytes."""
    return (
        f"the disk of {node} has no room: {needed} bytes are needed, {free} are free, and {DISK_FREE_BYTES_MIN} of these stay free for the node itself; "
        "make room on that disk"
    )


def _refusal(error: OSError) -> type[Unavailable]:
    """Return what a disk that refuses is: full, or broken."""
    return NoRoom if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable


def free_bytes(folder: str) -> int:
    """Return what is free on the disk that a folder is on."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def folder_of(user: str) -> str:
    """Return what a user's folder is called; no user's name is a path."""
    return "u-" + quote(user, safe="")


_FILES: Final = folder_of(FILES_USER)


def is_whole(name: bytes, data: bytes) -> bool:
    """Return whether the data is what the name says."""
    return name_of(data) == name


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def sync(paths: Collection[str], anywhere: str) -> None:
    """Bring files or folders to the disk: each, or if they are many the whole file system that `anywhere` is on. Raises OSError."""
    several = len(paths) > SYNC_EACH_MAX
    for path in (anywhere,) if several else paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _syncfs(descriptor) if several else os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _syncfs(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
