"""The asyncio twins of `port` and `server`: the same conversations, the same meaning of each call, in one loop.

Blocking steps (finding a port, opening one) are done in a thread. Handlers may be coroutine functions, which run side by side, or plain ones, which run in the loop.
"""

import asyncio
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from unios.client.connection import Connection
from unios.client.messages import places
from unios.client.messages.acceptor import Acceptor, me
from unios.client.messages.aio_line import AioLine
from unios.client.messages.line import Line
from unios.client.messages.port import outcome
from unios.client.messages.server import Handlers, Session, Sessions, current_caller, fault_of, function_of
from unios.errors import CallerError, OutcomeUnknown, ProtocolError, Unavailable, UniosError, to_wire
from unios.limits import HELLO_TIMEOUT_MS
from unios.wire.conversations import Asked, Asking, Begun, Said
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Cancel, Credit, Fault, Hello, Reply, Request, agree
from unios.wire.operations import Accepted
from unios.wire.values import Value, decode, encode


class AsyncPort:
    """What `await connect(name)` returns. `await port.NAME(...)` calls NAME. Belongs to one loop."""

    def __init__(self, name: str, *, home: "Path | str | None" = None, node: str = "") -> None:
        self._ends = _Ends(name, home, node)
        self._timeout: float | None = None
        self._again = False

    @property
    def name(self) -> str:
        return self._ends.name

    def options(self, *, timeout: float | None = None, idempotent: bool = False) -> "AsyncPort":
        """Return this port with a deadline of so many seconds for each call, and with calls that may be done again after a loss."""
        port = object.__new__(AsyncPort)
        port._ends, port._timeout, port._again = self._ends, timeout, idempotent
        return port

    async def call(self, op: str, /, *args: object, **kwargs: object) -> Any:
        """Call and return what the handler returned; raise what it raised. OutcomeUnknown and CallerError as in `Port.call`."""
        ends = self._ends
        line = ends.line if ends.line is not None and not ends.line.is_full else await ends.ready()
        asked = ends.ask(line, op, (args, kwargs), again=self._again)
        future = ends.future(asked)
        handle = ends.loop.call_later(self._timeout, ends.give_up, asked) if self._timeout is not None else None
        try:
            await future
        finally:
            if handle is not None:
                handle.cancel()
            if not asked.ended:
                ends.give_up(asked)
        return outcome(asked, trusted=ends.trusted)

    async def send(self, op: str, /, *args: object, **kwargs: object) -> None:
        """Send a message that is not answered; waits while too much waits to be sent."""
        line = await self._ends.ready()
        self._ends.ask(line, op, (args, kwargs), oneway=True)

    async def stream(self, op: str, /, *args: object, **kwargs: object) -> AsyncIterator[Any]:
        """Call what yields, and yield the items. Whoever stops reading stops the handler."""
        ends = self._ends
        line = await ends.ready()
        asked = ends.ask(line, op, (args, kwargs), stream=True, again=self._again)
        try:
            while True:
                while not asked.items and not asked.ended:
                    await ends.future(asked)
                if not asked.items:
                    outcome(asked, trusted=ends.trusted)
                    return
                yield ends.next_item(asked)
        finally:
            if not asked.ended:
                ends.give_up(asked)

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_"):
            raise AttributeError(op)

        def call(*args: object, **kwargs: object) -> Any:
            return self.call(op, *args, **kwargs)

        return call

    async def __aenter__(self) -> "AsyncPort":
        await self._ends.ready()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; calls that wait end with OutcomeUnknown. Idempotent; a later call connects again."""
        self._ends.close()


async def connect(name: str, *, timeout: float | None = None, home: "Path | str | None" = None, node: str = "") -> AsyncPort:
    """Return a port, waiting up to `timeout` seconds (None: for ever) for somebody to listen. NotFound, Denied, Unavailable."""
    port = AsyncPort(name, home=home, node=node)
    await port._ends.ready(None if timeout is None else time.monotonic() + timeout)
    return port


class _Ends:
    """A session and its connection, in one loop."""

    def __init__(self, name: str, home: "Path | str | None", node: str) -> None:
        self.name = name
        self._home, self._node = home, node
        self.loop = asyncio.get_running_loop()
        self.line: AioLine | None = None
        self.trusted = False
        self._asking = Asking(uuid.uuid4().hex)
        self._futures: dict[int, asyncio.Future[None]] = {}
        self._opening: asyncio.Task[AioLine] | None = None
        self._greeting: asyncio.Future[Hello] | None = None

    async def ready(self, deadline: float | None = None) -> AioLine:
        """Return the connection, made again if it is gone, once it takes more."""
        while True:
            line = self.line
            if line is None:
                if self._opening is None:
                    self._opening = self.loop.create_task(self._open(deadline))
                    self._opening.add_done_callback(self._opened)
                line = await asyncio.shield(self._opening)
            if line.is_full:
                await line.drain()
            if not line.is_closed:
                return line

    def _opened(self, task: "asyncio.Task[AioLine]") -> None:
        self._opening = None
        if not task.cancelled() and (error := task.exception()) is not None:
            for asked in list(self._asking.open.values()):
                self._fail(asked, OutcomeUnknown(f"no answer to {asked.op} came, and the port cannot be reached: {error}"))

    async def _open(self, deadline: float | None) -> AioLine:
        while True:
            found = await _in_thread(lambda: _find(self._home, self._node, self.name, deadline))
            sock = found.sock.dup()
            found.drop()
            self._greeting = self.loop.create_future()
            line = AioLine(sock, self._heard, self._closed, local=found.local, trusted=found.trusted)
            try:
                line.send(self._asking.hello((PROTOCOL_MIN, PROTOCOL_MAX)))
                theirs = await asyncio.wait_for(self._greeting, HELLO_TIMEOUT_MS / 1000)
                agree(theirs)
            except (TimeoutError, Unavailable):
                line.close()
                if deadline is not None and time.monotonic() >= deadline:
                    raise OutcomeUnknown(f"port {self.name} was not reached in time") from None
                continue
            except BaseException:
                line.close()
                raise
            finally:
                self._greeting = None
            self.line, self.trusted = line, line.trusted
            again, failed = self._asking.greeted(theirs)
            for asked in again:
                if asked.sent:
                    self._transmit(line, asked)
            for asked in failed:
                self._settle(asked)
            return line

    def ask(self, line: AioLine, op: str, value: object, *, again: bool = False, stream: bool = False, oneway: bool = False) -> Asked:
        """Begin a request and send it."""
        asked = self._asking.ask(op, encode(value, trusted=line.trusted), again=again, stream=stream, oneway=oneway)
        asked.sent = True
        try:
            self._transmit(line, asked)
        except BaseException:
            self._asking.open.pop(asked.id, None)
            raise
        return asked

    def _transmit(self, line: AioLine, asked: Asked) -> None:
        ack = self._asking.ack
        if asked.value.buffers:
            line.send_value(lambda places, count: asked.request(ack, places, count), asked.value.buffers)
        else:
            line.send(asked.request(ack, (), 0))

    def future(self, asked: Asked) -> "asyncio.Future[None]":
        """Return what is settled when something has come for a request."""
        future: asyncio.Future[None] = self.loop.create_future()
        if asked.ended or asked.items:
            future.set_result(None)
        else:
            self._futures[asked.id] = future
        return future

    def _settle(self, asked: Asked) -> None:
        future = self._futures.pop(asked.id, None)
        if future is not None and not future.done():
            future.set_result(None)

    def _fail(self, asked: Asked, failure: UniosError) -> None:
        self._asking.fail(asked, failure)
        self._settle(asked)

    def _heard(self, message: Said, value: Value | None) -> None:
        if isinstance(message, Reply | Fault):
            asked = self._asking.heard(message, value)
            if value is not None and value.is_large and self.line is not None:
                self.line.send(Ack(self._asking.ack))
            if asked is not None:
                self._settle(asked)
        elif isinstance(message, Hello) and self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(message)
        else:
            raise ProtocolError("the peer asks where it should answer")

    def _closed(self, why: str) -> None:
        self.line = None
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(Unavailable(why))
        elif self._asking.open and self._opening is None:  # somebody waits: come back, and ask again what may be asked again
            self._opening = self.loop.create_task(self._open(None))
            self._opening.add_done_callback(self._opened)

    def next_item(self, asked: Asked) -> Any:
        """Return the next item of a stream that has come, and grant credit for it."""
        value = asked.take()
        credit = self._asking.credit(asked)
        if credit is not None and self.line is not None:
            self.line.send(credit)
        return decode(value, trusted=self.trusted)

    def give_up(self, asked: Asked) -> None:
        """Withdraw a request."""
        if not asked.ended:
            self._fail(asked, OutcomeUnknown(f"no answer to {asked.op} in time"))
            if self.line is not None:
                self.line.send(Cancel(asked.id))

    def close(self) -> None:
        """End the connection."""
        for asked in list(self._asking.open.values()):
            self._fail(asked, OutcomeUnknown(f"the port was closed here before the answer to {asked.op} came"))
        if self._opening is not None:
            self._opening.cancel()
        if self.line is not None:
            self.line.close()


def _find(home: "Path | str | None", node: str, name: str, deadline: float | None) -> Line:
    with Connection(home, node, role="program") as connection:
        return places.connect(connection, name, deadline)


async def _in_thread(work: Callable[[], Line]) -> Line:
    """Do it in a thread; if nobody waits for it any more, end what it made."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().release())
        raise


class AsyncServer:
    """What `await listen(...)` returns: an open port, answered in this loop. Close it, or use it with `async with`."""

    def __init__(self, name: str, target: Handlers) -> None:
        self.name = name
        self._target = target
        self._incarnation = uuid.uuid4().hex
        self._sessions = Sessions()
        self._lines: set[_Answers] = set()
        self._loop = asyncio.get_running_loop()
        self._acceptor: Acceptor | None = None
        self._ended = asyncio.Event()

    async def open(self, mode: int, home: "Path | str | None", node: str) -> None:
        """Open the port."""

        def work() -> Acceptor:
            acceptor = Acceptor.of(home, node)
            acceptor.listen(self.name, mode, self._taken, self._superseded)
            return acceptor

        self._acceptor = await asyncio.to_thread(work)

    def _superseded(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)

    def _taken(self, stamp: Accepted, sock: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._accepted, stamp, sock)
        except RuntimeError:  # the loop has ended
            sock.close()

    def _accepted(self, stamp: Accepted, sock: Any) -> None:
        if self._ended.is_set():
            sock.close()
            return
        local = self._acceptor is None or stamp.node == self._acceptor.node
        self._lines.add(_Answers(self, stamp, sock, local=local, trusted=stamp.user == me()))

    async def __aenter__(self) -> "AsyncServer":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def wait(self) -> None:
        """Wait until the port is closed here, or another process of this user has taken it over."""
        await self._ended.wait()

    async def close(self) -> None:
        """Close the port and its connections; handlers that run are cancelled. Idempotent."""
        if self._acceptor is not None:
            acceptor, self._acceptor = self._acceptor, None
            await asyncio.to_thread(acceptor.close, self.name)
        self._ended.set()
        for line in list(self._lines):
            line.close()


async def listen(name: str, target: Handlers, *, mode: int = 0o600, home: "Path | str | None" = None, node: str = "") -> AsyncServer:
    """Open a port and answer from now on; `target` and `mode` as in `Server`."""
    server = AsyncServer(name, target)
    await server.open(mode, home, node)
    return server


class _Answers:
    """Answers what comes over one connection."""

    def __init__(self, server: AsyncServer, stamp: Accepted, sock: Any, *, local: bool, trusted: bool) -> None:
        self._server, self._stamp = server, stamp
        self._session: Session | None = None
        self._credit: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._line = AioLine(sock, self._heard, self._closed, local=local, trusted=trusted, pauses=True)
        self._late = server._loop.call_later(HELLO_TIMEOUT_MS / 1000, self.close)

    def close(self) -> None:
        """End the connection and what runs for it."""
        for task in list(self._tasks.values()):
            task.cancel()
        self._line.close()

    def _closed(self, _why: str) -> None:
        self._late.cancel()
        self._server._lines.discard(self)
        for event in self._credit.values():
            event.set()
        if self._session is not None:
            self._session.aio = None
            self._server._sessions.detach(self._session, None)

    def _heard(self, message: Said, value: Value | None) -> None:
        session = self._session
        if session is None:
            if not isinstance(message, Hello):
                raise ProtocolError("the peer did not greet")
            self._greet(message)
        elif isinstance(message, Request):
            assert value is not None
            self._asked(session, message, value)
        elif isinstance(message, Credit):
            session.answering.credited(message)
            if (event := self._credit.get(message.id)) is not None:
                event.set()
        elif isinstance(message, Cancel):
            session.answering.cancel(message.id)
            if (task := self._tasks.get(message.id)) is not None:
                task.cancel()
        elif isinstance(message, Ack):
            session.answering.acked(message.id)
        else:
            raise ProtocolError("the peer answers where it should ask")

    def _greet(self, theirs: Hello) -> None:
        self._late.cancel()
        session, known = self._server._sessions.attach(theirs.facts.get("session", "")[:64], self._stamp.user, None)
        if session.aio is not None:
            session.aio._line.close()
        session.aio, self._session = self, session
        facts = {"incarnation": self._server._incarnation, "session": "known" if known else "new"}
        self._line.send(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", facts))
        agree(theirs)

    def _asked(self, session: Session, request: Request, value: Value) -> None:
        begun = session.answering.begin(request)
        if begun is None:
            return
        if isinstance(begun, tuple):
            self._tell(*begun)
        elif isinstance(begun, list):
            for item in begun:
                self._tell(Reply(request.id, item.body, more=True), item)
        else:
            self._answer(session, request, value, begun)

    def _answer(self, session: Session, request: Request, value: Value, begun: Begun) -> None:
        self._line.hold()
        token = current_caller.set(self._stamp)
        try:
            function = function_of(self._server._target, request.op)
            args, kwargs = decode(value, trusted=self._line.trusted)
            found = function(*args, **kwargs)
            if inspect.isawaitable(found) or request.stream:
                task = self._server._loop.create_task(self._later(session, request, begun, found))
                self._tasks[request.id] = task
                task.add_done_callback(lambda _task: self._over(request.id, found))
                return
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its caller's
            self._fail(session, request, begun, error)
            return
        finally:
            current_caller.reset(token)
        self._end(session, request, begun, found)

    def _over(self, id_: int, found: Any) -> None:
        self._tasks.pop(id_, None)
        if inspect.iscoroutine(found):
            found.close()  # withdrawn before it had begun

    async def _later(self, session: Session, request: Request, begun: Begun, found: Any) -> None:
        try:
            if request.stream:
                await self._stream(session, begun, found)
                found = None
            else:
                found = await found
        except asyncio.CancelledError:
            if not begun.cancelled:
                self._fail(session, request, begun, Unavailable("the port was closed"))
            raise
        except Exception as error:  # noqa: BLE001 - likewise
            self._fail(session, request, begun, error)
        else:
            self._end(session, request, begun, found)

    async def _stream(self, session: Session, begun: Begun, items: Any) -> None:
        if inspect.isawaitable(items):
            items = await items
        if hasattr(items, "__aiter__"):
            async for item in items:
                await self._item(session, begun, item)
            return
        try:
            iterator = iter(items)
        except TypeError:
            raise CallerError("this handler gives no stream") from None
        for item in iterator:
            await self._item(session, begun, item)

    async def _item(self, session: Session, begun: Begun, item: Any) -> None:
        while begun.room <= 0 and not begun.cancelled:
            answers = session.aio or self
            event = answers._credit.setdefault(begun.id, asyncio.Event())
            event.clear()
            await event.wait()
            answers._credit.pop(begun.id, None)
            if session.aio is None and begun.room <= 0:
                await asyncio.sleep(0.05)  # away: he comes back, or his session is forgotten
        value = encode(item, trusted=self._line.trusted)
        message = session.answering.item(begun, value)
        answers = session.aio or self
        answers._tell(message, value)
        await answers._line.drain()

    def _fail(self, session: Session, request: Request, begun: Begun, error: Exception) -> None:
        if isinstance(error, UniosError):
            message = Fault(begun.id, *to_wire(error))
        else:
            message = fault_of(begun.id, error, trusted=self._line.trusted)
        self._finish(session, request, begun, message, None)

    def _end(self, session: Session, request: Request, begun: Begun, found: Any) -> None:
        try:
            answer = encode(found, trusted=self._line.trusted)
        except CallerError as error:
            self._fail(session, request, begun, error)
            return
        self._finish(session, request, begun, Reply(begun.id, answer.body), answer)

    def _finish(self, session: Session, request: Request, begun: Begun, message: Reply | Fault, answer: Value | None) -> None:
        if request.oneway:
            return
        session.answering.end(begun, message, answer)
        if not begun.cancelled:
            (session.aio or self)._tell(message, answer)

    def _tell(self, message: Reply | Fault, value: Value | None) -> None:
        if isinstance(message, Reply) and value is not None and value.buffers:
            self._line.send_value(lambda places, count: Reply(message.id, message.body, message.more, count, places), value.buffers)
        else:
            self._line.send(message)
