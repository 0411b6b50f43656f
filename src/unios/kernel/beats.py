"""Beats: a mapped page in which each process of a node writes its clock while its loop turns; the supervisor reads it.

One store of eight bytes per beat, no message. A slot is an index into BEATERS; 0 means that it never beat.
"""

import mmap
import os
import time
from typing import Final

BEATERS: Final = ("supervisor", "guard", "kernel", "store", "placement", "recovery", "locks", "member", "archive", "files")
_SLOTS: Final = {name: number for number, name in enumerate(BEATERS)}
_WATCHED: Final = tuple(_SLOTS.items())[1:]
_SIZE: Final = mmap.PAGESIZE


class Beats:
    """The page of one node."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._words = memoryview(mmap.mmap(descriptor, _SIZE)).cast("Q")
        finally:
            os.close(descriptor)

    def beat(self, name: str) -> None:
        self._words[_SLOTS[name]] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def clear(self, name: str) -> None:
        self._words[_SLOTS[name]] = 0

    def all_ms(self) -> dict[str, int]:
        """Return of each but the supervisor what `last_ms` says."""
        return {name: self._words[slot] // 1_000_000 for name, slot in _WATCHED}

    def last_ms(self, name: str) -> int:
        """Return when `name` last beat, in ms of CLOCK_BOOTTIME; 0 for never."""
        return self._words[_SLOTS[name]] // 1_000_000
