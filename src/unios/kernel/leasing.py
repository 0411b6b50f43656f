"""The node's own lease: renews it at the store and moves the deadline that every init of the node watches.

Decides with core/holding.py. The deadline counts from the moment a renewal was *sent*. After a lease was lost the node registers as its next
incarnation, and the deadline moves again only when its claims have been checked.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Final

from unios.kernel.clocks import boot_ms

_DEADLINE: Final = struct.Struct("<Q")


class DeadlinePage:
    """The mapped file that the inits watch: one number, CLOCK_BOOTTIME ns."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _DEADLINE.size:
                os.ftruncate(descriptor, _DEADLINE.size)
            self._map = mmap.mmap(descriptor, _DEADLINE.size)
        finally:
            os.close(descriptor)

    def move(self, until_ms: int) -> None:
        _DEADLINE.pack_into(self._map, 0, until_ms * 1_000_000)

    def left_ms(self) -> int:
        (deadline,) = _DEADLINE.unpack_from(self._map, 0)
        return int(deadline) // 1_000_000 - boot_ms()
