"""Tie: what one process (or one node's holder) refers to at one holder, said again whenever the connection had to be made again.

A thread of its own does what must not be done where it is noticed (in a finalizer, under the holder's lock), and watches the connection's end, which is the only
sign that the other side has to be told again. Never counts references: that is counts.py, or the holder's ledger.
"""

import contextlib
import os
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from unios.client.connection import Connection
from unios.client.messages.port import Pending, Port
from unios.errors import NotFound, OutcomeUnknown, PeerRestarted, Unavailable, UniosError
from unios.limits import CLIENT_RETRY_MS
from unios.object_limits import OBJECT_AWAY_FAR_MS, OBJECT_GONE_MS, OBJECTS_CALL_S, OBJECTS_FETCHES_MAX, OBJECTS_START_S
from unios.wire.objects import Known

_LOOK_S: Final = 1.0
"""So often whoever waits for an answer looks whether the holder is still there."""
_FIRST_S: Final = 0.1
_TRIES: Final = 5
_AGAIN_MS: Final = 500


class Gone(UniosError):
    """The holder is not there any more, and what it kept is lost."""


class Tie:
    """To the holder that listens on a port. `start`: starts it if it is not there."""

    def __init__(self, name: str, *, keeps: bool = False, start: Callable[[], None] | None = None) -> None:
        self.name = name
        self._keeps, self._start = keeps, start
        self._system = Connection(role="program")
        self.ids: dict[str, Known] = {}
        self.reading: Counter[str] = Counter()
        self._token = ""
        self._begin()

    def _begin(self) -> None:
        self._port: Port | None = None
        self._idle: list[Port] = []
        self._fetches = threading.BoundedSemaphore(OBJECTS_FETCHES_MAX)
        self._lock = threading.RLock()
        self._posted: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="unios-objects", daemon=True)
        self._thread.start()

    def forked(self, token: str) -> None:
        """Go on in a forked child, with a connection of its own; `token`: of the loan that keeps the objects meanwhile."""
        before, idle, posted, self._token = self._port, self._idle, self._posted, token
        with contextlib.suppress(OSError):
            os.close(self._wake)
        self._begin()
        for port in (*((before,) if before is not None else ()), *idle):
            port.close()  # which lets go of the parent's connection without ending it
        for work in posted:
            self.post(work)
        self.post(self._come_back)

    # saying

    def post(self, work: Callable[[], None]) -> None:
        """Have it done by the thread of this tie, in order. Takes no lock: a finalizer may call it."""
        self._posted.append(work)
        with contextlib.suppress(OSError, TypeError):  # the interpreter ends
            os.eventfd_write(self._wake, 1)

    def hold(self, known: Known, token: str = "") -> None:
        """Refer to an object. What cannot be said now is said with the next connection."""
        self.ids[known[0]] = known
        self.tell("hold", known, token)

    def drop(self, id_: str) -> None:
        """Refer to it no more."""
        if self.ids.pop(id_, None) is not None:
            self.tell("drop", id_, start=False)

    def tell(self, op: str, *args: object, start: bool = True) -> None:
        """Say something that is not answered, in the order in which this is called."""
        with self._lock, contextlib.suppress(UniosError):
            if start or self._port is not None:
                self._connected(start=start).options(timeout=_FIRST_S).send(op, *args)

    def call(self, op: str, *args: object) -> Any:
        """Ask what is answered soon, and may be asked again. Gone, Unavailable, and what the holder raises."""
        for _ in range(_TRIES):
            with self._lock:
                port = self._connected(start=True)
            try:
                return self._answer(port.options(timeout=OBJECTS_CALL_S, idempotent=True).begin(op, *args), None)
            except (OutcomeUnknown, PeerRestarted, NotFound):
                if port is not self._port:  # closed here by another thread, and perhaps connected again by itself in the same moment
                    port.close()
                elif not self._is_hung(port):
                    raise
        raise Gone(f"whoever listens on port {self.name} ends again and again")

    def wait(self, op: str, *args: object, deadline: float | None) -> Any:
        """Ask what may last, over a connection of its own. TimeoutError at the deadline (time.monotonic), Gone, Unavailable."""
        if not self._fetches.acquire(timeout=None if deadline is None else max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        try:
            for _ in range(_TRIES):
                port = self._spare()
                try:
                    found = self._answer(port.options(idempotent=True).begin(op, *args), deadline)
                except (OutcomeUnknown, PeerRestarted, NotFound):
                    port.close()
                except BaseException:
                    port.close()
                    raise
                else:
                    self._idle.append(port)
                    return found
            raise Gone(f"whoever listens on port {self.name} ends again and again")
        finally:
            self._fetches.release()

    def _spare(self) -> Port:
        while self._idle:
            port = self._idle.pop()
            if not self._is_hung(port):
                return port
            port.close()
        return self._make(start=True, first=False)

    def _answer(self, pending: Pending, deadline: float | None) -> Any:
        """Wait for an answer as long as the holder is there."""
        seen = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                return pending.result(_LOOK_S if deadline is None else max(0.0, min(_LOOK_S, deadline - now)))
            except TimeoutError:
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    pending.cancel()
                    raise
                if self._is_there():
                    seen = time.monotonic()
                elif now - seen > OBJECT_GONE_MS / 1000:
                    pending.cancel()
                    raise Gone(f"nobody listens on port {self.name} any more") from None

    # the connection

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._port is not None and not self._is_hung(self._port)

    def _is_there(self) -> bool:
        try:
            Port(self.name, timeout=_FIRST_S).close()
        except UniosError:
            return False
        return True

    @staticmethod
    def _is_hung(port: Port) -> bool:
        descriptor = port.fileno()
        if descriptor < 0:
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _connected(self, *, start: bool) -> Port:
        port = self._port
        if port is not None:
            if not self._is_hung(port):
                return port
            self._port = None
            port.close()
        self._port = self._make(start=start, first=True)
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)  # that the thread watches it
        return self._port

    def _make(self, *, start: bool, first: bool) -> Port:
        begun = time.monotonic()
        until = begun + (OBJECTS_START_S if start and self._start is not None else OBJECT_GONE_MS / 1000)
        patience = _FIRST_S
        while True:
            try:
                return Port(self.name, timeout=patience, keeps=self._keeps, opened=self._opened if first else None)
            except NotFound:
                if start and self._start is not None:
                    self._start()
                    patience = 3.0
                elif time.monotonic() >= until:
                    raise Gone(f"nobody listens on port {self.name} any more") from None
            except (Unavailable, OutcomeUnknown, PeerRestarted):
                if time.monotonic() >= until or not self._system.anybody():
                    raise
                time.sleep(CLIENT_RETRY_MS / 1000)
            if time.monotonic() >= until:
                raise Unavailable(f"the holder of objects does not start within {OBJECTS_START_S} s: nobody listens on port {self.name}")

    def _opened(self) -> tuple[str, tuple[Any, ...]]:
        """Return the first message on each new connection. Takes no lock: whoever makes a connection may hold those of a port."""
        return "tie", (list(self.ids.values()), dict(self.reading), self._token)

    def _come_back(self) -> None:
        """Connect again if there is something to be said."""
        with self._lock, contextlib.suppress(UniosError):
            if self.ids or self.reading:
                self._connected(start=any(node and not self.name.endswith(f"/{node}") for _id, node, _size in list(self.ids.values())))

    # the thread

    def _run(self) -> None:
        wake, lost = self._wake, 0.0
        while not self._ended:
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            port = self._port
            descriptor = -1 if port is None else port.fileno()
            if descriptor >= 0:
                poll.register(descriptor, select.POLLRDHUP)
            found = poll.poll(_AGAIN_MS if lost else None)
            if any(one == wake for one, _mask in found):
                with contextlib.suppress(OSError):
                    os.eventfd_read(wake)
            while self._posted:
                self._posted.popleft()()
            if self._ended:
                break
            if port is not None and port is self._port and self._is_hung(port):
                lost = lost or time.monotonic()
            if lost:
                self._come_back()
                port = self._port
                if (port is not None and not self._is_hung(port)) or time.monotonic() - lost > OBJECT_AWAY_FAR_MS / 1000:
                    lost = 0.0
        os.close(wake)

    def close(self) -> None:
        """End the connection: what was referred to is not any more. Idempotent."""
        self._ended = True
        self.post(lambda: None)
        with self._lock:
            for port in (*((self._port,) if self._port is not None else ()), *self._idle):
                port.close()
            self._port, self._idle = None, []
