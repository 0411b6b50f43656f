"""Losses: what a call ends with when the worker that had it is gone, and which ending that was."""

import os
import signal
from concurrent.futures import BrokenExecutor
from typing import Final

from unios.core.task_orders import Loss, Why
from unios.errors import OutcomeUnknown, Unavailable, UniosError, fresh
from unios.wire.parcels import Gone

CUT: Final = os.EX_UNAVAILABLE
"""Exit code of the parent of workers, whose connection to the executor has ended though nobody told it to end: it takes them along."""


class ExecutorBroken(Unavailable, BrokenExecutor):
    """The executor cannot go on, for the reason that is said; what it has not done it does not do."""


class WorkerLost(OutcomeUnknown, BrokenExecutor):
    """The worker that had the call is gone; the call may have been carried out, in part or wholly. The executor goes on with another worker.

    `why`: "died" (it ended, or was killed), "memory" (Linux killed it for want of memory), "node" (its node was lost) or "connection" (what joins it to the executor
    broke, or nobody knows).
    """

    def __init__(self, text: str = "", why: Why = "died") -> None:
        super().__init__(text)
        self.why: Why = why

    def __reduce__(self) -> tuple[type["WorkerLost"], tuple[str, Why]]:
        return type(self), (str(self), self.why)


def why(broken: ExecutorBroken | None) -> UniosError:
    """Return what a call fails with when nothing goes on, anew for each: else all who catch it would have one traceback, which grows."""
    return fresh(broken or ExecutorBroken("the executor ended"))


def loss_of(gone: Gone, node: str) -> Loss:
    """Return how a worker was lost, by what its parent says of its end."""
    where = f" on node {node}" if node else ""
    if gone.memory:
        return Loss("memory", f"was killed by Linux for want of memory{where}")
    if os.WIFSIGNALED(gone.status):
        number = os.WTERMSIG(gone.status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "?"
        return Loss("died", f"was killed by signal {number} ({name}){where}")
    return Loss("died", f"ended with exit code {os.waitstatus_to_exitcode(gone.status)}{where}")
