"""Stage: a sparse file of slots of one block each: blocks in the making, and copies of blocks that were used lately. Its pages outlive this process, not this Linux.

Nothing here is synced: what has to outlive the machine is in the log and in blocks. Used by several threads; the caller's lock guards it.
"""

import contextlib
import ctypes
import os
from collections import OrderedDict
from pathlib import Path
from typing import Final

from unios.core.files.inode import BLOCK_BYTES

CACHED_MAX: Final = 512
"""Blocks of which copies are kept."""
_PUNCH: Final = 0x01 | 0x02
_libc = ctypes.CDLL(None, use_errno=True)


class Stage:
    """That of one node. Raises OSError, as of a disk that is full."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if fresh else 0)
        self.descriptor = os.open(path, flags, 0o600)
        self._free: list[int] = []
        self._next = 0
        self._cached: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        os.close(self.descriptor)

    def keep_only(self, used: set[int]) -> None:
        """Begin with these slots in use; what is in others is gone."""
        self._next = max(used, default=-1) + 1
        self._free = []
        for slot in range(self._next):
            if slot not in used:
                self.free(slot)
        os.ftruncate(self.descriptor, self._next * BLOCK_BYTES)

    def take(self) -> int:
        """Return a slot that is all zeros."""
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def free(self, slot: int) -> None:
        """Give a slot back. One that cannot be made zeros, as of a disk that is full, is not given to anybody again."""
        with contextlib.suppress(OSError):
            self._punch(slot)
            self._free.append(slot)

    def _punch(self, slot: int) -> None:
        if _libc.fallocate(self.descriptor, _PUNCH, ctypes.c_long(slot * BLOCK_BYTES), ctypes.c_long(BLOCK_BYTES)):
            number = ctypes.get_errno()
            size = os.fstat(self.descriptor).st_size
            if slot * BLOCK_BYTES < size:  # a file system without holes
                self.write(slot, 0, bytes(min(BLOCK_BYTES, size - slot * BLOCK_BYTES)))
            elif number == 0:
                raise OSError("fallocate failed without a reason")

    def write(self, slot: int, start: int, data: bytes | memoryview) -> None:
        """Write into a slot. What of it was written before an error counts for nothing: its length has not been said."""
        at = slot * BLOCK_BYTES + start
        while data:
            count = os.pwrite(self.descriptor, data, at)
            data, at = memoryview(data)[count:], at + count

    def read(self, slot: int, start: int, length: int) -> bytes:
        """Return bytes of a slot; what nobody has written is zeros."""
        data = os.pread(self.descriptor, length, slot * BLOCK_BYTES + start)
        return data if len(data) == length else data + bytes(length - len(data))

    # copies of blocks

    def cached(self, block: bytes) -> int | None:
        """Return the slot with a copy of that block."""
        slot = self._cached.get(block)
        if slot is not None:
            self._cached.move_to_end(block)
        return slot

    def keep(self, block: bytes, slot: int) -> None:
        """That slot holds that block from now on, for as long as there is room."""
        if block in self._cached:
            self.free(slot)
            return
        self._cached[block] = slot
        while len(self._cached) > CACHED_MAX:
            _block, oldest = self._cached.popitem(last=False)
            self.free(oldest)

    def put(self, block: bytes, data: bytes) -> None:
        """Keep a copy of a block."""
        if block not in self._cached:
            slot = self.take()
            try:
                self.write(slot, 0, data)
            except OSError:
                self.free(slot)
                raise
            self.keep(block, slot)
