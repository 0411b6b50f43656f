"""Beats: a mapped page in which each process of a node writes its clock while its loop turns; the supervisor reads it.

One store of eight bytes per beat, no message. A slot is an index into BEATERS; 0 means that it never beat.
"""

import mmap
import os
import struct
from typing import Final

from unios.kernel.clocks import boot_ns

BEATERS: Final = ("supervisor", "guard", "kernel", "store", "placement", "recovery")
_SLOT = struct.Struct("<Q")
_SIZE: Final = mmap.PAGESIZE


class Beats:
    """The page of one node."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    def beat(self, name: str) -> None:
        _SLOT.pack_into(self._map, 8 * BEATERS.index(name), boot_ns())

    def clear(self, name: str) -> None:
        _SLOT.pack_into(self._map, 8 * BEATERS.index(name), 0)

    def last_ms(self, name: str) -> int:
        """Return when `name` last beat, in ms of CLOCK_BOOTTIME; 0 for never."""
        (value,) = _SLOT.unpack_from(self._map, 8 * BEATERS.index(name))
        return int(value) // 1_000_000
