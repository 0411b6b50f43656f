"""Sessions: what the callers of one port have asked, each through whatever connection he has now.

One whose connection broke is kept for SESSION_KEPT_S. Bounded by PORT_SESSIONS_MAX, and for each user by SESSIONS_PER_USER_MAX: the one that has been away for
longest goes, and what is under way for it is cancelled.
"""

import threading
import time
from collections import Counter

from unios.client.messages.line import Line
from unios.client.messages.streaming import Streaming
from unios.limits import (
    KEPT_REPLIES_BYTES,
    KEPT_REPLIES_STRANGER_BYTES,
    PORT_SESSIONS_MAX,
    SESSION_KEPT_S,
    SESSIONS_PER_USER_MAX,
    STRANGER_BYTES_MAX,
)
from unios.wire.allowances import Allowance
from unios.wire.conversations import Answering

Key = tuple[str, str]


class Allowances:
    """Those of all strangers at one port. Belongs to one thread at a time."""

    def __init__(self) -> None:
        self._of: dict[str, Allowance] = {}
        """Users are of the system: there are not many."""

    def of(self, user: str) -> Allowance:
        return self._of.setdefault(user, Allowance(STRANGER_BYTES_MAX))


def answering(user: str, allowance: Allowance | None) -> Answering:
    """Return the answering side of a session; `allowance` as in Session."""
    return Answering(user, kept_max=KEPT_REPLIES_BYTES if allowance is None else KEPT_REPLIES_STRANGER_BYTES, allowance=allowance)


class Session:
    """What one caller has asked. Its fields belong to whoever holds `lock`."""

    def __init__(self, user: str, allowance: Allowance | None = None) -> None:
        """`allowance`: of a stranger; None: he is the user who listens."""
        self.user = user
        self.answering = answering(user, allowance)
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Told of: items taken, a stream withdrawn, a connection that came or went. Who neither waits nor tells enters `lock`, which is quicker."""
        self.turn = threading.Lock()
        """Held by the one request that is being answered: they go one after the other even when the connection is another one meanwhile."""
        self.line: Line | None = None
        self.left_s = 0.0
        self.streams: dict[int, Streaming] = {}

    def leave(self) -> None:
        """Nobody comes back: stop what is under way."""
        with self.changed:
            self.answering.leave()
            self.changed.notify_all()
            streams = tuple(self.streams.values())
        for streaming in streams:
            streaming.stop()


class Sessions:
    """Those of one port."""

    def __init__(self) -> None:
        self._found: dict[Key, Session] = {}
        self._away: dict[Key, Session] = {}
        """Those without a connection, the longest first."""
        self._users: Counter[str] = Counter()
        self._allowances = Allowances()
        self._is_watched = False
        """Whether somebody will call `expired` when the first of those that are away has been for long enough."""
        self._lock = threading.Lock()
        """Taken before a session's `changed`, if both are."""

    def allowance(self, user: str, *, trusted: bool) -> Allowance | None:
        """Return that of all connections of a stranger, None for the user who listens."""
        with self._lock:
            return None if trusted else self._allowances.of(user)

    def find(self, id_: str, user: str, *, trusted: bool) -> tuple[Session, bool]:
        """Return the session, and whether it was known. One of another user is not found; one without an id is nobody else's."""
        with self._lock:
            over = self._tidy(user)
            session = self._found.get((user, id_)) if id_ else None
            known = session is not None
            if session is None:
                session = Session(user, None if trusted else self._allowances.of(user))
                if id_:
                    self._found[user, id_] = session
                    self._users[user] += 1
        for one in over:
            one.leave()
        return session, known

    def attach(self, id_: str, session: Session, line: Line) -> None:
        """This is its connection from now on; one before it ends."""
        with self._lock, session.changed:  # both, or one that has just come back would be taken for one that has left
            self._away.pop((session.user, id_), None)
            before, session.line = session.line, line
            session.changed.notify_all()
        if before is not None and before is not line:
            before.close()

    def detach(self, id_: str, session: Session, line: Line) -> bool:
        """Its connection is gone; without an id so is the session. True: `expired` is to be called in SESSION_KEPT_S."""
        with self._lock, session.changed:
            if session.line is not line:
                return False
            session.line, session.left_s = None, time.monotonic()
            session.changed.notify_all()
            if self._found.get((session.user, id_)) is session:
                self._away[session.user, id_] = session
                is_first, self._is_watched = not self._is_watched, True
                return is_first
        session.leave()
        return False

    def expired(self) -> float | None:
        """Forget those that nobody will come back to. Return in how many seconds this is to be called again; None: not before `detach` says so."""
        with self._lock:
            gone = self._tidy("")
            first = next(iter(self._away.values()), None)
            self._is_watched = first is not None
        for session in gone:
            session.leave()
        return None if first is None else max(0.0, first.left_s + SESSION_KEPT_S - time.monotonic())

    def forget(self, user: str) -> None:
        """Forget what a user has asked: he has lost the right to hear of it."""
        with self._lock:
            keys = [key for key in self._found if key[0] == user]
            gone = [self._drop(key) for key in keys]
        for session in gone:
            session.leave()
            if session.line is not None:
                session.line.close()

    def leave(self) -> None:
        """The port is closed."""
        with self._lock:
            gone = list(self._found.values())
            self._found.clear()
            self._away.clear()
            self._users.clear()
        for session in gone:
            session.leave()

    def _tidy(self, user: str) -> list[Session]:
        """Forget those that nobody will come back to; return them."""
        gone = []
        due = time.monotonic() - SESSION_KEPT_S
        while self._away:
            key = next(iter(self._away))
            if self._away[key].left_s > due and len(self._found) < PORT_SESSIONS_MAX:
                break
            gone.append(self._drop(key))
        if self._users[user] >= SESSIONS_PER_USER_MAX and (key := next((key for key in self._away if key[0] == user), ("", ""))) != ("", ""):
            gone.append(self._drop(key))
        return gone

    def _drop(self, key: Key) -> Session:
        self._away.pop(key, None)
        self._users[key[0]] -= 1
        if not self._users[key[0]]:
            del self._users[key[0]]
        return self._found.pop(key)
