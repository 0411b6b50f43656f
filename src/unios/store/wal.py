"""The write-ahead log of a store that ended without a word: what it may not have synced is brought to the disk before anybody is told of it.

A store that was killed between a write and its sync has left commits that only the page cache has. Its successor would read them, and others would act on what
no disk knows. Written again, and not just synced: if their sync had failed Linux would take them for written (unios/durable.py). Each byte stays what it is, so a
power cut meanwhile changes nothing, and a full disk has room for it.
"""

import os
from typing import Final

_PART_BYTES: Final = 1024 * 1024


def make_sure(path: str) -> int:
    """Bring the log of a store's file to the disk, if it has one; return how many syncs that took. Blocks. Raises OSError."""
    try:
        descriptor = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        position = 0
        while data := os.pread(descriptor, _PART_BYTES, position):
            position += os.pwrite(descriptor, data, position)
        if position:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return int(position > 0)
