"""Precedence: the parts of a node that answer for it have their turn before programs do, where Linux allows that (root, or CAP_SYS_NICE).

They need little and must not be late: a kernel that has no turn for HUNG_MS is taken for hung and replaced. Who has precedence does not hand it on: what it forks
is ordinary again. A nice value weighs within a session only (/proc/self/autogroup), so the session has one too; programs have theirs, and so has the guard that
starts them.
"""

import contextlib
import os
from typing import Final

NICE: Final = -10
FIRST: Final = frozenset({"supervisor", "kernel", "store", "member"})


def take() -> bool:
    """Give the calling process precedence; False, and nothing is changed, if Linux refuses. One that was started with a nice value of its own keeps that."""
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        return False
    try:
        os.sched_setscheduler(
            0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0)
        )  # first: it needs no right, and changes nothing by itself
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return False
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:  # not there if Linux groups nothing
        file.write(str(NICE))
    return True
