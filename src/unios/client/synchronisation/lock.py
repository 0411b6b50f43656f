"""Lock and RLock across nodes, as `threading` has them, with a fencing token for each time one is acquired.

A lock is granted in the order of asking. A process that dies, or is stopped past its lease, loses what it holds to the next; if it goes on, its next use of
the lock says so (LeaseLost), and its token is older than the successor's. Who would wait for itself round a circle gets Deadlock, with all their names.
"""

import os
import threading
import weakref
from types import TracebackType

from unios.client.connection import Connection
from unios.client.synchronisation import memory
from unios.client.synchronisation.named import Named, patience
from unios.client.synchronisation.pending import OnToken
from unios.client.synchronisation.sessions import forks
from unios.errors import LeaseLost
from unios.wire.synchronising import YES, Ask, Token


class Lock(Named):
    """A lock that one holds at a time. Any thread of the process that holds it may release it."""

    kind = "lock"

    def __init__(self, name: str, via: Connection | None = None) -> None:
        super().__init__(name, via)
        self._token: Token | None = None
        self._taken_in = forks()
        """How often this process had been forked off when the token was granted."""
        self._taken_by = 0
        self._lost: dict[int, Token] = {}
        """Tokens of those who have lost the lock with its lease, do not know it yet, and are not the one by whom this object has acquired it since."""

    @property
    def token(self) -> Token | None:
        """The fencing token while this object holds the lock, else None: (epoch, number), greater than that of every holder before. Whoever lost it while he
        thought that he held it, and another has acquired it over this object, sees his own still."""
        if self._is_inherited:
            return None
        return self._lost.get(memory.who(), self._token) if self._lost else self._token

    @property
    def _is_inherited(self) -> bool:
        """Whether this is a forked child, and what is noted here is its parent's: threads have the same numbers in both."""
        return self._taken_in != forks()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; False if it was not to be had, or not within `timeout` s. Deadlock if it never will be."""
        flags, timeout_s = patience(blocking, timeout)
        answer = self._ask("take", timeout_s=timeout_s, flags=flags, on_token=self._taker())
        return answer is not None and answer.outcome == YES  # no call once it is taken: a signal's handler that raises there would leave it taken

    def _taker(self) -> OnToken:
        """Return what notes that the lock was granted; by whichever thread hears it, so that an interrupted one loses no lock."""
        me = memory.who()
        return lambda token: self._take(token, me)

    def _take(self, token: Token | None, me: int) -> None:
        if self._is_inherited:
            self._lost = {}
        elif token is not None:
            if me in self._lost:
                del self._lost[me]
            if self._token is not None and self._taken_by != me:
                self._lost[self._taken_by] = self._token
        self._token, self._taken_by, self._taken_in = token, me, forks()

    def _fail_if_lost(self) -> None:
        """LeaseLost, once, for whom the lock was lost while another has acquired it over this object: what that one holds is not his."""
        if self._lost and not self._is_inherited and self._lost.pop(memory.who(), None) is not None:
            raise LeaseLost(f"{self.kind} {self.name} was lost: its lease had ended, and another thread of this process has acquired it since")

    def release(self) -> None:
        """Let the next have it, without waiting. RuntimeError if this object does not hold it, LeaseLost if its lease had ended meanwhile."""
        self._fail_if_lost()
        session, token = self.session, self._token
        if token is None:
            raise RuntimeError(f"release of lock {self.name}, which is not acquired here")
        self._token = None
        try:
            session.give(self.kind, self.name, token)
        except BaseException:
            session.let_fall(self.kind, self.name, token)  # once begun it is done, even if a signal's handler has raised
            raise

    def locked(self) -> bool:
        """Say whether anybody holds it."""
        return self._asked("locked").outcome == YES

    def check(self) -> Token:
        """Return the token if the lock is held still as far as this process can know; else raise LeaseLost, or RuntimeError if it was not acquired."""
        if self._token is None:
            raise RuntimeError(f"lock {self.name} is not acquired here")
        if (self._lost and self.token != self._token) or not self.session.holds(self._token):
            raise LeaseLost(f"{self.kind} {self.name} was lost: its lease had ended, and another may hold it")
        return self._token

    def __enter__(self) -> Token:
        self.acquire()
        assert self._token is not None
        return self._token

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    # what a condition needs

    def _is_owned(self) -> bool:
        return self.token is not None

    def _wait(self, condition: str, timeout_s: float | None) -> bool:
        """Give the lock back, wait to be notified, and take it again."""
        token = self._token
        if token is None:
            raise LeaseLost(f"{self.kind} {self.name} was lost: its lease had ended, and another may hold it")
        ask = Ask(0, "wait", self.kind, self.name, memory.actor(), spec=token.epoch, number=token.number, text=condition)
        answer = self.session.call(ask, timeout_s, self._taker())
        return answer is not None and answer.value == 1


class RLock(Lock):
    """A lock that the thread which holds it may acquire again; it is free when it has been released as often. The same lock as Lock of that name.

    Whoever makes one of a name again in the same process has the same object, while somebody has it: it is the thread that holds it, not a variable.
    """

    _owner: int
    _count: int

    def __new__(cls, name: str, via: Connection | None = None) -> "RLock":
        key = (cls, name if isinstance(name, str) else "", via)
        with _making:
            found = _known.get(key)
            if found is None:
                found = super().__new__(cls)
                Lock.__init__(found, name, via)
                found._owner = found._count = 0
                _known[key] = found
        return found

    def __init__(self, name: str, via: Connection | None = None) -> None:
        """Nothing: `__new__` does it, once."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """See Lock; at once if this thread holds it. LeaseLost if it did, and its lease has ended meanwhile."""
        me = threading.get_ident()
        if self._is_inherited:
            self._token, self._owner, self._count, self._taken_in = None, 0, 0, forks()
        if self._owner == me:
            self.check()
            patience(blocking, timeout)
            self._count += 1
            return True
        return super().acquire(blocking, timeout)

    def _taker(self) -> OnToken:
        me, who = threading.get_ident(), memory.who()

        def take(token: Token | None) -> None:
            self._take(token, who)
            self._owner, self._count = (me, 1) if token is not None else (0, 0)

        return take

    def release(self) -> None:
        """See Lock; RuntimeError if another thread holds it."""
        self._fail_if_lost()
        session, me, token = self.session, threading.get_ident(), self._token
        if self._owner != me or token is None:
            raise RuntimeError(f"release of lock {self.name}, which is not acquired here")
        if self._count > 1:
            self._count -= 1
            return
        self._token, self._owner, self._count = None, 0, 0
        try:
            session.give(self.kind, self.name, token)
        except BaseException:
            session.let_fall(self.kind, self.name, token)
            raise

    def _is_owned(self) -> bool:
        return not self._is_inherited and self._owner == threading.get_ident()

    def _wait(self, condition: str, timeout_s: float | None) -> bool:
        me, count = threading.get_ident(), self._count
        self._count = self._owner = 0
        try:
            return super()._wait(condition, timeout_s)
        finally:
            self._owner, self._count = me, count


_known: "weakref.WeakValueDictionary[tuple[type[RLock], str, Connection | None], RLock]" = weakref.WeakValueDictionary()
_making = threading.RLock()


def _after_fork() -> None:
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
