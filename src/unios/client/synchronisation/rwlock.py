"""RWLock across nodes: many readers or one writer, in the order of asking, so that neither starves.

`threading` has none; `read` and `write` are locks with its methods.
"""

import threading
from typing import Any

from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.named import Named, patience
from unios.client.synchronisation.sessions import forks
from unios.errors import LeaseLost
from unios.wire.synchronising import ALL, TIMED, YES, Ask, Token


class RWLock(Named):
    """A lock with two sides: `with lock.read:` and `with lock.write:`."""

    kind = "rwlock"

    def __init__(self, name: str, via: Connection | None = None) -> None:
        super().__init__(name, via)
        self.read = Side(self, 1)
        self.write = Side(self, ALL)

    def locked(self) -> bool:
        """Say whether anybody reads or writes."""
        return self._asked("locked").outcome == YES


class Side:
    """One side; each thread that holds it has a token of its own. Not reentrant: a reader that asks to write as well is a deadlock, and hears so."""

    def __init__(self, lock: RWLock, units: int) -> None:
        self._lock, self._units = lock, units
        self._tokens: dict[int, Token] = {}
        self._forks = forks()

    def __repr__(self) -> str:
        return f"{self._lock!r}.{self._name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._lock, self._name)

    @property
    def _name(self) -> str:
        return "read" if self._units == 1 else "write"

    @property
    def _held(self) -> dict[int, Token]:
        """The tokens by thread; a forked child holds none of its parent's: its threads have the same numbers."""
        if self._forks != forks():
            self._tokens, self._forks = {}, forks()
        return self._tokens

    @property
    def token(self) -> Token | None:
        """This thread's fencing token while it holds this side."""
        return self._held.get(threading.get_ident())

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take this side; False if it was not to be had, or not within `timeout` s."""
        flags, timeout_s = patience(blocking, timeout)
        lock, me = self._lock, threading.get_ident()
        held = self._held
        if me in held:
            raise RuntimeError(f"this thread holds that side of {lock.name} already")
        flags |= TIMED if timeout_s is not None else 0

        def take(token: Token | None) -> None:
            if token is not None:
                held[me] = token
            else:
                held.pop(me, None)

        ask = Ask(0, "take", lock.kind, lock.name, memory.actor(), self._units, 0, flags)
        answer = lock.session.call(ask, timeout_s, take)
        return answer is not None and answer.outcome == YES  # see Lock

    def release(self) -> None:
        """Give it back. RuntimeError if this thread does not hold it, LeaseLost if its lease had ended meanwhile."""
        lock, session, me = self._lock, self._lock.session, threading.get_ident()
        token = self._held.get(me)
        if token is None:
            raise RuntimeError(f"release of {lock.name}, which this thread has not acquired")
        del self._tokens[me]
        try:
            session.give(lock.kind, lock.name, token)
        except BaseException:
            session.let_fall(lock.kind, lock.name, token)  # see Lock
            raise

    def check(self) -> Token:
        """Return this thread's token if the side is held still as far as this process can know; else raise LeaseLost, or RuntimeError if it is not acquired."""
        lock, token = self._lock, self.token
        if token is None:
            raise RuntimeError(f"{lock.name} is not acquired by this thread")
        if not lock.session.holds(token):
            raise LeaseLost(f"{lock.kind} {lock.name} was lost: its lease had ended, and another may hold it")
        return token

    def __enter__(self) -> Token:
        me = threading.get_ident()
        self.acquire()
        return self._held[me]

    def __exit__(self, *_exc: object) -> None:
        self.release()
