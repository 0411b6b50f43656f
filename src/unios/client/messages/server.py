"""Server: the listening end of a port, blocking. A thread for each connection; one for all ports of the process takes connections in.

Requests of one connection are answered one after the other, in their order: a handler that may last belongs behind a port of its own, or into the asyncio twin.
What a session had asked is remembered while it is away (SESSION_KEPT_S), so nothing is done twice.
"""

import contextvars
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from unios.client.messages.acceptor import Acceptor, me
from unios.client.messages.line import Closed, Line
from unios.client.messages.port import RAISED
from unios.errors import CallerError, NotFound, ProtocolError, UniosError, to_wire
from unios.limits import HELLO_TIMEOUT_MS, SESSION_KEPT_S, SESSIONS_MAX
from unios.wire.conversations import Answering, Begun
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Cancel, Credit, Fault, Hello, Reply, Request, agree
from unios.wire.operations import Accepted
from unios.wire.values import Value, decode, encode

Handlers = Mapping[str, Callable[..., Any]] | object
current_caller: "contextvars.ContextVar[Accepted | None]" = contextvars.ContextVar("unios_caller", default=None)
TEXT_MAX: Final = 16 * 1024


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


class Session:
    """What one caller has asked, through whatever connection he has now."""

    def __init__(self, user: str) -> None:
        self.answering = Answering(user)
        self.lock = threading.Lock()
        self.line: Line | None = None
        self.aio: Any = None
        """The connection of the asyncio twin."""
        self.left_s = 0.0
        self.kept_bytes = 0


class Sessions:
    """Those of one port."""

    def __init__(self) -> None:
        self._found: dict[str, Session] = {}
        self._lock = threading.Lock()

    def attach(self, id_: str, user: str, line: Line | None) -> tuple[Session, bool]:
        """Return the session, and whether it was known. One of another user is not found."""
        with self._lock:
            self._tidy()
            key = f"{user}/{id_}"
            session = self._found.get(key)
            known = session is not None
            if session is None:
                session = self._found[key] = Session(user)
            if session.line is not None:
                session.line.close()
            session.line = line
            return session, known

    def detach(self, session: Session, line: Line | None) -> None:
        """Its connection is gone."""
        with self._lock:
            if session.line is line:
                session.line, session.left_s = None, time.monotonic()

    def _tidy(self) -> None:
        """Forget those that nobody will come back to."""
        now = time.monotonic()
        gone = [
            key
            for key, session in self._found.items()
            if session.line is None and session.aio is None and (session.answering.is_idle or now - session.left_s > SESSION_KEPT_S)
        ]
        away = sorted((session.left_s, key) for key, session in self._found.items() if session.line is None and session.aio is None)
        gone += [key for _left, key in away[: max(0, len(self._found) - SESSIONS_MAX)]]
        for key in gone:
            self._found.pop(key, None)


class Server:
    """What `listen` returns: an open port. Close it, or use it with `with`; it ends with the process."""

    def __init__(self, name: str, target: Handlers, *, mode: int = 0o600, home: "Path | str | None" = None, node: str = "") -> None:
        """Open the port and answer from now on. `mode`: as a file's, who may call; 0o600 the owner. Denied, CallerError, Unavailable."""
        self.name = name
        self._target = target
        self._incarnation = uuid.uuid4().hex
        self._sessions = Sessions()
        self._lines: set[Line] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._acceptor = Acceptor.of(home, node)
        self._acceptor.listen(name, mode, self._accepted, self._superseded)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port and its connections; handlers that run go on, and nobody hears what they answer. Idempotent."""
        if not self._closed.is_set():
            self._closed.set()
            self._acceptor.close(self.name)
            with self._lock:
                lines = list(self._lines)
            for line in lines:
                line.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the port is closed here; False after `timeout` seconds."""
        return self._closed.wait(timeout)

    def _superseded(self) -> None:
        """Another process of this user listens under the name now; what is connected here stays so."""
        self._closed.set()

    def _accepted(self, stamp: Accepted, sock: Any) -> None:
        line = Line(sock, local=stamp.node == self._acceptor.node, trusted=stamp.user == me())
        threading.Thread(target=self._serve, args=(stamp, line), name=f"unios-port-{self.name}", daemon=True).start()

    def _serve(self, stamp: Accepted, line: Line) -> None:
        current_caller.set(stamp)
        session: Session | None = None
        with self._lock:
            self._lines.add(line)
        try:
            session = self._greet(stamp, line)
            if session is not None and not self._closed.is_set():
                _Answers(self._target, session, line).run()
        except (Closed, TimeoutError, ProtocolError):
            pass
        finally:
            line.release()
            with self._lock:
                self._lines.discard(line)
            if session is not None:
                self._sessions.detach(session, line)

    def _greet(self, stamp: Accepted, line: Line) -> Session | None:
        heard = line.read(time.monotonic() + HELLO_TIMEOUT_MS / 1000)
        theirs = heard[0][0] if heard else None
        if not isinstance(theirs, Hello):
            raise ProtocolError("the peer did not greet")
        session, known = self._sessions.attach(theirs.facts.get("session", "")[:64], stamp.user, line)
        line.send(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", {"incarnation": self._incarnation, "session": "known" if known else "new"}))
        agree(theirs)
        return session


class _Answers:
    """Answers what comes over one connection."""

    def __init__(self, target: Handlers, session: Session, line: Line) -> None:
        self._target, self._session, self._line = target, session, line
        self._waiting: list[tuple[Request, Value]] = []

    def run(self) -> None:
        """Until the connection ends: Closed."""
        while True:
            self._read()
            while self._waiting:
                request, value = self._waiting.pop(0)
                self._answer(request, value)

    def _read(self) -> None:
        answering = self._session.answering
        for message, value in self._line.read():
            if isinstance(message, Request):
                assert value is not None
                self._waiting.append((message, value))
            elif isinstance(message, Credit):
                answering.credited(message)
            elif isinstance(message, Cancel):
                answering.cancel(message.id)
            elif isinstance(message, Ack):
                answering.acked(message.id)
            else:
                raise ProtocolError("the peer answers where it should ask")

    def _answer(self, request: Request, value: Value) -> None:
        with self._session.lock:
            begun = self._session.answering.begin(request)
        if begun is None:
            return
        if isinstance(begun, tuple):
            self._tell(self._line, *begun)
            return
        if isinstance(begun, list):
            for item in begun:
                self._tell(self._line, Reply(request.id, item.body, more=True), item)
            return
        message: Reply | Fault
        answer: Value | None = None
        trusted = self._line.trusted
        try:
            found = self._call(request, value)
            if request.stream:
                self._stream(begun, found)
                found = None
            answer = encode(found, trusted=trusted)
            message = Reply(begun.id, answer.body)
        except UniosError as error:
            message = Fault(begun.id, *to_wire(error))
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its caller's
            message = fault_of(begun.id, error, trusted=trusted)
        if not request.oneway:
            self._end(begun, message, answer)

    def _call(self, request: Request, value: Value) -> Any:
        function = function_of(self._target, request.op)
        asked = decode(value, trusted=self._line.trusted)
        try:
            args, kwargs = asked
        except (TypeError, ValueError):
            raise CallerError("the peer sent no arguments") from None
        return function(*args, **kwargs)

    def _stream(self, begun: Begun, items: Any) -> None:
        try:
            iterator: Iterator[Any] = iter(items)
        except TypeError:
            raise CallerError("this handler gives no stream") from None
        try:
            for item in iterator:
                while begun.room <= 0 and not begun.cancelled:
                    self._read()
                if begun.cancelled:
                    return
                value = encode(item, trusted=self._line.trusted)
                with self._session.lock:
                    message = self._session.answering.item(begun, value)
                self._tell(self._line, message, value)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    def _end(self, begun: Begun, message: Reply | Fault, answer: Value | None) -> None:
        with self._session.lock:
            self._session.answering.end(begun, message, answer)
            line = self._session.line
        if line is not None and not begun.cancelled:
            try:
                self._tell(line, message, answer)
            except Closed:
                if line is self._line:
                    raise

    def _tell(self, line: Line, message: Reply | Fault, value: Value | None) -> None:
        if isinstance(message, Reply) and value is not None and value.buffers:
            reply = message
            line.send_value(lambda places, count: Reply(reply.id, reply.body, reply.more, count, places), value.buffers)
        else:
            line.send(message)


def fault_of(id_: int, error: Exception, *, trusted: bool) -> Fault:
    """Return how an exception travels: to one's own user as it is, with its traceback; to others as a sentence."""
    if not trusted:
        return Fault(id_, RAISED, f"{type(error).__name__}: {error}"[:TEXT_MAX])
    text = "".join(traceback.format_exception(error))[-TEXT_MAX:]
    try:
        body = encode(error, trusted=True)
        if body.buffers:
            raise CallerError("it is large")
        decode(body, trusted=True)
        return Fault(id_, RAISED, text, body.body)
    except UniosError:
        return Fault(id_, RAISED, text)
