"""Losses: what a call ends with when the worker that had it is gone, and which ending that was."""

from concurrent.futures import BrokenExecutor

from unios.core.task_orders import Why
from unios.errors import OutcomeUnknown, Unavailable


class ExecutorBroken(Unavailable, BrokenExecutor):
    """The executor cannot go on, for the reason that is said; what it has not done it does not do."""


class WorkerLost(OutcomeUnknown, BrokenExecutor):
    """The worker that had the call is gone; the call may have been carried out, in part or wholly. The executor goes on with another worker.

    `why`: "died" (it ended, or was killed), "memory" (Linux killed it for want of memory), "node" (its node was lost) or "connection" (nobody knows).
    """

    def __init__(self, text: str = "", why: Why = "died") -> None:
        super().__init__(text)
        self.why: Why = why

    def __reduce__(self) -> tuple[type["WorkerLost"], tuple[str, Why]]:
        return type(self), (str(self), self.why)
