"""Page: memory that a parent shares with its workers, by which a task that a worker has not begun is taken back from it without asking it.

A worker writes the turn that it begins and then looks whether that is barred; the parent writes the bar and then looks what was begun (Dekker 1965). Each
has a full barrier between the two, which taking a lock is; so one of them sees the other.
"""

import mmap
import threading
import time
from typing import Final

from unios.limits import WORKERS_MAX

_WORDS: Final = 8
"""Of 8 bytes: one line of cache for each worker."""


class Page:
    """That of one crew; made before the first fork."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, WORKERS_MAX * _WORDS * 8)).cast("Q")
        self._free = list(range(WORKERS_MAX - 1, -1, -1))
        self._fence = threading.Lock()

    def take(self) -> int:
        """Return a place of one's own. IndexError if there is none."""
        place = self._free.pop()
        for word in range(3):
            self._words[place * _WORDS + word] = 0
        return place

    def give_back(self, place: int) -> None:
        self._free.append(place)

    def begin(self, place: int, turn: int) -> bool:
        """For the worker: begin a turn, if neither that nor a later one is barred: what was given before and has not begun was barred before."""
        words = self._words
        words[place * _WORDS] = turn
        with self._fence:
            pass
        return words[place * _WORDS + 1] < turn

    def bar(self, place: int, turn: int) -> int:
        """For the parent: see that of the turns up to that one none is begun any more; return the last that was, or was tried."""
        self._words[place * _WORDS + 1] = turn
        with self._fence:
            pass
        time.sleep(0.0005)  # what the worker wrote before it looked has come here by then, whatever the processor puts off
        return self._words[place * _WORDS]

    def disown(self, place: int, turn: int) -> None:
        """For the parent: say that nobody waits for what comes of a turn."""
        self._words[place * _WORDS + 2] = turn

    def is_disowned(self, place: int) -> bool:
        """For the worker: whether nobody waits for what comes of the turn that it has begun."""
        return self._words[place * _WORDS + 2] == self._words[place * _WORDS] != 0

    def begun(self, place: int) -> int:
        """Return the last turn that the worker began, or tried to."""
        return self._words[place * _WORDS]
