"""Port: the caller's end of a port, blocking. Any number of threads may call at a time.

There is no thread behind it: of those who wait for an answer one reads, and hands the others theirs (leader and followers). The connection comes back after a
break by itself, and so does the port after its owner was restarted or moved: callers wait. A forked child has a session of its own.
"""

import contextlib
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from unios.client.connection import Connection
from unios.client.messages import places
from unios.client.messages.line import Closed, Line
from unios.errors import CallerError, OutcomeUnknown, ProtocolError, UniosError, from_wire
from unios.limits import HELLO_TIMEOUT_MS
from unios.wire.conversations import Asked, Asking
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Fault, Reply, agree
from unios.wire.values import Value, decode, encode

_VERSIONS: Final = (PROTOCOL_MIN, PROTOCOL_MAX)
RAISED: Final = "raised"
"""The code of a Fault that carries the exception which a handler raised."""


class RemoteTraceback(Exception):
    """The cause of an exception that was raised elsewhere: where in the other program that was."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Port:
    """What `connect` returns. `port.NAME(...)` calls NAME; `options` gives the same port with other ways of calling."""

    def __init__(self, name: str, *, home: "Path | str | None" = None, node: str = "", timeout: float | None = None) -> None:
        """Connect; waits up to `timeout` seconds (None: for ever) for somebody to listen. NotFound, Denied, Unavailable."""
        self._ends = _Ends(name, home, node)
        self._timeout: float | None = None
        self._again = False
        self._ends.open(None if timeout is None else time.monotonic() + timeout)

    @property
    def name(self) -> str:
        return self._ends.name

    def options(self, *, timeout: float | None = None, idempotent: bool = False) -> "Port":
        """Return this port with a deadline of so many seconds for each call, and with calls that may be done again after a loss."""
        port = object.__new__(Port)
        port._ends, port._timeout, port._again = self._ends, timeout, idempotent
        return port

    def call(self, op: str, /, *args: object, **kwargs: object) -> Any:
        """Call and return what the handler returned; raise what it raised.

        OutcomeUnknown: no answer came by the deadline, or whoever answered was replaced meanwhile; it may have been done. Values that cannot travel: CallerError.
        """
        ends = self._ends
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        asked = ends.ask(op, (args, kwargs), deadline, again=self._again)
        if not ends.finish(asked, deadline):
            raise ends.give_up(asked)
        if asked.answer is not None:
            return decode(asked.answer, trusted=ends.trusted)
        return ends.outcome(asked)

    def begin(self, op: str, /, *args: object, **kwargs: object) -> "Pending":
        """Call without waiting: many may be under way at a time. They are answered in their order."""
        ends = self._ends
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        asked = ends.ask(op, (args, kwargs), deadline, again=self._again)
        return Pending(ends, asked, deadline)

    def send(self, op: str, /, *args: object, **kwargs: object) -> None:
        """Send a message that is not answered. It is lost if the owner is lost before it reads it; what it raises nobody hears."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._ends.ask(op, (args, kwargs), deadline, oneway=True)

    def stream(self, op: str, /, *args: object, **kwargs: object) -> Iterator[Any]:
        """Call what yields: return an iterator over the items. Whoever stops reading stops the handler: at most a window is under way."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        ends = self._ends
        asked = ends.ask(op, (args, kwargs), deadline, stream=True, again=self._again)
        return _items(ends, asked, deadline)

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_"):
            raise AttributeError(op)

        def call(*args: object, **kwargs: object) -> Any:
            return self.call(op, *args, **kwargs)

        return call

    def __reduce__(self) -> tuple[Any, ...]:
        """A port travels as its name: who receives it connects with rights of his own."""
        return _travelled, (self._ends.name, self._timeout, self._again)

    def __enter__(self) -> "Port":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; calls that wait end with OutcomeUnknown. Idempotent; a later call connects again."""
        self._ends.close()


def _travelled(name: str, timeout: float | None, again: bool) -> Port:
    port = object.__new__(Port)
    port._ends, port._timeout, port._again = _Ends(name, None, ""), timeout, again
    return port


class Pending:
    """A call under way."""

    def __init__(self, ends: "_Ends", asked: Asked, deadline: float | None) -> None:
        self._ends, self._asked, self._deadline = ends, asked, deadline

    def done(self) -> bool:
        """Return whether `result` returns at once; does not look whether anything has come."""
        return self._asked.ended

    def result(self, timeout: float | None = None) -> Any:
        """Return what the handler returned or raise what it raised; OutcomeUnknown at the deadline, after which an answer is dropped.

        `timeout`: TimeoutError after so many seconds; the call goes on.
        """
        asked = self._asked
        until = None if timeout is None else time.monotonic() + timeout
        if until is not None and (self._deadline is None or until < self._deadline):
            if not self._ends.wait(asked, lambda: asked.ended, until):
                raise TimeoutError
        elif not self._ends.wait(asked, lambda: asked.ended, self._deadline):
            raise self._ends.give_up(asked)
        return self._ends.outcome(asked)

    def cancel(self) -> None:
        """Withdraw the call: its handler is told, and what it answers is dropped."""
        if not self._asked.ended:
            self._ends.give_up(self._asked)


def _items(ends: "_Ends", asked: Asked, deadline: float | None) -> Iterator[Any]:
    try:
        while True:
            if not ends.wait(asked, lambda: bool(asked.items) or asked.ended, deadline):
                raise ends.give_up(asked)
            if not asked.items:
                ends.outcome(asked)
                return
            yield ends.next_item(asked)
    finally:
        if not asked.ended:
            ends.give_up(asked)


class _Ends:
    """A session and its connection, shared by the threads of one process."""

    def __init__(self, name: str, home: "Path | str | None", node: str) -> None:
        self.name = name
        self._home, self._node = home, node
        self._line: Line | None = None
        self._connect = threading.Lock()
        """Held by whoever makes the connection anew."""
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._asking = Asking(uuid.uuid4().hex)
        self._lock = threading.Lock()
        """Of `_asking`."""
        self._reading = threading.Lock()
        """Held by the one who reads."""
        self._turn = threading.Condition(threading.Lock())
        self._followers = 0

    def _fork_check(self) -> None:
        if self._pid != os.getpid():
            if self._line is not None:
                self._line.drop()
                self._line = None
            self._connect = threading.Lock()
            self._begin()

    # the connection

    def open(self, deadline: float | None) -> Line:
        """Return the connection, made again if it is gone. Waits until the deadline: NotFound, Unavailable, OutcomeUnknown if others connect all the time."""
        line = self._line
        if line is not None and not line.is_closed:
            return line
        if not self._connect.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise OutcomeUnknown(f"port {self.name} was not reached in time")
        try:
            if self._line is not None:
                if not self._line.is_closed:
                    return self._line
                self._line.release()
                self._line = None
            return self._reopen(deadline)
        finally:
            self._connect.release()

    def _reopen(self, deadline: float | None) -> Line:
        with Connection(self._home, self._node, role="program") as connection:
            while True:
                line = places.connect(connection, self.name, deadline)
                try:
                    theirs = line.greet(self._asking.hello(_VERSIONS), time.monotonic() + HELLO_TIMEOUT_MS / 1000)
                    agree(theirs)
                    with self._lock:
                        again, _failed = self._asking.greeted(theirs)
                    for asked in again:
                        if asked.sent:
                            self._transmit(line, asked)
                except (Closed, TimeoutError):
                    line.release()
                    if deadline is not None and time.monotonic() >= deadline:
                        raise OutcomeUnknown(f"port {self.name} was not reached in time") from None
                    continue
                except BaseException:
                    line.release()
                    raise
                self._line = line
                return line

    def _transmit(self, line: Line, asked: Asked) -> None:
        ack = self._asking.ack
        if asked.value.buffers:
            line.send_value(lambda places, count: asked.request(ack, places, count), asked.value.buffers, self._while_blocked)
        else:
            line.send(asked.request(ack, (), 0), self._while_blocked)

    def _while_blocked(self) -> None:
        """The other side takes nothing, and says something: listen, unless somebody does."""
        if self._reading.acquire(blocking=False):
            try:
                if self._line is not None:
                    self._take_in(self._line, time.monotonic())
            except TimeoutError:
                pass
            finally:
                self._reading.release()
        else:
            time.sleep(0)

    @property
    def trusted(self) -> bool:
        """Whether the other side is of the same user."""
        line = self._line
        return line is not None and line.trusted

    # asking

    def ask(self, op: str, value: object, deadline: float | None, *, again: bool = False, stream: bool = False, oneway: bool = False) -> Asked:
        """Begin a request and send it; waits for a connection."""
        line = self._line
        if line is None or line.is_closed or self._pid != os.getpid():
            self._fork_check()
            line = self.open(deadline)
        encoded = encode(value, trusted=line.trusted)
        with self._lock:
            asked = self._asking.ask(op, encoded, again=again, stream=stream, oneway=oneway)
            ack = self._asking.ack
        asked.sent = True
        try:
            if encoded.buffers:
                self._transmit(line, asked)
            else:
                line.send(asked.request(ack, (), 0), self._while_blocked)
            return asked
        except Closed:
            if not (oneway or asked.ended):
                self.open(deadline)  # which sends again what was sent
            return asked
        except BaseException:
            with self._lock:
                self._asking.open.pop(asked.id, None)
            raise

    def finish(self, asked: Asked, deadline: float | None) -> bool:
        """Wait for an answer; False at the deadline. The short way of `wait` for one who reads by himself, as nearly all do."""
        if self._reading.acquire(blocking=False):
            try:
                while not asked.ended:
                    line = self._line
                    if line is None or line.is_closed or deadline is not None:
                        self._read(deadline)
                    else:
                        self._take_in(line, None)
                return True
            except Closed:
                return self._finish_anew(asked, deadline)
            except ProtocolError as error:
                self._break(error)
                return True
            except TimeoutError:
                return asked.ended
            finally:
                self._reading.release()
                if self._followers:
                    with self._turn:
                        self._turn.notify_all()
        return self.wait(asked, lambda: asked.ended, deadline)

    def _finish_anew(self, asked: Asked, deadline: float | None) -> bool:
        """The connection ended while this thread, which holds `_reading`, was waiting: come back and wait on."""
        try:
            while not asked.ended:
                self._read(deadline)
            return True
        except TimeoutError:
            return asked.ended

    def wait(self, asked: Asked, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Read, or wait for who reads, until `ready`; False at the deadline."""
        while not ready():
            if self._pid != os.getpid():
                raise OutcomeUnknown(f"{asked.op} was asked by the process from which this one was forked")
            if deadline is not None and time.monotonic() >= deadline:
                return False
            if self._reading.acquire(blocking=False):
                try:
                    while not ready():
                        self._read(deadline)
                except TimeoutError:
                    return ready()
                finally:
                    self._reading.release()
                    if self._followers:
                        with self._turn:
                            self._turn.notify_all()
            else:
                with self._turn:
                    self._followers += 1
                    if not ready() and self._reading.locked():
                        self._turn.wait(0.5 if deadline is None else max(0.0, min(0.5, deadline - time.monotonic())))
                    self._followers -= 1
        return True

    def _read(self, deadline: float | None) -> None:
        try:
            line = self._line
            self._take_in(self.open(deadline) if line is None or line.is_closed else line, deadline)
        except Closed:
            return
        except (TimeoutError, OutcomeUnknown) as error:
            raise TimeoutError from error
        except ProtocolError as error:
            self._break(error)
        except UniosError as error:  # nobody listens any more, or no kernel answers: what was sent is not answered now
            with self._lock:
                for asked in list(self._asking.open.values()):
                    self._asking.fail(asked, OutcomeUnknown(f"no answer to {asked.op} came, and the port cannot be reached: {error}"))

    def _break(self, error: ProtocolError) -> None:
        """The other side talks nonsense: end the connection and all that waits."""
        if self._line is not None:
            self._line.close()
        with self._lock:
            for asked in list(self._asking.open.values()):
                self._asking.fail(asked, OutcomeUnknown(f"no answer to {asked.op} came: {error}"))

    def _take_in(self, line: Line, deadline: float | None) -> None:
        for message, value in line.read(deadline):  # without the lock: only the one who reads takes answers in
            if type(message) is Reply or type(message) is Fault:
                self._asking.heard(message, value)
            else:
                raise ProtocolError("the peer asks where it should answer")
        if line.heard_large:
            line.heard_large = False
            with self._lock:
                ack = self._asking.ack
            line.send(Ack(ack))
        if self._followers:
            with self._turn:
                self._turn.notify_all()

    def next_item(self, asked: Asked) -> Any:
        """Return the next item of a stream that has come, and grant credit for it."""
        line = self._line
        with self._lock:
            value = asked.take()
            credit = self._asking.credit(asked)
        if credit is not None and line is not None:
            with contextlib.suppress(Closed):
                line.send(credit)
        return decode(value, trusted=line is not None and line.trusted)

    def outcome(self, asked: Asked) -> Any:
        """Return what came of a request that has ended; raise what it raised."""
        return outcome(asked, trusted=self._line is not None and self._line.trusted)

    def give_up(self, asked: Asked) -> UniosError:
        """Withdraw a request; return what to raise."""
        with self._lock:
            failure = OutcomeUnknown(f"no answer to {asked.op} in time")
            if not asked.ended:
                self._asking.fail(asked, failure)
        if self._line is not None and not self._line.is_closed:
            self._line.withdraw(asked.id)
        return failure

    def close(self) -> None:
        """End the connection."""
        if self._pid != os.getpid():
            self._fork_check()
        line = self._line
        with self._lock:
            for asked in list(self._asking.open.values()):
                self._asking.fail(asked, OutcomeUnknown(f"the port was closed here before the answer to {asked.op} came"))
        if line is not None:
            line.close()
            if self._reading.acquire(blocking=False):
                try:
                    line.release()
                    self._line = None
                finally:
                    self._reading.release()


def outcome(asked: Asked, *, trusted: bool) -> Any:
    """Return what came of a request that has ended; raise what it raised."""
    failure = asked.failure
    if failure is None:
        return None if asked.answer is None else decode(asked.answer, trusted=trusted)
    if isinstance(failure, Fault):
        if failure.code == RAISED and trusted:
            raise _raised(failure)
        raise from_wire(failure.code, failure.text) if failure.code != RAISED else CallerError(failure.text)
    raise failure


def _raised(fault: Fault) -> BaseException:
    """Return the exception that a handler raised, with where it was raised as its cause."""
    try:
        found = decode(Value(fault.body), trusted=True)
        if isinstance(found, BaseException):
            found.__cause__ = RemoteTraceback(fault.text)
            return found
    except (UniosError, pickle.PickleError):
        pass
    return CallerError(f"the handler raised an exception that cannot travel:\n{fault.text}")
