"""Attendant: the thread of a session: it makes the connection, again when it breaks, renews the lease, and listens while nobody who asks does.

Begun by the first question; it ends when the session has held, asked and used nothing for a while, and the next question begins another. Never raises: who
waits is told.
"""

import _thread
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

from unios.client import ports
from unios.client.connection import Connection
from unios.client.synchronisation.bell import Bell
from unios.client.synchronisation.line import Broken, Line
from unios.errors import NotFound, Unavailable, UniosError
from unios.wire.synchronising import PORT

if TYPE_CHECKING:
    from unios.client.synchronisation.session import Session

CONNECT_MS: Final = 5_000
NOT_BEGUN: Final = (
    "the service that keeps them could not begin. If the disk of the store is full a person must make room on it; "
    "else the log locks.log of each node says why"
)
LINGER_S: Final = 0.02
"""So long nobody may have asked anything before the session's thread listens: while threads ask one after the other they do it themselves."""
LINGER_S_MAX: Final = 0.16
"""It looks less and less often while they go on: each look costs a change of threads."""
RETRY_S: Final = 0.02
"""Before the second attempt to connect; before each further one twice as long, up to the next."""
RETRY_S_MAX: Final = 0.32


class Attendant:
    """That of one session."""

    def __init__(self, session: "Session", connection: Connection) -> None:
        self._session, self._connection = session, connection
        self.runs = False
        """It says so itself, because who has started it may be interrupted before he knows. Under the session's mutex."""
        self._running = threading.Lock()
        """Held while it runs."""
        self.closing = False
        self._wake = Bell()
        self._asked, self._linger_s = 0, LINGER_S

    def listen(self) -> None:
        """Have it hear what comes: others wait than who could listen, or the line has broken."""
        self._wake.ring()

    def start(self) -> None:
        """Begin, in one step: a `threading.Thread` whose start is interrupted may never run, or wait for ever for who started it."""
        self.closing = False
        _thread.start_new_thread(self._thread, ())

    def wait(self, timeout_s: float) -> None:
        """Wait until it has ended."""
        if self._running.acquire(timeout=timeout_s):
            self._running.release()

    def _thread(self) -> None:
        with self._session.mutex:
            if self.runs or self.closing:
                return
            self.runs = True
        with self._running:
            try:
                self._run()
            except BaseException:
                self.runs = False
                raise

    def _run(self) -> None:
        lost_s, retry_s = time.monotonic(), RETRY_S
        while True:
            try:
                line = self._connect()
            except NotFound as error:
                failure: Exception = NotFound(f"{error}: {NOT_BEGUN}")
            except (UniosError, OSError) as error:
                failure = error
            else:
                refused = self._attend(line)
                if (line.said_bye or self.closing) and self._ends():
                    return  # else others are told at once, by what is said to be held on the next connection, what has been given back
                if not self._session.refused and refused is None:
                    lost_s, retry_s = time.monotonic(), RETRY_S
                    continue
                failure = refused or Unavailable(self._session.refused)
            self._session.not_connected(failure, time.monotonic() - lost_s, self._anybody())
            if self._ends():
                return
            time.sleep(retry_s)
            retry_s = min(2 * retry_s, RETRY_S_MAX)

    def _attend(self, line: Line) -> UniosError | None:
        """Serve one connection until it ends; return why it could not begin, if so."""
        try:
            self._session.open(line)
        except UniosError as error:
            line.close()
            return error
        try:
            with contextlib.suppress(Broken, UniosError, OSError):
                while not self.closing and self._serve(line):
                    pass
        finally:
            line.close()
            self._session.line_ended(line)
        return None

    def _connect(self) -> Line:
        try:
            return Line(ports.connect_raw(self._connection, PORT, wait_ms=CONNECT_MS))
        finally:
            self._connection.close()

    def _anybody(self) -> bool:
        """Whether somebody is there who will answer, as far as this user may see."""
        try:
            return self._connection.anybody()
        except UniosError:
            return False

    def _ends(self) -> bool:
        """Whether this thread is needed no more; then it is not the session's any more."""
        with self._session.mutex:
            if self.closing or self._session.is_idle:
                self.runs = False
                return True
        return False

    def _serve(self, line: Line) -> bool:
        """Hear what has come if nobody else does, renew when it is time; False when the line is not wanted any more."""
        session = self._session
        lingers, self._asked = self._asked != session.asked, session.asked
        self._linger_s = min(2 * self._linger_s, LINGER_S_MAX) if lingers else LINGER_S
        left_s = session.lease.renew_at_s - time.monotonic()
        me = threading.get_ident()
        woken = self._wake.wait(min(self._linger_s, left_s) if lingers or not session.listens else left_s)
        if (woken or session.asked == self._asked) and session.listens.setdefault(True, me) == me:
            try:
                self._listen(line)
            finally:
                del session.listens[True]
        return time.monotonic() < session.lease.renew_at_s or session.renew(line)

    def _listen(self, line: Line) -> None:
        """Hear what comes until it is time to renew, or nobody waits any more who could have come meanwhile."""
        session = self._session
        while True:
            heard = False
            for message in line.listen(session.lease.renew_at_s):
                heard = True
                session.on(line, message)
            session.say_later(line)
            if (heard and not session.waits) or time.monotonic() >= session.lease.renew_at_s:
                return
