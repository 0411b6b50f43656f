"""Running: on behalf of which sequence (core/sequences.py) the present code runs. Tasks, timers and callbacks inherit it, as a thread its priority."""

import contextvars
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from unios.core.sequences import CALL

P = ParamSpec("P")
T = TypeVar("T")

RUNNING: contextvars.ContextVar[int] = contextvars.ContextVar("sequence", default=CALL)
PRIORITISED: contextvars.ContextVar[bool] = contextvars.ContextVar("prioritised", default=True)
"""False only where the kernel's sequences are switched off to be measured."""


def become(sequence: int) -> None:
    """Go on in that sequence, from the next step of this task on."""
    RUNNING.set(sequence)


def context_of(sequence: int) -> contextvars.Context:
    """Return a context for a task of that sequence."""
    context = contextvars.copy_context()
    context.run(RUNNING.set, sequence)
    return context


def in_sequence(sequence: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work` now; the callbacks and tasks that it makes are of that sequence."""
    return context_of(sequence).run(work, *args, **kwargs)
