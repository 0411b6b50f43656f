"""Allocation: how this process's C library keeps memory, for one that moves bulk data in buffers of up to some hundred KiB.

By default such a buffer is a mapping of its own, or the end of the heap is given back as soon as it is free; either costs page faults for each
buffer, which took a third of the kernel's time under a flood of output. What is kept instead is bounded by KEPT_BYTES.
"""

import contextlib
import ctypes
from typing import Final

KEPT_BYTES: Final = 4 * 1024 * 1024
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


def keep_buffers() -> None:
    """Keep the heap's end and take buffers from the heap. Nothing happens where the C library has no such setting."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        library.mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
