"""Readiness: which descriptors can be read or written to. As select(2), which fails beyond descriptor 1,023: a program that uses unios may have many."""

import errno
import math
import os
import select
from collections.abc import Iterable


def wait(read: Iterable[int], write: Iterable[int] = (), *, timeout_s: float | None = None) -> tuple[list[int], list[int]]:
    """Wait until one of them is ready or time has passed (None: as long as it takes); return those to read and those to write to. OSError for one that is closed.

    One whose other side has gone is ready both ways.
    """
    readers, writers = frozenset(read), frozenset(write)
    poll = select.poll()
    for descriptor in readers | writers:
        poll.register(descriptor, select.POLLIN * (descriptor in readers) | select.POLLOUT * (descriptor in writers))
    found = dict(poll.poll(None if timeout_s is None else math.ceil(max(0.0, timeout_s) * 1000)))
    if any(mask & select.POLLNVAL for mask in found.values()):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return (
        [descriptor for descriptor, mask in found.items() if descriptor in readers and mask & ~select.POLLOUT],
        [descriptor for descriptor, mask in found.items() if descriptor in writers and mask & ~select.POLLIN],
    )
