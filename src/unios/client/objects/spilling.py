"""Spilling: an object's data in a file without a name on a disk: however the holder ends, nothing is left of it.

What is on disk is mapped by its readers like what is in memory, so it does not come back: Linux keeps in memory what is read of it.
It is held against its checksum whenever somebody asks for it. What a disk makes of it after that, under who reads it in place, nobody sees.
A folder in memory (tmpfs, as $XDG_RUNTIME_DIR is) is no disk: what is spilled there takes as much memory as before.
"""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from unios.client.messages import memory
from unios.errors import Unavailable
from unios.limits import DISK_FREE_BYTES_MIN

_DISK: Final = "/var/tmp"
_PIECE: Final = 1024 * 1024


def disk_of(folder: str) -> str:
    """Return the first of the folder, /var/tmp and TMPDIR that is on a disk and may be written to; "" if none is."""
    return next((each for each in (folder, _DISK, tempfile.gettempdir()) if _is_disk(each)), "")


def _is_disk(folder: str) -> bool:
    try:
        descriptor = _file(folder)
    except OSError:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        return False  # only files in memory have seals
    except OSError:
        return True
    finally:
        os.close(descriptor)


def spill(folder: str, data: Sequence[memoryview]) -> tuple[list[memoryview], bytes]:
    """Write the data to the disk; return them as they are mapped from there, and their checksum. Unavailable if the disk is full or fails."""
    size = sum(one.nbytes for one in data)
    check = blake3()
    for one in data:
        check.update(one)
    descriptor = -1
    try:
        free = os.statvfs(folder)
        if free.f_bavail * free.f_frsize - size < DISK_FREE_BYTES_MIN:
            raise Unavailable(f"no room for an object of {size} bytes: the disk of {folder} is full, and the memory for objects too")
        descriptor = _file(folder)
        begins = memory.fill(descriptor, data)
        os.ftruncate(descriptor, max(1, begins[-1] + data[-1].nbytes))
        taken, descriptor = descriptor, -1
        whole = memory.keep(taken)
    except OSError as error:
        raise Unavailable(f"an object of {size} bytes cannot be spilled to {folder}: {error.strerror}") from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return [whole[begin : begin + one.nbytes] for begin, one in zip(begins, data, strict=True)], check.digest()


def is_whole(spilled: Sequence[memoryview], check: bytes) -> bool:
    """Return whether what was spilled is as it was. Not read where it is mapped: an error of the disk would end this process there."""
    found = blake3()
    room = memoryview(bytearray(_PIECE))
    try:
        for one in spilled:
            place = memory.place_of(one)
            if place is None:  # it is empty
                continue
            descriptor, at = place
            end = at + one.nbytes
            while at < end:
                count = os.preadv(descriptor, [room[: min(_PIECE, end - at)]], at)
                if not count:
                    return False
                found.update(room[:count])
                at += count
    except OSError:
        return False
    return found.digest() == check


def _file(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without files that have no name
        descriptor, path = tempfile.mkstemp(dir=folder)
        os.unlink(path)
        return descriptor
