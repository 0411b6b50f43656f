"""Renicing: gives every thread of one tree a nice value. Linux keeps it per thread and hands it on at fork, so a look is repeated until none is left over.

Carries out, never decides who may. The launcher is left alone: it hardly runs, and it tells the program's end.
"""

import os
from collections.abc import Callable, Iterable
from typing import Final

ROUNDS_MAX: Final = 50
"""Of looks at a tree that goes on forking; what is born after the last one inherits from a parent that has been reniced."""
NICE_MIN: Final = -20
NICE_MAX: Final = 19


def renice(pids: Callable[[], Iterable[int]], nice: int, *, may_favour: bool) -> int:
    """Set the nice value of all threads of the processes that `pids` lists; return how many were changed. Idempotent.

    Raises PermissionError, with nothing changed, if one would be favoured and that may not be: by the asker (`may_favour`), or by this process.
    """
    threads = _threads(pids())
    if not may_favour and any(now > nice for _thread, now in threads):
        raise PermissionError("a lower nice value than it has now favours it over others: only root may do that")
    changed = 0
    for _round in range(ROUNDS_MAX):
        left = [thread for thread, now in threads if now != nice]
        if not left:
            break
        for thread in left:
            changed += _set(thread, nice)
        threads = _threads(pids())
    return changed


def _threads(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Return (thread, nice value) of all threads."""
    found = []
    for pid in pids:
        try:
            found += [(int(name), os.getpriority(os.PRIO_PROCESS, int(name))) for name in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            continue  # it has ended
    return found


def _set(thread: int, nice: int) -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise PermissionError("this node's user has no right to favour a process: only a node of root can") from error
    return True
