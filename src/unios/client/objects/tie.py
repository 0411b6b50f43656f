"""Tie: what one process (or one node's holder) refers to at one holder, said again whenever the connection had to be made again.

A thread of its own does what must not be done where it is noticed (in a finalizer, under the holder's lock), and watches the connection's end, which is the only
sign that the other side has to be told again. Never counts references: that is counts.py, or the holder's ledger.
"""

import contextlib
import itertools
import os
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from unios.client.connection import Connection
from unios.client.messages.port import Pending, Port
from unios.client.objects.alarm import Alarm
from unios.client.objects.starting import runs_on
from unios.errors import NotFound, OutcomeUnknown, PeerRestarted, Unavailable, UniosError
from unios.limits import CLIENT_RETRY_MS
from unios.object_limits import OBJECT_AWAY_FAR_MS, OBJECT_GONE_MS, OBJECT_SILENT_MS, OBJECTS_CALL_S, OBJECTS_FETCHES_MAX, OBJECTS_START_S
from unios.wire.objects import Known

_LOOK_S: Final = 1.0
"""So often whoever waits for an answer looks whether the holder is still there."""
_FIRST_S: Final = 0.1
_PATIENCE_S: Final = 3.0
_TRIES: Final = 5
_AGAIN_MS: Final = 500
_TURN_S: Final = 0.01
"""So long one waits for each place in turn, when all are taken."""
_SOON_S: Final = 0.002
"""So long what is posted may wait, so that whoever posts it in the midst of a call is not held up."""


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
        self._is_gone = False
        """Nothing was seen of the holder since it was found to be gone: who asks next need not wait for that once more."""
        self._begin()

    def _begin(self) -> None:
        self._port: Port | None = None
        self._idle: list[Port] = []
        self._places = [threading.RLock() for _ in range(OBJECTS_FETCHES_MAX)]
        """Each held by one who waits for an object. No semaphore: if a signal's handler raises, a lock says whether it was had."""
        self._lock = threading.RLock()
        self._posted: deque[Callable[[], object]] = deque()
        self._unsaid: dict[str, tuple[Known, str]] = {}
        """What is referred to and was not said yet, by id, each with its loan's token; popped by whoever says it."""
        try:
            self._alarm = Alarm(_SOON_S)
        except OSError as error:
            raise Unavailable(
                f"the holder of objects cannot be reached: this program may have no more descriptors ({error.strerror}, ulimit -n)"
            ) from error
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="unios-objects", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._alarm.close()
            raise Unavailable(f"the holder of objects cannot be reached: this program may have no more threads ({error})") from error

    def forked(self, token: str) -> None:
        """Go on in a forked child, with a connection of its own; `token`: of the loan that keeps the objects meanwhile."""
        before, idle, posted, self._token = self._port, self._idle, self._posted, token
        self._alarm.close()
        self._begin()
        for port in (*((before,) if before is not None else ()), *idle):
            port.close()  # which lets go of the parent's connection without ending it
        for work in posted:
            self.post(work)
        self.post(self._come_back)

    # saying

    def post(self, work: Callable[[], object]) -> None:
        """Have it done by the thread of this tie, in order, within _SOON_S. Takes no lock: a finalizer may call it."""
        self._posted.append(work)
        self._alarm.soon()

    def hold(self, known: Known, token: str = "") -> None:
        """Refer to an object. It is said within _SOON_S, before whatever else is said; what cannot be said then is said with the next connection."""
        self.ids[known[0]] = known
        if known[0] in self._unsaid:
            self.tell("hold", known, token)
        else:
            self._unsaid[known[0]] = (known, token)
            self.post(self._hold_now)

    def take_unsaid(self, id_: str) -> tuple[Known, str] | None:
        """Return what `hold` has not said yet of an object, if anything: the caller says it with what he asks, or calls `hold` again."""
        return self._unsaid.pop(id_, None)

    def _hold_now(self) -> None:
        with self._lock, contextlib.suppress(UniosError):
            if self._unsaid:
                self._say_unsaid(self._connected(start=True))

    def _say_unsaid(self, port: Port) -> bool:
        """Say what is referred to; False if that fails: the connection has ended, and the next one begins with it."""
        with contextlib.suppress(KeyError):
            while self._unsaid:
                _id, (known, token) = self._unsaid.popitem()
                try:
                    port.options(timeout=_FIRST_S).send("hold", known, token)
                except UniosError:
                    port.close()
                    return False
        return True

    def drop(self, id_: str) -> None:
        """Refer to it no more."""
        if self.ids.pop(id_, None) is not None:
            self.tell("drop", id_, start=False)

    def lend(self, ids: list[str], token: str, *, start: bool = True) -> None:
        """References are about to be sent. If that cannot be said now, it is said once more by this tie's thread."""
        if not self.tell("lend", ids, token, start=start):
            self.post(partial(self.tell, "lend", ids, token, start=False))

    def begin_reading(self, id_: str) -> None:
        """This process reads an object that it has not asked for: say so. A connection that is made anew meanwhile begins without it, or it would count twice."""
        with self._lock, contextlib.suppress(UniosError):
            try:
                port = self._connected(start=False)
                if not self._say_unsaid(port):
                    return
            finally:
                self.reading[id_] += 1
            try:
                port.options(timeout=_FIRST_S).send("reads", id_)
            except UniosError:
                port.close()
                raise

    def tell(self, op: str, *args: object, start: bool = True) -> bool:
        """Say something that is not answered, in the order in which this is called. False: it was not said, and the connection is made again."""
        with self._lock, contextlib.suppress(UniosError):
            if not start and self._port is None:
                return False
            port = self._connected(start=start)
            if not self._say_unsaid(port):
                return False
            try:
                port.options(timeout=_FIRST_S).send(op, *args)
                return True
            except UniosError:
                port.close()  # or what follows would be heard without it
                raise
        return False

    def call(self, op: str, *args: object, deadline: float | None = None) -> Any:
        """Ask what is answered soon, and may be asked again. TimeoutError at the deadline (time.monotonic), Gone, Unavailable, and what the holder raises."""
        for _ in range(_TRIES):
            lock = self._lock
            try:
                if not lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                port = self._connected(start=True, deadline=deadline)
                self._say_unsaid(port)  # if that fails, what follows finds it ended
            finally:
                try:  # in one call: a signal's handler may raise after each
                    lock.release()
                except RuntimeError:  # it was not acquired
                    pass
            longest = OBJECTS_CALL_S if deadline is None else max(0.0, min(OBJECTS_CALL_S, deadline - time.monotonic()))
            try:
                return self._answer(port.options(timeout=longest, idempotent=True).begin(op, *args), deadline)
            except (OutcomeUnknown, PeerRestarted, NotFound):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError from None
                if port is not self._port:  # closed here by another thread, and perhaps connected again by itself in the same moment
                    port.close()
                elif not self._is_hung(port):
                    raise
        raise Gone(f"whoever listens on port {self.name} ends again and again")

    def wait(self, op: str, *args: object, deadline: float | None) -> Any:
        """Ask what may last, over a connection of its own. TimeoutError at the deadline (time.monotonic), Gone, Unavailable."""
        place = self._places[0]
        try:
            for at, place in enumerate(itertools.cycle(self._places)):
                left = _TURN_S if deadline is None else max(0.0, min(_TURN_S, deadline - time.monotonic()))
                if place.acquire(timeout=left if at >= OBJECTS_FETCHES_MAX else 0.0):
                    break
                if not left:
                    raise TimeoutError
            for _ in range(_TRIES):
                port = self._spare(deadline)
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
            try:  # as above
                place.release()
            except RuntimeError:
                pass

    def _spare(self, deadline: float | None) -> Port:
        while self._idle:
            port = self._idle.pop()
            if not self._is_hung(port):
                return port
            port.close()
        return self._make(start=True, first=False, deadline=deadline)

    def _answer(self, pending: Pending, deadline: float | None) -> Any:
        """Wait for an answer as long as the holder is there. What ends this, a signal's handler too, withdraws what was asked."""
        seen = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                until = now + _LOOK_S if deadline is None else min(now + _LOOK_S, deadline)
                try:
                    return pending.result(max(0.0, until - now))
                except TimeoutError:
                    now = time.monotonic()
                    if now < until or (deadline is not None and now >= deadline):
                        raise  # it is a signal's handler's, or it is too late
                if self._is_there():
                    seen = time.monotonic()
                else:
                    self._give_up(now - seen)
        except BaseException:
            pending.cancel()
            raise

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

    def _connected(self, *, start: bool, deadline: float | None = None) -> Port:
        port = self._port
        if port is not None:
            if not self._is_hung(port):
                return port
            self._port = None
            port.close()
        self._port = self._make(start=start, first=True, deadline=deadline)
        self._alarm.now()  # that the thread watches it
        return self._port

    def _make(self, *, start: bool, first: bool, deadline: float | None = None) -> Port:
        begun, patience = time.monotonic(), _TURN_S if self._is_gone else _FIRST_S
        while True:
            left = patience if deadline is None else max(0.0, min(patience, deadline - time.monotonic()))
            try:
                port = Port(self.name, timeout=left, keeps=self._keeps, opened=self._opened if first else None)
                self._is_gone = False
                return port
            except NotFound:
                patience = _FIRST_S
                if start and self._start is not None:
                    self._start()
                    patience = _PATIENCE_S
            except (Unavailable, OutcomeUnknown, PeerRestarted) as error:
                if isinstance(error, Unavailable) and "UNIOS_PID" not in os.environ and not self._system.anybody():
                    raise  # the system is down; a process of it would see none of a node's
                patience = min(_PATIENCE_S, 2 * patience)
                time.sleep(CLIENT_RETRY_MS / 1000)
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError
            if not start or self._start is None:
                self._give_up(now - begun)
            elif now - begun >= OBJECTS_START_S:
                raise Unavailable(
                    f"nobody answers on port {self.name}: the holder of objects does not start within {OBJECTS_START_S} s, or is stopped"
                )

    def _give_up(self, silent_s: float) -> None:
        """Raise once nothing has been seen of the holder for so long: Gone if the process table says that it is, Unavailable if it may come back."""
        if self._is_gone or silent_s > OBJECT_GONE_MS / 1000:
            self._is_gone = not self._is_running()
            if self._is_gone:
                raise Gone(f"nobody listens on port {self.name} any more")
        if silent_s > OBJECT_SILENT_MS / 1000:
            raise Unavailable(f"nobody answers on port {self.name}: the holder of objects there is stopped, or its node cannot be reached")

    def _is_running(self) -> bool:
        try:
            with self._system.again() as connection:
                return runs_on(connection, self.name.rpartition("/")[2])
        except UniosError:
            return True  # nobody knows

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
        alarm, lost = self._alarm, 0.0
        while not self._ended:
            poll = select.poll()
            poll.register(alarm.descriptor, select.POLLIN)
            port = self._port
            descriptor = -1 if port is None else port.fileno()
            if descriptor >= 0:
                poll.register(descriptor, select.POLLRDHUP)
            poll.poll(_AGAIN_MS if lost else None)
            alarm.heard()
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
        alarm.close()

    def close(self) -> None:
        """End the connection: what was referred to is not any more. Idempotent."""
        self._ended = True
        self._alarm.now()
        with self._lock:
            for port in (*((self._port,) if self._port is not None else ()), *self._idle):
                port.close()
            self._port, self._idle = None, []
