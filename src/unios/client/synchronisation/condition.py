"""Condition across nodes, as `threading` has it, on a lock of the system.

Who is notified takes its turn for the lock at once, at the service: one message, not a race of all. When the service is lost everybody who waits wakes, since
a notification may have been lost with it: as ever, wait in a loop, or with `wait_for`.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.named import patience
from unios.wire.synchronising import Ask, Token

T = TypeVar("T")
EVERYBODY = 1 << 30


class Condition:
    """A condition of that name on `lock`, by default the RLock of the same name."""

    def __init__(self, name: str, lock: Lock | None = None, via: Connection | None = None) -> None:
        self.name = name
        self._lock = lock if lock is not None else RLock(name, via)
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self._lock)

    def __repr__(self) -> str:
        return f"unios.Condition({self.name!r})"

    @property
    def token(self) -> Token | None:
        return self._lock.token

    def __enter__(self) -> Token:
        return self._lock.__enter__()

    def __exit__(self, *_exc: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait to be notified, take it again; False at the timeout (s). RuntimeError if the lock is not held."""
        self._check_owned("wait on")
        return self._lock._wait(self.name, patience(True, max(timeout, 0.001) if timeout is not None else None)[1])

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until `predicate` holds, or the timeout; return what it said last."""
        until = None if timeout is None else time.monotonic() + timeout
        result = predicate()
        while not result:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wake the `n` that have waited longest."""
        self._check_owned("notify on")
        self._lock.session.call(Ask(0, "notify", self._lock.kind, self._lock.name, memory.actor(), n, text=self.name))

    def notify_all(self) -> None:
        """Wake all who wait."""
        self.notify(EVERYBODY)

    def _check_owned(self, what: str) -> None:
        if not self._lock._is_owned():
            raise RuntimeError(f"cannot {what} the condition {self.name}: its lock is not acquired")
        self._lock.check()
