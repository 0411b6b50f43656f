"""AsyncServer: the listening end of a port in asyncio, the twin of `server`. Belongs to one loop.

Handlers may be coroutine functions, which run side by side, or plain ones, which run in the loop.
"""

import asyncio
import inspect
import uuid
from pathlib import Path
from typing import Any

from unios.client.messages.acceptor import Acceptor, me
from unios.client.messages.aio_line import AioLine
from unios.client.messages.server import Handlers, Session, Sessions, current_caller, fault_of, function_of
from unios.errors import CallerError, ProtocolError, Unavailable, UniosError, to_wire
from unios.limits import HELLO_TIMEOUT_MS
from unios.wire.conversations import Begun, Said
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Cancel, Credit, Fault, Hello, Reply, Request, agree
from unios.wire.operations import Accepted
from unios.wire.values import Value, decode, encode


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
