"""Lease page: how an init reads the node's deadline: two mapped words, written by the kernel, no message and no system call.

Word 0: the deadline in ns of CLOCK_BOOTTIME, all ones where no lease is needed. Word 1: the number of the lease (the node's incarnation), which
changes whenever a lease has ended; a writer sets word 0 to 0, then word 1, then word 0. Words are read whole: in pieces, a carry between two
bytes could show a deadline seconds too late.
"""

import mmap
import os
from typing import Final, NamedTuple

PAGE_BYTES: Final = 16


class Seen(NamedTuple):
    deadline_ns: int
    lease: int


class LeasePage:
    """The page of one node, read only."""

    def __init__(self, path: str) -> None:
        """Map the page; one that is not there yet, or is short, is made: a deadline of 0 has passed. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < PAGE_BYTES:
                os.ftruncate(descriptor, PAGE_BYTES)
            self._words = memoryview(mmap.mmap(descriptor, PAGE_BYTES, access=mmap.ACCESS_READ)).cast("Q")
        finally:
            os.close(descriptor)

    def read(self) -> Seen:
        deadline = self._words[0]
        # The lease's number second: with a new deadline comes at least its own lease.
        return Seen(deadline, self._words[1])
