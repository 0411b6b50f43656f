"""The node's clocks. Deadlines use CLOCK_BOOTTIME: it goes on while the machine sleeps, and nobody can set it."""

import time


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_ms() -> int:
    return boot_ns() // 1_000_000


def wall_ms() -> int:
    """For people only: never compared, never a deadline."""
    return time.time_ns() // 1_000_000
