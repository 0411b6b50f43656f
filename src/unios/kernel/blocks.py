"""Blocks: immutable pieces of data, named by their BLAKE3 hash, kept in files of this node, apart for each user.

- A block is on disk before it is acknowledged: written aside, synced, renamed, its folder synced.
- It is hashed again on every read. One that is not what its name says is removed and counts as missing: whoever wanted it looks elsewhere.
- Knowing a name gives no right: a block is looked for among its user's own, so nobody reads another's by guessing.
- Their bytes are bounded. At the bound the longest unused go, but none that is young or pinned; then nothing more is taken.

Blocking, and called from threads; one lock guards the count of bytes. Never decides what is needed: the caller names what is pinned.

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
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple
from urllib.parse import quote

from unios.errors import CallerError, Unavailable
from unios.limits import BLOCK_BYTES, BLOCKS_BYTES_MAX, BLOCKS_YOUNG_S, DISK_FREE_BYTES_MIN
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
    """That of one node."""

    def __init__(self, folder: str, *, bytes_max: int = BLOCKS_BYTES_MAX, young_s: float = BLOCKS_YOUNG_S) -> None:
        self._folder, self._bytes_max, self._young_s = folder, bytes_max, young_s
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        shutil.rmtree(f"{folder}/incoming", ignore_errors=True)
        os.makedirs(f"{folder}/incoming", mode=0o700, exist_ok=True)
        self.used_bytes = 0
        """Of what has come since the start, until `count` has added what was there."""

    def count(self) -> None:
        """Count what is there from earlier lives; once, before much is taken in."""
        there = sum(kept.size for kept in self._all())
        with self._lock:
            self.used_bytes += there

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
        self._remove(path, len(data))
        return None

    def _remove(self, path: str, size: int) -> bool:
        try:
            os.unlink(path)
        except OSError:
            return False
        with self._lock:
            self.used_bytes -= size
        return True

    def drop(self, user: str, names: Iterable[bytes], pinned: Pinned) -> int:
        """Remove blocks that are not pinned; return how many there were."""
        kept, count = pinned(), 0
        for name in names:
            path = "/".join(self._place(user, name))
            with contextlib.suppress(OSError):
                if (user, name) not in kept:
                    count += self._remove(path, os.stat(path).st_size)
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

    # for Batch

    def write_aside(self, data: bytes, pinned: Pinned) -> str:
        """Write a block where nobody looks for it; return the path. Raises Unavailable when there is no room."""
        with self._lock:
            self.used_bytes += len(data)
            over = self.used_bytes > self._bytes_max
        path = f"{self._folder}/incoming/{next(self._numbers)}"
        try:
            if free_bytes(self._folder) < DISK_FREE_BYTES_MIN:
                raise Unavailable(f"the disk of this node has less than {DISK_FREE_BYTES_MIN} bytes left")
            if over and not self.evict(pinned):
                raise Unavailable(f"this node keeps {self._bytes_max} bytes of blocks, its bound, and live processes need them")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.forget_aside(path, len(data))
            raise Unavailable(f"a block cannot be written here: {error.strerror}") from error
        except Unavailable:
            self.forget_aside(path, len(data))
            raise
        return path

    def forget_aside(self, path: str, size: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)
        with self._lock:
            self.used_bytes -= size

    def settle(self, user: str, written: "dict[bytes, tuple[str, int]]") -> None:
        """Bring blocks that were written aside to the disk, and to their names. Raises Unavailable if the disk refuses."""
        try:
            sync([path for path, _size in written.values()], self._folder)
            folders = set()
            for name, (path, size) in written.items():
                folder, last = self._place(user, name)
                if folder not in folders:
                    os.makedirs(folder, mode=0o700, exist_ok=True)
                    folders |= {folder, os.path.dirname(folder), self._folder}
                if os.path.exists(f"{folder}/{last}"):
                    self.forget_aside(path, size)
                else:
                    os.rename(path, f"{folder}/{last}")
            sync(sorted(folders), self._folder)
        except OSError as error:
            raise Unavailable(f"blocks cannot be brought to the disk here: {error.strerror}") from error

    def evict(self, pinned: Pinned) -> bool:
        """Let the longest unused go until a tenth of the bound is free; return whether the bound is kept now."""
        kept = {(folder_of(user), name) for user, name in pinned()}
        young = time.time() - self._young_s
        for block in sorted(self._all()):
            if self.used_bytes <= self._bytes_max * 9 // 10 or block.used_s > young:
                break
            if (block.user, block.name) not in kept:
                path = f"{self._folder}/{block.user}/{block.name.hex()[:2]}/{block.name.hex()[2:]}"
                self._remove(path, block.size)
        return self.used_bytes <= self._bytes_max


class Batch:
    """Blocks that come to the disk together. Use `with`: what was not committed is gone at its end."""

    def __init__(self, store: BlockStore, user: str, pinned: Pinned) -> None:
        self._store, self._user, self._pinned = store, user, pinned
        self._written: dict[bytes, tuple[str, int]] = {}
        self.bytes = 0

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, *_exc: object) -> None:
        for path, size in self._written.values():
            self._store.forget_aside(path, size)
        self._written.clear()

    def __len__(self) -> int:
        return len(self._written)

    def add(self, data: bytes) -> bytes:
        """Take a block in; return its name, which is made here and never believed. It is acknowledged by `commit`."""
        if not 0 < len(data) <= BLOCK_BYTES:
            raise CallerError(f"a block has 1 to {BLOCK_BYTES} bytes; one of {len(data)} was sent")
        name = name_of(data)
        if name not in self._written and self._store.missing(self._user, (name,)):
            self._written[name] = (self._store.write_aside(data, self._pinned), len(data))
            self.bytes += len(data)
        return name

    def commit(self) -> None:
        """Return when all are on disk. Idempotent."""
        if self._written:
            self._store.settle(self._user, self._written)
            self._written.clear()
            self.bytes = 0


def free_bytes(folder: str) -> int:
    """Return what is free on the disk that a folder is on."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def folder_of(user: str) -> str:
    """Return what a user's folder is called; no user's name is a path."""
    return "u-" + quote(user, safe="")


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
