"""Sequencer: the kernel's event loop, asyncio's with its one queue replaced by the 32 of core/sequences.py.

Each callback belongs to the sequence of the context that it was made in (wire/running.py), so a task's every step does. After each step of a
background sequence the loop looks at its descriptors: what arrives preempts the flood at its next step. A step itself is never broken. What is urgent
runs in chains (wire/chained.py).

It relies on one inner name of asyncio, the queue `_ready` and how it is used by `_run_once`; tests/kernel/test_sequencer.py fails if that changes.
"""

import asyncio
import os
import threading
from collections import deque
from typing import Any, Final

from unios.core.sequences import CALL, Sequences
from unios.kernel import allocation
from unios.wire.beating import BeatingLoop
from unios.wire.chained import LINKS_MAX, REST
from unios.wire.running import PRIORITISED, RUNNING
from unios.wire.ticks import keep_step

SWITCH: Final = "UNIOS_SEQUENCES"
"""Set to `off` in the environment of `unios up`, a kernel works in order of arrival: only to be measured."""


def switched_on() -> bool:
    return os.environ.get(SWITCH, "") != "off"


class ReadyQueue:
    """What asyncio's loop needs of its queue: append, popleft, clear, and how many to run before it polls again."""

    def __init__(self, *, prioritised: bool) -> None:
        self._sequences: Sequences[Any] = Sequences(prioritised=prioritised)
        self._prioritised = prioritised
        self._owner = threading.get_ident()
        self._in_chain = False
        self._strangers: deque[Any] = deque()
        """From other threads (call_soon_threadsafe); they wake the loop, which takes them in."""
        self._waiting: set[int] = set()
        """What waits, by identity. A descriptor that is ready hands in the same handle at each look; where a sequence is not served at each look, its
        queue would grow with every one, faster than it is worked off, and what the sequence really has to do would wait behind that."""

    def append(self, handle: Any) -> None:
        if threading.get_ident() != self._owner:
            self._strangers.append(handle)
        elif id(handle) not in self._waiting:
            self._waiting.add(id(handle))
            self._sequences.raise_flag(handle._context.get(RUNNING, CALL), handle)

    def popleft(self) -> Any:
        if self._in_chain and not self._sequences.urgent:
            return REST
        handle = self._sequences.take()
        self._waiting.discard(id(handle))
        return handle

    def __len__(self) -> int:
        while self._strangers:
            self.append(self._strangers.popleft())
        if not self._prioritised:
            return self._sequences.count
        urgent = self._sequences.urgent
        self._in_chain = urgent > 0
        return (1 + LINKS_MAX) * urgent if urgent else self._sequences.quantum()

    def clear(self) -> None:
        self._sequences.clear()
        self._waiting.clear()
        self._strangers.clear()


class SequencedLoop(BeatingLoop):
    """Made and run in one thread."""

    def __init__(self, *, prioritised: bool = True) -> None:
        super().__init__()
        self._ready = ReadyQueue(prioritised=prioritised)


def run(main: Any) -> None:
    """Run a coroutine to its end, as asyncio.run does."""
    on = switched_on()
    keep_step()
    PRIORITISED.set(on)
    allocation.keep_buffers()
    with asyncio.Runner(loop_factory=lambda: SequencedLoop(prioritised=on)) as runner:
        runner.run(main)
