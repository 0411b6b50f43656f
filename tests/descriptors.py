"""Which descriptors this process has open, so that a test can tell what it left from what tests before it left and what ends meanwhile."""

import os

Descriptors = frozenset[tuple[int, int, int]]


def descriptors() -> Descriptors:
    """Return the open descriptors, each as (number, device, inode). What a test has left is `descriptors() - before`; nothing is if `descriptors() <= before`.

    A count would not do: one that an earlier test left and that is closed meanwhile hides one that this test leaves, or looks like a fault of it.
    """
    found = list[tuple[int, int, int]]()
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # of the listing itself
            continue
        found.append((int(name), status.st_dev, status.st_ino))
    return frozenset(found)
