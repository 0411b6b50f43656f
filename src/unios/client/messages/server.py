"""Server: the listening end of a port, blocking. A thread for each connection, and one for each stream; one for all ports of the process takes connections in.

Requests of one caller are answered one after the other, in their order: a handler that may last belongs behind a port of its own, or into the asyncio twin.
Streams go on beside them. What a session had asked is remembered while it is away (SESSION_KEPT_S), so nothing is done twice.
"""

import contextlib
import contextvars
import os
import threading
import time
import traceback
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from unios.client.messages.acceptor import Acceptor, me
from unios.client.messages.line import Closed, Heard, Line
from unios.client.messages.outcomes import RAISED
from unios.client.messages.sessions import Session, Sessions
from unios.client.messages.streaming import Streaming, fixed, tell
from unios.errors import CallerError, NotFound, ProtocolError, Unavailable, UniosError, to_wire
from unios.limits import HELLO_TIMEOUT_MS, REQUESTS_PER_PEER_MAX, SESSION_KEPT_S, STRANGER_AHEAD_BYTES, STREAMS_PER_SESSION_MAX
from unios.wire.conversations import Again, Begun, cost_of
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Cancel, Credit, Fault, Hello, Reply, Request, agree
from unios.wire.operations import Accepted
from unios.wire.values import Value, decode, encode

Handlers = Mapping[str, Callable[..., Any]] | object
current_caller: "contextvars.ContextVar[Accepted | None]" = contextvars.ContextVar("unios_caller", default=None)
TEXT_MAX: Final = 16 * 1024
LASTING_S: Final = 0.000_05
"""After a handler that took longer it is looked whether requests read with it have been withdrawn."""
_NOTHING_SENT: Final = contextlib.nullcontext()


def caller() -> Accepted:
    """Return who called the handler that is running: the kernel's stamp (user, node, pid, incarnation). LookupError outside of a handler."""
    stamp = current_caller.get()
    if stamp is None:
        raise LookupError("no call is being answered here")
    return stamp


def function_of(target: Handlers, op: str) -> Callable[..., Any]:
    """Return what answers `op`. NotFound if nothing does: names with an underscore in front are never found."""
    found = None
    if not op.startswith("_"):
        found = target.get(op) if type(target) is dict or isinstance(target, Mapping) else getattr(target, op, None)
    if not callable(found):
        raise NotFound(f"this port has no {op[:80]!r}")
    return found


def checked(target: Handlers) -> Handlers:
    """Return it if it can answer anything. TypeError: a handler that cannot be called, or has no name, would be found out only by who calls."""
    if target is None:
        raise TypeError("a port is listened on with functions by name, or with an object: not with None")
    if type(target) is dict:
        for name, handler in target.items():
            if not isinstance(name, str) or not callable(handler):
                raise TypeError(f"the handlers of a port are functions by name, and not {name!r}: {handler!r}"[:200])
    return target


class Server:
    """What `listen` returns: an open port. Close it, or use it with `with`; it ends with the process. A forked child has no part in it."""

    def __init__(
        self,
        name: str,
        target: Handlers,
        *,
        mode: int = 0o600,
        home: "Path | str | None" = None,
        node: str = "",
        keeps: bool = False,
        left: Callable[[Accepted], None] | None = None,
    ) -> None:
        """Open the port and answer from now on. `mode`: as a file's, who may call; 0o600 the owner. Denied, CallerError, Unavailable.

        `keeps`: large buffers that come are only kept here and sent on uncopied, not written to. `left`: called when a connection has ended, with the very
        stamp that `caller` returned to its handlers.
        """
        self.name = name
        self._target = checked(target)
        self._keeps, self._left = keeps, left
        self._pid = os.getpid()
        self._incarnation = uuid.uuid4().hex
        self._sessions = Sessions()
        self._lines: dict[Line, Accepted] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._acceptor = Acceptor.of(home, node)
        self._acceptor.listen(name, mode, self._accepted, self._superseded)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<unios server {self.name!r}>"

    def close(self) -> None:
        """Close the port and its connections; handlers that run go on, and nobody hears what they answer. Idempotent."""
        if self._pid != os.getpid():
            return
        if not self._closed.is_set():
            self._closed.set()
            self._acceptor.close(self.name, self._accepted)  # and not one that is being opened under the name just now
        self._cut(lambda _stamp: True)
        self._sessions.leave()

    def _cut(self, whose: Callable[[Accepted], bool]) -> int:
        lines = self._mark(whose)
        for line in lines:
            line.close()
        return len(lines)

    def _mark(self, whose: Callable[[Accepted], bool]) -> list[Line]:
        """Let nothing more be begun of what these connections have brought; return them."""
        with self._lock:
            lines = [line for line, stamp in self._lines.items() if whose(stamp)]
        for line in lines:
            line.is_cut = True
        return lines

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the port is closed here; False after `timeout` seconds."""
        return self._closed.wait(timeout)

    def grant(self, user: str) -> None:
        """Let one more user call, whatever the mode says. Idempotent; holds as long as this server, restarts of the kernel included."""
        self._acceptor.grant(self.name, user)

    def revoke(self, who: str | Accepted) -> int:
        """Take a right back; return how many connections were cut. `who`: a user, who loses what `grant` gave him, and what he has asked is forgotten; or
        what `caller()` returned, to cut that connection alone: he may connect again if the mode or a grant lets him. Idempotent."""
        if isinstance(who, Accepted):
            return self._cut(lambda stamp: stamp.connection == who.connection)
        self._mark(lambda stamp: stamp.user == who)
        self._acceptor.revoke(self.name, who)
        cut = self._cut(lambda stamp: stamp.user == who)
        self._sessions.forget(who)
        return cut

    def _superseded(self) -> None:
        """Another process of this user listens under the name now; what is connected here stays so."""
        self._closed.set()

    def _accepted(self, stamp: Accepted, sock: Any, node: str) -> None:
        trusted = stamp.user == me()
        allowance = self._sessions.allowance(stamp.user, trusted=trusted)
        line = Line(sock, local=stamp.node == node, trusted=trusted, keeps=self._keeps, allowance=allowance)
        with self._lock:
            self._lines[line] = stamp
        try:
            threading.Thread(target=self._serve, args=(stamp, line), name=f"unios-port-{self.name}", daemon=True).start()
        except RuntimeError:  # no more threads: he tries again
            self._drop(line)

    def _drop(self, line: Line) -> None:
        line.release()
        with self._lock:
            self._lines.pop(line, None)

    def _serve(self, stamp: Accepted, line: Line) -> None:
        current_caller.set(stamp)
        try:
            deadline = time.monotonic() + HELLO_TIMEOUT_MS / 1000
            theirs = line.greeted(deadline)
            id_ = theirs.facts.get("session", "")[:64]
            session, known = self._sessions.find(id_, stamp.user, trusted=line.trusted)
            line.send(
                Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", {"incarnation": self._incarnation, "session": "known" if known else "new"}),
                None,
                deadline,
            )
            agree(theirs)
            del theirs  # it may be large, and a connection long
            if not self._closed.is_set():
                self._answer(id_, session, line)
        except (Closed, TimeoutError, ProtocolError):
            pass
        finally:
            self._drop(line)
            if self._left is not None:
                self._left(stamp)

    def _answer(self, id_: str, session: Session, line: Line) -> None:
        self._sessions.attach(id_, session, line)  # after the greeting: an answer of before must not come in front of it
        try:
            Answers(self._target, session, line).run()
        finally:
            if self._sessions.detach(id_, session, line):
                self._expire_in(SESSION_KEPT_S)

    def _expire_in(self, seconds: float) -> None:
        seen = weakref.ref(self)  # nobody keeps a server that was closed, and what it serves, for that
        self._acceptor.later(seconds, lambda: server._expire() if (server := seen()) is not None else None)

    def _expire(self) -> None:
        """What is kept for callers who do not come back is let go of, also when nobody calls any more."""
        again_s = self._sessions.expired()
        if again_s is not None:
            self._expire_in(again_s)


class Answers:
    """Answers what comes over one connection."""

    def __init__(self, target: Handlers, session: Session, line: Line) -> None:
        self._target, self._session, self._line = target, session, line
        self._waiting: deque[tuple[Request, Value]] = deque()
        """Read and not begun: at most what one reading brings, or REQUESTS_PER_PEER_MAX and that; of a stranger, or STRANGER_AHEAD_BYTES and that."""
        self._ahead = 0
        """Bytes of those, of a stranger."""

    def run(self) -> None:
        """Until the connection ends: Closed. One-way messages that were read by then are done: nobody sends them again."""
        try:
            line = self._line
            while True:
                heard = line.read(None)
                if len(heard) == 1 and type(request := heard[0][0]) is Request and not (request.oneway or request.stream) and line.trusted:
                    self._answer_plain(request, heard[0][1])  # type: ignore[arg-type]
                    del heard, request  # what came with it goes now, and not when the next one comes
                    continue
                self._took(heard)
                while self._waiting:
                    began = time.monotonic()
                    self._answer(*self._next())
                    if self._waiting and time.monotonic() - began > LASTING_S and self._may_read_on():
                        with contextlib.suppress(TimeoutError):
                            self._took(line.read(began))  # what has come meanwhile: one of those that wait may be withdrawn
        except Closed:
            while self._waiting:
                request, value = self._next()
                if request.oneway:
                    self._answer(request, value)
            raise

    def _took(self, heard: list[Heard]) -> None:
        for message, value in heard:
            if isinstance(message, Request):
                assert value is not None
                self._waiting.append((message, value))
                if not self._line.trusted:
                    self._ahead += cost_of(value)
            else:
                self._take_in(message)

    def _next(self) -> tuple[Request, Value]:
        found = self._waiting.popleft()
        if not self._line.trusted:
            self._ahead -= cost_of(found[1])
        return found

    def _may_read_on(self) -> bool:
        return len(self._waiting) < REQUESTS_PER_PEER_MAX and (self._line.trusted or self._ahead < STRANGER_AHEAD_BYTES)

    def _take_in(self, message: Any) -> None:
        with self._session.changed:
            answering = self._session.answering
            if isinstance(message, Credit):
                answering.credited(message)
            elif isinstance(message, Cancel):
                self._waiting = deque(entry for entry in self._waiting if entry[0].id != message.id)
                self._ahead = 0 if self._line.trusted else sum(cost_of(value) for _request, value in self._waiting)
                answering.cancel(message.id)
            elif isinstance(message, Ack):
                upto = min((request.id - 1 for request, _value in self._waiting), default=message.id)  # what was read with it has not begun
                answering.acked(min(upto, message.id), message.ids, message.open)
            else:
                raise ProtocolError("the peer answers where it should ask")
            self._session.changed.notify_all()
            streams = () if isinstance(message, Credit) else tuple(self._session.streams.values())
        for streaming in streams:
            streaming.stop()

    def _answer_plain(self, request: Request, value: Value) -> None:
        """As `_answer`, for what most requests are: of a process of the same user, read by itself, its answer small. With few calls of functions (decision 0036)."""
        session, line = self._session, self._line
        lock, answering = session.lock, session.answering
        begun: Begun | Again | None = None
        with lock:
            plain = not (line.is_cut or session.streams) and session.line is line
            if plain:
                begun = answering.begin(request, value)
        if type(begun) is not Begun:
            if not plain:
                self._answer(request, value)
            elif begun is not None:
                self._say_again(request, begun)  # type: ignore[arg-type]
            return
        with session.turn:
            message, answer = self._outcome(request, value)
            if answer is None or answer.buffers:
                self._end(begun, message, answer)
                return
            with lock:
                answering.end(begun, message, answer)
                now = session.line
            if now is line and not begun.cancelled:
                line.send(message)
            else:
                self._tell(begun, message, answer, now)

    def _answer(self, request: Request, value: Value) -> None:
        session = self._session
        with session.lock:
            streaming = session.streams.get(request.id)
        with streaming.sending if streaming is not None else _NOTHING_SENT:
            with session.lock:
                if self._line.is_cut or (session.line is not self._line and not request.oneway):
                    return  # he has lost the right; or it was asked again over another connection
                begun = session.answering.begin(request, value)
                if isinstance(begun, Begun) and request.stream:
                    self._register(begun)
                if begun is not None and not isinstance(begun, Begun):
                    session.changed.notify_all()
            if begun is None:
                return
            if isinstance(begun, Again):
                if streaming is not None:
                    streaming.line = self._line
                self._say_again(request, begun)
                return
        if request.stream:
            self._begin_stream(begun, request, value)
        else:
            with session.turn:
                self._end(begun, *self._outcome(request, value))

    def _say_again(self, request: Request, again: Again) -> None:
        for item in again.items:
            tell(self._line, Reply(request.id, item.body, more=True), item)
        if again.message is not None:
            tell(self._line, again.message, again.value)

    def _outcome(self, request: Request, value: Value) -> tuple[Reply | Fault, Value | None]:
        """Call the handler; return what to answer. Nothing that a handler or a caller does ends this thread."""
        trusted = self._line.trusted
        try:
            function, args, kwargs = self._called(request, value)
        except BaseException as error:  # noqa: BLE001 - a class of the caller's may raise anything when it is read
            return Fault(request.id, *said_of(error)), None
        try:
            answer = encode(function(*args, **kwargs), trusted=trusted)
            return Reply(request.id, answer.body), answer
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its caller's
            return fault_of(request.id, error, trusted=trusted), None

    def _called(self, request: Request, value: Value) -> tuple[Callable[..., Any], Any, Any]:
        function = function_of(self._target, request.op)
        asked = decode(value, trusted=value.trusted)
        try:
            args, kwargs = asked
            if type(args) is tuple and not kwargs and type(kwargs) is dict:
                return function, args, kwargs
            return function, tuple(args), {str(key): given for key, given in kwargs.items()}
        except (TypeError, ValueError, AttributeError):
            raise CallerError("the peer sent no arguments") from None

    def _register(self, begun: Begun) -> None:
        """Make a stream known in the same moment in which it begins: it may be asked again for at any time."""
        if len(self._session.streams) < STREAMS_PER_SESSION_MAX:
            self._session.streams[begun.id] = Streaming(self._session, begun, self._line)

    def _begin_stream(self, begun: Begun, request: Request, value: Value) -> None:
        session = self._session
        with session.changed:
            streaming = session.streams.get(begun.id)
        if streaming is not None:
            context = contextvars.copy_context()
            with contextlib.suppress(RuntimeError):  # no more threads
                threading.Thread(target=context.run, args=(self._stream, streaming, begun, request, value), name="unios-stream", daemon=True).start()
                return
        with session.changed:
            session.streams.pop(begun.id, None)
        self._end(
            begun, Fault(begun.id, *to_wire(Unavailable(f"there are {STREAMS_PER_SESSION_MAX} streams under way, or no threads for more"))), None
        )

    def _stream(self, streaming: Streaming, begun: Begun, request: Request, value: Value) -> None:
        session, trusted = self._session, self._line.trusted
        message: Reply | Fault
        answer: Value | None = None
        try:
            function, args, kwargs = self._called(request, value)
        except BaseException as error:  # noqa: BLE001 - as in _outcome
            message = Fault(request.id, *said_of(error))
        else:
            try:
                streaming.run(function(*args, **kwargs))
                answer = encode(None, trusted=trusted)
                message = Reply(request.id, answer.body)
            except BaseException as error:  # noqa: BLE001
                message = fault_of(begun.id, error, trusted=trusted)
        with streaming.sending:
            with contextlib.suppress(Closed, TimeoutError, ProtocolError):
                self._end(begun, message, answer, streaming.line)
            with session.changed:
                session.streams.pop(begun.id, None)

    def _end(self, begun: Begun, message: Reply | Fault, answer: Value | None, line: Line | None = None) -> None:
        """Answer, over the connection that there is now."""
        session = self._session
        keep = True
        if answer is not None:
            answer, keep = fixed(self._line, answer)
        with session.lock:
            if begun.oneway:
                session.answering.end(begun, message, None, keep=False)
                return
            session.answering.end(begun, message, answer, keep=keep)
            line = line or session.line
        self._tell(begun, message, answer, line)

    def _tell(self, begun: Begun, message: Reply | Fault, answer: Value | None, line: Line | None) -> None:
        if line is None or begun.cancelled:
            return
        try:
            tell(line, message, answer)
        except (CallerError, ValueError) as error:  # no memory for it, or it is none that can be encoded
            fault = Fault(begun.id, *said_of(error))
            with self._session.changed:
                self._session.answering.lost(begun, fault)
            tell(line, fault, None)
        except Closed:
            if line is self._line:
                raise


def _clean(text: str) -> str:
    """Return a text that can be encoded."""
    return text.encode("utf-8", "replace").decode()


def said_of(error: BaseException) -> tuple[str, str]:
    """Return (code, sentence) of an error on the way to a handler, or on the way back."""
    code, text = to_wire(error if isinstance(error, UniosError) else CallerError(_sentence(error)))
    return code, _clean(text)[:TEXT_MAX]


def _sentence(error: BaseException) -> str:
    try:
        return _clean(f"{type(error).__name__}: {error}")[:TEXT_MAX]
    except BaseException:  # noqa: BLE001 - its __str__ is the handler's
        return type(error).__name__


def fault_of(id_: int, error: BaseException, *, trusted: bool) -> Fault:
    """Return how an exception travels: to one's own user as it is, with its traceback; to others as a sentence. One that is no Exception, as SystemExit,
    is not passed on: it would end the caller."""
    if not trusted:
        return Fault(id_, *said_of(error)) if isinstance(error, UniosError) else Fault(id_, RAISED, _sentence(error))
    try:
        text = _clean("".join(traceback.format_exception(error)))[-TEXT_MAX:]
    except BaseException:  # noqa: BLE001 - its notes and its __str__ are the handler's
        text = _sentence(error)
    if not isinstance(error, Exception):
        return Fault(id_, RAISED, text)
    try:
        body = encode(error, trusted=True)
        if body.buffers:
            raise CallerError("it is large")
        if not isinstance(decode(body, trusted=True), Exception):
            raise CallerError("it arrives as something else")
        return Fault(id_, RAISED, text, body.body)
    except BaseException:  # noqa: BLE001 - what its class raises when it is written or read is the handler's
        return Fault(id_, RAISED, text)
