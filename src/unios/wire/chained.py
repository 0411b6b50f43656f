"""Chained: an asyncio loop that looks at its descriptors after a chain of callbacks, not after each link of it.

A request makes a task, the task a future, the future wakes another task: each link is ready only when the one before it has run, and asyncio asks Linux
for events between any two. That costs about as much as a link. Here what the callbacks of one round have made ready runs in the same round, up to
LINKS_MAX links for each: then it looks.

It relies on one inner name of asyncio, the queue `_ready`, and on how `_run_once` uses it; tests/kernel/test_sequencer.py fails if that changes.
"""

import asyncio
from collections import deque
from typing import Any, Final

from unios.wire.beating import BeatingLoop

LINKS_MAX: Final = 4


class Rest:
    """In the place of a callback when there is none left: it counts as one that was cancelled."""

    _cancelled = True


REST: Final = Rest()


class ReadyQueue(deque[Any]):
    """What asyncio's loop needs of its queue."""

    def __len__(self) -> int:
        return (1 + LINKS_MAX) * super().__len__()

    def popleft(self) -> Any:
        return super().popleft() if super().__len__() else REST


class ChainedLoop(BeatingLoop):
    """Made and run in one thread."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = ReadyQueue()


def run(main: Any) -> None:
    """Run a coroutine to its end, as asyncio.run does."""
    with asyncio.Runner(loop_factory=ChainedLoop) as runner:
        runner.run(main)
