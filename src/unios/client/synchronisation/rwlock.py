"""RWLock across nodes: many readers or one writer, in the order of asking, so that neither starves.

`threading` has none; `read` and `write` are locks with its methods.
"""

import threading

from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.named import Named, patience
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

    @property
    def token(self) -> Token | None:
        """This thread's fencing token while it holds this side."""
        return self._tokens.get(threading.get_ident())

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take this side; False if it was not to be had, or not within `timeout` s."""
        flags, timeout_s = patience(blocking, timeout)
        lock, me = self._lock, threading.get_ident()
        if me in self._tokens:
            raise RuntimeError(f"this thread holds that side of {lock.name} already")
        flags |= TIMED if timeout_s is not None else 0

        def take(token: Token | None) -> None:
            if token is not None:
                self._tokens[me] = token
            else:
                self._tokens.pop(me, None)

        ask = Ask(0, "take", lock.kind, lock.name, memory.actor(), self._units, 0, flags)
        answer = lock.session.call(ask, timeout_s, take)
        return answer is not None and answer.outcome == YES  # see Lock

    def release(self) -> None:
        """Give it back. RuntimeError if this thread does not hold it, LeaseLost if its lease had ended meanwhile."""
        lock, session, me = self._lock, self._lock.session, threading.get_ident()
        token = self._tokens.get(me)
        if token is None:
            raise RuntimeError(f"release of {lock.name}, which this thread has not acquired")
        del self._tokens[me]
        try:
            session.give(lock.kind, lock.name, token)
        except BaseException:
            session.let_fall(lock.kind, lock.name, token)  # see Lock
            raise

    def __enter__(self) -> Token:
        me = threading.get_ident()
        self.acquire()
        return self._tokens[me]

    def __exit__(self, *_exc: object) -> None:
        self.release()
