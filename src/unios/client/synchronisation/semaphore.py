"""Semaphore and BoundedSemaphore across nodes, as `threading` has them.

Of the units that it begins with, those that a process holds when it dies come back. What is released beyond them is a signal: acquiring uses it up, and it
is in the manager's memory only: when that is lost the next use says DataLost.
"""

from typing import Any

from unios.client.connection import Connection
from unios.client.synchronisation.named import Named, patience
from unios.wire.synchronising import BOUNDED, YES


class Semaphore(Named):
    """Units that are taken and given back, by whomever. All who use one of a name begin it with the same `value`."""

    kind = "semaphore"
    _flags = 0

    def __init__(self, name: str, value: int = 1, via: Connection | None = None) -> None:
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        super().__init__(name, via)
        self._value = value

    def _more(self) -> tuple[Any, ...]:
        return (self._value,)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a unit; False if there was none, or none within `timeout` s."""
        flags, timeout_s = patience(blocking, timeout)
        answer = self._ask("take", timeout_s=timeout_s, flags=flags, spec=self._value)
        return answer is not None and answer.outcome == YES  # see Lock

    def release(self, n: int = 1) -> None:
        """Give `n` units back. ValueError if a bounded one would have more than it began with."""
        if n < 1:
            raise ValueError("n must be one or more")
        self._ask("release", size=n, spec=self._value, flags=self._flags)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_exc: object) -> None:
        self.release()


class BoundedSemaphore(Semaphore):
    """A semaphore that takes back no more than was taken."""

    _flags = BOUNDED
