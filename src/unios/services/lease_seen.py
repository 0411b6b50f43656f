"""LeaseSeen: the node's deadline as the kernel writes it for the inits: two mapped words, deadline in ns of CLOCK_BOOTTIME and the lease's number.

A service that grants under its node's lease looks here before it says anything: no message, no system call but the clock. The kernel writes the page as
kernel/lease_page.py says; this side only reads.
"""

import mmap
import os
import time
from typing import Final

from unios.limits import LEASE_HOLD_MS

_BYTES: Final = 16
NO_LEASE: Final = 2**64 - 1
"""The deadline where no lease is needed."""


class LeaseSeen:
    """That of one node. Raises OSError if there is no page: the kernel makes it before it serves."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._words = memoryview(mmap.mmap(descriptor, _BYTES, access=mmap.ACCESS_READ)).cast("Q")
        finally:
            os.close(descriptor)

    @property
    def number(self) -> int:
        """The lease as last granted: another one means that the former has ended."""
        return self._words[1]

    @property
    def holds(self) -> bool:
        """Whether the deadline has not passed."""
        return self._words[0] == NO_LEASE or time.clock_gettime_ns(time.CLOCK_BOOTTIME) < self._words[0]

    @property
    def stale_ms(self) -> int:
        """How old what this node knows of the store may be: since when the store has not acknowledged the lease; 0 while the lease holds."""
        if self.holds:
            return 0
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 - self._words[0] // 1_000_000 + LEASE_HOLD_MS

    def holds_as(self, number: int) -> bool:
        """Whether the lease of that number holds."""
        return self.holds and self._words[1] == number
