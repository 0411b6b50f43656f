"""Ends: a session of a caller and its connection, shared by the threads of one process.

There is no thread behind it: of those who wait for an answer one reads, and hands the others theirs (leader and followers). The connection comes back after a
break by itself, and so does the port after its owner was restarted or moved: callers wait. A forked child has a session of its own.
"""

import contextlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from os import getpid
from pathlib import Path
from threading import get_ident
from typing import Any, Final

from msgspec.structs import replace

from unios.client.connection import Connection
from unios.client.messages import bringing, places
from unios.client.messages.line import Closed, Late, Line
from unios.client.messages.outcomes import outcome
from unios.errors import CallerError, OutcomeUnknown, ProtocolError, Unavailable, UniosError, fresh
from unios.limits import CLIENT_RETRY_MS, HELLO_TIMEOUT_MS, REQUESTS_PER_PEER_MAX
from unios.wire.conversations import Asked, Asking
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Fault, Reply, Request, agree
from unios.wire.values import Value, decode, encode, made

_VERSIONS: Final = (PROTOCOL_MIN, PROTOCOL_MAX)
_ANSWERS: Final = frozenset({Reply, Fault})
Opened = Callable[[], tuple[str, tuple[Any, ...]]] | None
"""Gives the one-way message (operation, arguments) that is the first on each new connection."""
_ASIDE_S: Final = 0.000_2
"""So long at a time a thread whose peer takes nothing leaves the listening to the one that reads."""
_INTERRUPTED: Final = "this port is used in a signal's handler that has interrupted a call on it"
"""Said in a handler that has interrupted what this very thread does here: its message would go into the midst of another one."""


class Ends:
    """A session and its connection, shared by the threads of one process."""

    _forking: threading.Lock = threading.Lock()
    """Held by the thread of a forked child that takes its parent's sessions down."""

    @classmethod
    def after_fork(cls) -> None:
        """Let go of a lock that another thread of the parent held."""
        cls._forking = threading.Lock()

    def __init__(self, name: str, home: "Path | str | None", node: str, keeps: bool = False, opened: Opened = None) -> None:
        self.name = name
        self._home, self._node = home, node
        self._keeps, self._opened = keeps, opened
        self._line: Line | None = None
        self._begin()

    def _begin(self) -> None:
        self._asking = Asking(uuid.uuid4().hex)
        self._heard: Line | None = None
        """The connection that was greeted last: what was read from an earlier one is asked for again, and counts no more."""
        self._lock = threading.RLock()
        """Of `_asking`. An RLock says to whom it belongs: see _INTERRUPTED."""
        self._connect = threading.RLock()
        """Held by whoever makes the connection anew."""
        self._opened_s = 0.0
        """When that was done last: it is not done again for CLIENT_RETRY_MS, since the other side may end each connection. 0: this side has closed it."""
        self._leads: dict[bool, int] = {}
        """The thread that reads, at True: `setdefault` decides between those who would, and no signal comes between that and its being known.

        It is taken out by operators only, without a call: a signal's handler may raise at each call, and then nobody would read any more."""
        self._bells: deque[threading.Lock] = deque()
        """Of those who wait for the one who reads; whoever releases one wakes its thread. A Condition does not stand a signal's handler that raises."""
        self._unsaid: deque[Asked] = deque()
        """Withdrawn, and the other side is still to be told: somebody was sending."""
        self._pid = os.getpid()  # last: another thread of a forked child may see it and go on

    def _fork_check(self) -> None:
        if self._pid != os.getpid():
            with Ends._forking:
                if self._pid != os.getpid():
                    self._forked()

    def _forked(self) -> None:
        """Begin anew in a forked child. What the parent has asked ends here: the ids of the new session are the same ones."""
        if self._line is not None:
            self._line.drop()
            self._line = None
        for asked in list(self._asking.open.values()):
            asked.failure, asked.ended = _of_the_parent(asked.op), True
            asked.items.clear()
        self._begin()

    # the connection

    @property
    def line(self) -> Line | None:
        """The connection, if there is one."""
        return self._line

    def open(self, deadline: float | None) -> Line:
        """Return the connection, made again if it is gone. Waits until the deadline: NotFound, Unavailable, OutcomeUnknown if others connect all the time."""
        line = self._line
        if line is not None and not line.is_closed:
            return line
        lock = self._connect
        if lock._is_owned():  # type: ignore[attr-defined]
            raise CallerError(_INTERRUPTED)
        try:
            if not lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
                raise OutcomeUnknown(f"port {self.name} was not reached in time")
            if self._line is not None:
                if not self._line.is_closed:
                    return self._line
                self._line.release()
                self._line = None
            return self._reopen(deadline)
        finally:
            try:  # in one call: a signal's handler may raise after each
                lock.release()
            except RuntimeError:  # it was not acquired
                pass

    def _reopen(self, deadline: float | None) -> Line:
        early_s = self._opened_s + CLIENT_RETRY_MS / 1000 - time.monotonic()
        if early_s > 0:
            time.sleep(early_s if deadline is None else max(0.0, min(early_s, deadline - time.monotonic())))
        with Connection(self._home, self._node, role="program") as connection:
            while True:
                line = places.connect(connection, self.name, deadline, until=deadline, keeps=self._keeps)
                try:
                    self._resume(line, deadline)
                except (Closed, Late):
                    line.release()
                    if deadline is not None and time.monotonic() >= deadline:
                        raise OutcomeUnknown(f"port {self.name} was not reached in time") from None
                    time.sleep(CLIENT_RETRY_MS / 1000)
                    continue
                except BaseException:
                    line.release()
                    raise
                self._line, self._opened_s = line, time.monotonic()
                return line

    def _resume(self, line: Line, deadline: float | None) -> None:
        """Greet on a new connection, and send again what is to be. Nobody else uses it yet, so it is read here."""
        greeting = time.monotonic() + HELLO_TIMEOUT_MS / 1000
        theirs = line.greet(self._asking.hello(_VERSIONS), greeting if deadline is None else min(greeting, deadline))
        agree(theirs)
        with self._lock:
            self._heard = line
            again, _failed = self._asking.greeted(theirs)
        if self._opened is not None:
            self._say_first(line, *self._opened(), deadline)
        with self._lock:
            waiting = self._asking.waiting()
        if not any(asked.sent for asked in again):
            return
        line.send(waiting, lambda: self._listen(line), deadline)
        for asked in again:
            if asked.sent and not asked.ended:
                try:
                    self._transmit(line, asked, lambda: self._listen(line), deadline)
                except CallerError as error:  # there is no memory for it now
                    with self._lock:
                        self._asking.fail(asked, OutcomeUnknown(f"{asked.op} could not be sent again: {error}"))

    def _say_first(self, line: Line, op: str, args: tuple[Any, ...], deadline: float | None) -> None:
        first = encode((args, {}), trusted=line.trusted)._replace(trusted=line.trusted)
        with self._lock:
            told = self._asking.ask(op, first, oneway=True)
        try:
            self._transmit(line, told, lambda: self._listen(line), deadline)
        finally:
            with self._lock:
                self._asking.left(told)

    def _transmit(self, line: Line, asked: Asked, while_blocked: Callable[[], None], deadline: float | None) -> None:
        if asked.value.trusted and not line.trusted:
            with self._lock:
                self._asking.fail(asked, OutcomeUnknown(f"another user listens on port {self.name} now: whether {asked.op} was done is not known"))
            return
        asked.on = line
        if not asked.value.buffers:
            with self._lock:
                message = asked.request(self._asking.ack, (), 0)
            line.send(message, while_blocked, deadline)
            return

        def request(places: tuple[tuple[int, int, int], ...], count: int) -> Request:
            with self._lock:
                return asked.request(self._asking.ack, places, count)

        line.send_value(request, asked.value.buffers, while_blocked, deadline)

    def _look(self, line: Line) -> None:
        """Take in what is there, unless another thread reads."""
        me = threading.get_ident()
        try:
            if self._leads.setdefault(True, me) == me:
                with contextlib.suppress(Closed, ProtocolError):  # whoever waits will see it
                    self._listen(line)
        finally:
            if True in self._leads and self._leads[True] == me:  # see _leads
                del self._leads[True]
                self._wake()

    def _while_blocked(self, line: Line) -> None:
        """The other side takes nothing, and says something: listen, unless another thread does."""
        me = threading.get_ident()
        if self._leads.get(True) == me:
            self._listen(line)
            return
        try:
            if self._leads.setdefault(True, me) == me:
                self._listen(line)
            else:
                time.sleep(_ASIDE_S)
        finally:
            if True in self._leads and self._leads[True] == me:  # see _leads
                del self._leads[True]
                self._wake()

    def _listen(self, line: Line) -> None:
        """Take in what is there, and say nothing."""
        with contextlib.suppress(Late):
            self._take_in(line, time.monotonic())

    # asking

    def ask(self, op: str, value: object, deadline: float | None, *, again: bool = False, stream: bool = False, oneway: bool = False) -> Asked:
        """Begin a request and send it; waits for a connection, and for room among what is under way. With few calls of functions for what most requests
        are, on a connection that is there: one for each step took more time than all the rest (decision 0036)."""
        if self._pid != getpid():
            self._fork_check()
        line, lock = self._line, self._lock
        if line is None or line.is_closed:
            line = self.open(deadline)
        if lock._is_owned() or line.sending._is_owned():  # type: ignore[attr-defined]
            raise CallerError(_INTERRUPTED)
        if not op.isprintable():
            raise CallerError(f"{op[:80]!r} is no name of an operation")
        if bringing.lent:  # by this thread, to something else than a message
            bringing.lent.pop(get_ident(), None)
        body, buffers, _received = encode(value, trusted=line.trusted)
        encoded = made(Value, (body, buffers, line.trusted))
        if self._unsaid:
            self._say_unsaid()
        asking = self._asking
        asked: Asked | None = None
        message: Request | None = None
        try:
            while asked is None:
                with lock:
                    if len(asking.open) < REQUESTS_PER_PEER_MAX:
                        asked = asking.make(op, encoded, again, stream, oneway)
                        asking.open[asked.id] = asked  # no call: a signal's handler may raise after each
                        if not (stream or oneway or buffers):
                            message = asked.request(asking.ack, (), 0)
                        break
                if not self.wait("a call before it", lambda: not asking.is_full, deadline):
                    raise Unavailable(f"{len(asking.open)} calls are under way on port {self.name}, and none was answered in time")
            if message is None:
                self._send(line, asked, deadline)
                return asked
            asked.sent, asked.on = True, line
            try:
                if not bringing.lent or not self._bring(line, message, deadline):
                    line.send(message, lambda: self._while_blocked(line), deadline)
            except Closed as error:
                self._send(self._reached(line, asked, error, deadline), asked, deadline)
        except Late:
            assert asked is not None
            raise self.give_up(asked) from None
        except BaseException:
            if asked is not None:
                self.give_up(asked, "it was broken off")
            raise
        return asked

    def _bring(self, line: Line, message: Request, deadline: float | None) -> bool:
        """Send a message with the object that it refers to; False if it refers to none that this process has put, or goes too far for that."""
        found = bringing.lent_here()
        if found is None or not (line.local and line.trusted):
            return False
        line.send_bringing(replace(message, brought=found[0], descriptors=1), found[1], lambda: self._while_blocked(line), deadline)
        return True

    def _send(self, line: Line, asked: Asked, deadline: float | None) -> None:
        asked.sent = True
        while asked.on is not line and not asked.ended:
            try:
                self._transmit(line, asked, lambda line=line: self._while_blocked(line), deadline)  # type: ignore[misc]
                break
            except Closed as error:
                line = self._reached(line, asked, error, deadline)
        if asked.oneway:
            if asked.failure is not None:
                self.outcome(asked)
            with self._lock:
                self._asking.left(asked)

    def _reached(self, line: Line, asked: Asked, error: Closed, deadline: float | None) -> Line:
        """The connection broke while a request was sent: return the next one."""
        if not error.sent and asked.on is line:
            asked.sent = False  # the owner was gone before: that is no reason to know nothing
        try:
            line = self.open(deadline)  # which sends again what was sent, if that was known to it
        except UniosError as failure:
            if not asked.sent:
                raise
            raise self.give_up(asked, f"it was sent, and then the connection broke: {failure}") from failure
        asked.sent = True
        return line

    def wait_for(self, asked: Asked, deadline: float | None) -> bool:
        """As `wait`, until a request has ended."""
        leads, me = self._leads, get_ident()
        if self._pid == getpid() and (deadline is None or time.monotonic() < deadline):
            try:
                if True not in leads and leads.setdefault(True, me) == me:
                    while not asked.ended:
                        self._read(deadline)
            except Late:
                return asked.ended
            finally:
                if True in leads and leads[True] == me:  # see _leads
                    del leads[True]
                    self._wake()
        return asked.ended or self.wait(asked, lambda: asked.ended, deadline)

    def wait(self, what: "Asked | str", ready: Callable[[], bool], deadline: float | None) -> bool:
        """Read, or wait for who reads, until `ready`; False at the deadline."""
        me = threading.get_ident()
        looked = False
        while not ready():
            if self._pid != os.getpid():
                raise _of_the_parent(what if isinstance(what, str) else what.op)
            if self._leads.get(True) == me:
                raise CallerError(_INTERRUPTED)
            if deadline is not None and time.monotonic() >= deadline:
                line = self._line
                if looked or line is None or line.is_closed:
                    return False
                looked = True  # what has come by then has come in time: who only looks, again and again, sees it too
                self._look(line)
                continue
            try:
                if self._leads.setdefault(True, me) == me:
                    while not ready():
                        self._read(deadline)
            except Late:
                return ready()
            finally:
                if True in self._leads and self._leads[True] == me:  # see _leads
                    del self._leads[True]
                    self._wake()
            if not ready():
                self._follow(ready, deadline)
        return True

    def _follow(self, ready: Callable[[], bool], deadline: float | None) -> None:
        bell = threading.Lock()
        try:
            bell.acquire()
            self._bells.append(bell)
            if not ready() and self._leads:
                bell.acquire(timeout=0.5 if deadline is None else max(0.0, min(0.5, deadline - time.monotonic())))
        finally:
            with contextlib.suppress(ValueError):
                self._bells.remove(bell)

    def _wake(self) -> None:
        while self._bells:
            with contextlib.suppress(IndexError, RuntimeError):  # another has woken it
                self._bells.popleft().release()

    def _read(self, deadline: float | None) -> None:
        try:
            line = self._line
            if line is None or line.is_closed:
                self.open(deadline)
                self._wake()  # what was asked on another one may have ended by that
                return
            if self._unsaid:
                self._say_unsaid()
            self._take_in(line, deadline)
            if self._asking.owes_acknowledgement:  # if another thread sends just now, later: that may wait for this one to read
                line.send_unless_busy(self._acknowledgement, lambda: self._listen(line), deadline)
        except Closed:
            return
        except ProtocolError as error:
            self._fail_all(error)
        except UniosError as error:
            if deadline is not None and time.monotonic() >= deadline:
                raise Late from error  # of this caller; others may wait longer
            self._fail_all(error)  # no node runs here any more, or it may not be used: what was sent is not answered now

    def _acknowledgement(self) -> Ack | None:
        with self._lock:
            return self._asking.acknowledgement()

    def _fail_all(self, error: UniosError) -> None:
        if self._line is not None:
            self._line.close()
        with self._lock:
            for asked in list(self._asking.open.values()):
                self._asking.fail(asked, OutcomeUnknown(f"no answer to {asked.op} came: {error}"))

    def _take_in(self, line: Line, deadline: float | None) -> None:
        heard = line.read(deadline)
        try:
            for message, value in heard:
                if type(message) not in _ANSWERS:
                    raise ProtocolError("the peer asks where it should answer")
                with self._lock:
                    if line is not self._heard:
                        return
                    self._asking.heard(message, value)  # type: ignore[arg-type]
        except BaseException:  # a signal's handler has raised, perhaps: what was read and not taken in is asked for again
            line.close()
            raise
        if self._bells:
            self._wake()

    def next_item(self, asked: Asked, deadline: float | None) -> Any:
        """Return the next item of a stream that has come, and grant credit for it."""
        if self._pid != os.getpid():
            raise _of_the_parent(asked.op)
        with self._lock:
            value, credit = self._asking.take(asked)
            line = self._line
        if credit is not None and line is not None:
            if self._lock._is_owned() or line.sending._is_owned():  # type: ignore[attr-defined]
                raise CallerError(_INTERRUPTED)
            with contextlib.suppress(Closed, Late):  # a new connection is told how many were taken
                line.send(credit, lambda: self._while_blocked(line), deadline)
        return decode(value, trusted=value.trusted)

    def outcome(self, asked: Asked) -> Any:
        """Return what came of a request that has ended; raise what it raised."""
        return outcome(asked)

    def give_up(self, asked: Asked, why: str = "no answer came in time") -> UniosError:
        """Withdraw a request; return what to raise."""
        failure = OutcomeUnknown(f"{asked.op}: {why}")
        if self._pid != os.getpid():
            asked.failure, asked.ended = failure, True
            return fresh(failure)
        with self._lock:
            if not asked.ended:
                self._asking.fail(asked, failure)
        self._tell_withdrawn(asked)
        return fresh(failure)

    def _tell_withdrawn(self, asked: Asked) -> None:
        line = self._line
        if line is not None and not line.is_closed and not line.withdraw(asked.id):
            self._unsaid.append(asked)

    def _say_unsaid(self) -> None:
        for _ in range(len(self._unsaid)):
            with contextlib.suppress(IndexError):
                self._tell_withdrawn(self._unsaid.popleft())

    def abandon(self, asked: Asked) -> None:
        """As `give_up`, waiting for no lock: the collector calls this, wherever its thread may be."""
        if self._pid == os.getpid() and not asked.ended:
            asked.failure, asked.ended = OutcomeUnknown(f"{asked.op}: nobody reads it"), True
            self._asking.open.pop(asked.id, None)
            self._tell_withdrawn(asked)

    def close(self) -> None:
        """End the connection."""
        self._fork_check()
        line = self._line
        with self._lock:
            for asked in list(self._asking.open.values()):
                self._asking.fail(asked, OutcomeUnknown(f"the port was closed here before the answer to {asked.op} came"))
        if line is not None:
            self._opened_s = 0.0
            line.close()
            me = threading.get_ident()
            try:
                if self._leads.setdefault(True, me) == me and self._line is line:
                    self._line = None
                    line.release()
            finally:
                if True in self._leads and self._leads[True] == me:  # see _leads
                    del self._leads[True]
                    self._wake()
        self._wake()


os.register_at_fork(after_in_child=Ends.after_fork)


def _of_the_parent(op: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"{op} was asked by the process from which this one was forked")
