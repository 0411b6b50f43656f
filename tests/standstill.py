"""Standing still: all of a machine, or of a node, is stopped, whatever it is just starting."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable


def signal_all(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_all(find: Callable[[], Iterable[int]]) -> list[int]:
    """Stop what `find` finds, and return it.

    It is asked until nothing new is there: what was forked between a look and the signals would run on while all that watches over it stands still.
    """
    stopped: dict[int, None] = {}
    while new := [pid for pid in find() if pid not in stopped]:
        signal_all(signal.SIGSTOP, new)
        stopped.update(dict.fromkeys(new))
    return list(stopped)
