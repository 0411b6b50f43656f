"""AsyncServer: the listening end of a port in asyncio, the twin of `server`. Belongs to one loop.

Handlers may be coroutine functions, which run side by side, or plain ones, which run in the loop.
"""

import asyncio
import contextlib
import inspect
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from unios.client.messages.acceptor import Acceptor, me
from unios.client.messages.aio_line import AioLine
from unios.client.messages.server import Handlers, checked, current_caller, fault_of, function_of, said_of
from unios.client.messages.sessions import Allowances, answering
from unios.errors import CallerError, ProtocolError, Unavailable
from unios.limits import HELLO_TIMEOUT_MS, PORT_SESSIONS_MAX, SESSION_KEPT_S, SESSIONS_PER_USER_MAX
from unios.wire.allowances import Allowance
from unios.wire.conversations import Again, Begun, Said
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Cancel, Credit, Fault, Hello, Reply, Request, agree
from unios.wire.operations import Accepted
from unios.wire.values import Value, decode, encode


class _Session:
    """What one caller has asked, through whatever connection he has now."""

    def __init__(self, user: str, allowance: Allowance | None, *, is_named: bool) -> None:
        self.answering = answering(user, allowance)
        self.is_named = is_named
        """Whether its caller has given it an id, to come back to it."""
        self.now: _Answers | None = None
        self.left_s = 0.0
        self.changed = asyncio.Event()
        """Set, and made anew, when items were taken, something was withdrawn, or a connection came or went."""
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def pulse(self) -> None:
        """Wake the streams that wait; cancel what nobody waits for any more."""
        self.changed.set()
        self.changed = asyncio.Event()

    def withdraw(self, cancelled: Callable[[int], bool]) -> None:
        """Cancel the tasks of requests that were withdrawn."""
        for id_, task in list(self.tasks.items()):
            if cancelled(id_):
                task.cancel()

    def leave(self) -> None:
        """Nobody comes back: stop what is under way."""
        self.answering.leave()
        self.withdraw(lambda _id: True)
        self.pulse()


class AsyncServer:
    """What `await listen(...)` returns: an open port, answered in this loop. Close it, or use it with `async with`."""

    def __init__(self, name: str, target: Handlers) -> None:
        self.name = name
        self._target = checked(target)
        self._incarnation = uuid.uuid4().hex
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._allowances = Allowances()
        self._lines: set[_Answers] = set()
        self._loop = asyncio.get_running_loop()
        self._acceptor: Acceptor | None = None
        self._ended = asyncio.Event()
        self._is_closed = False
        self._pid = os.getpid()

    async def open(self, mode: int, home: "Path | str | None", node: str) -> None:
        """Open the port."""

        def work() -> Acceptor:
            acceptor = Acceptor.of(home, node)
            acceptor.listen(self.name, mode, self._taken, self._superseded)
            return acceptor

        self._acceptor = await asyncio.to_thread(work)

    def _superseded(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._ended.set)

    def _taken(self, stamp: Accepted, sock: socket.socket, node: str) -> None:
        try:
            self._loop.call_soon_threadsafe(self._accepted, stamp, sock, node)
        except RuntimeError:  # the loop has ended
            _end(sock)

    def _accepted(self, stamp: Accepted, sock: socket.socket, node: str) -> None:
        if self._is_closed:
            _end(sock)
        else:
            self._lines.add(_Answers(self, stamp, sock, local=stamp.node == node, trusted=stamp.user == me()))

    async def grant(self, user: str) -> None:
        """Let one more user call, whatever the mode says. Idempotent; holds as long as this server, restarts of the kernel included."""
        await asyncio.to_thread(self._open_acceptor().grant, self.name, user)

    async def revoke(self, who: str | Accepted) -> int:
        """Take a right back; return how many connections were cut. `who` as in `Server.revoke`: a user, or one connection's stamp."""
        if isinstance(who, Accepted):
            return self._cut(lambda stamp: stamp.connection == who.connection)
        await asyncio.to_thread(self._open_acceptor().revoke, self.name, who)
        for key in [key for key in self._sessions if key[0] == who]:
            self._sessions.pop(key).leave()
        return self._cut(lambda stamp: stamp.user == who)

    def _open_acceptor(self) -> Acceptor:
        if self._acceptor is None:
            raise CallerError(f"port {self.name} is closed")
        return self._acceptor

    def _cut(self, whose: Callable[[Accepted], bool]) -> int:
        lines = [line for line in self._lines if whose(line.stamp)]
        for line in lines:
            line.close()
        return len(lines)

    def allowance(self, user: str, *, trusted: bool) -> Allowance | None:
        """Return that of all connections of a stranger, None for the user who listens."""
        return None if trusted else self._allowances.of(user)

    def session(self, id_: str, user: str, *, trusted: bool) -> tuple[_Session, bool]:
        """Return the session, and whether it was known. One of another user is not found. Bounded as in `sessions`: the longest away goes."""
        now = time.monotonic()
        away = sorted((session.left_s, key) for key, session in self._sessions.items() if session.now is None)
        of_user = sum(key[0] == user for key in self._sessions)
        for left_s, key in away:
            over = key[0] == user and of_user >= SESSIONS_PER_USER_MAX
            if over or now - left_s > SESSION_KEPT_S or len(self._sessions) >= PORT_SESSIONS_MAX:
                self._sessions.pop(key).leave()
                of_user -= key[0] == user
        known = self._sessions.get((user, id_)) if id_ else None
        session = known or _Session(user, self.allowance(user, trusted=trusted), is_named=bool(id_))
        if id_:
            self._sessions[user, id_] = session
        return session, known is not None

    async def __aenter__(self) -> "AsyncServer":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def wait(self) -> None:
        """Wait until the port is closed here, or another process of this user has taken it over."""
        await self._ended.wait()

    async def close(self) -> None:
        """Close the port and its connections; handlers that run are cancelled. Idempotent. In a forked child nothing: it is its parent's."""
        if self._pid != os.getpid():
            return
        self._is_closed = True
        if self._acceptor is not None:
            acceptor, self._acceptor = self._acceptor, None
            await asyncio.to_thread(acceptor.close, self.name, self._taken)
        self._ended.set()
        for session in self._sessions.values():
            session.leave()
        for line in list(self._lines):
            line.close()


async def listen(name: str, target: Handlers, *, mode: int = 0o600, home: "Path | str | None" = None, node: str = "") -> AsyncServer:
    """Open a port and answer from now on; `target` and `mode` as in `Server`."""
    server = AsyncServer(name, target)
    await server.open(mode, home, node)
    return server


class _Answers:
    """Answers what comes over one connection."""

    def __init__(self, server: AsyncServer, stamp: Accepted, sock: socket.socket, *, local: bool, trusted: bool) -> None:
        self._server, self.stamp = server, stamp
        self._session: _Session | None = None
        allowance = server.allowance(stamp.user, trusted=trusted)
        self._line = AioLine(sock, self._heard, self._closed, local=local, trusted=trusted, pauses=True, allowance=allowance)
        self._late = server._loop.call_later(HELLO_TIMEOUT_MS / 1000, self.close)

    def close(self) -> None:
        """End the connection."""
        self._line.close()

    def _closed(self, _why: str) -> None:
        self._late.cancel()
        self._server._lines.discard(self)
        session = self._session
        if session is not None and session.now is self:
            session.now, session.left_s = None, time.monotonic()
            session.pulse()
            if not session.is_named:
                session.leave()  # nobody can come back to it
                return
            self._server._loop.call_later(SESSION_KEPT_S, self._forget, session, session.left_s)

    def _forget(self, session: _Session, left_s: float) -> None:
        """He has not come back: stop what is under way for him."""
        if session.now is None and session.left_s == left_s:
            for key in [key for key, one in self._server._sessions.items() if one is session]:
                del self._server._sessions[key]
            session.leave()

    def _heard(self, message: Said, value: Value | None) -> None:
        session = self._session
        if isinstance(message, Request):
            if session is None or value is None:
                raise ProtocolError("the peer did not greet")
            self._asked(session, message, value)
        elif isinstance(message, Hello):
            if session is not None:
                raise ProtocolError("the peer greeted twice")
            self._greet(message)
        elif session is None:
            raise ProtocolError("the peer did not greet")
        elif isinstance(message, Credit):
            session.answering.credited(message)
            session.pulse()
        elif isinstance(message, Cancel):
            session.answering.cancel(message.id)
            session.withdraw(lambda id_: id_ == message.id)
            session.pulse()
        elif isinstance(message, Ack):
            session.answering.acked(message.id, message.ids, message.open)
            if message.open is not None:
                waited = set(message.open)
                session.withdraw(lambda id_: id_ not in waited)
                session.pulse()
        else:
            raise ProtocolError("the peer answers where it should ask")

    def _greet(self, theirs: Hello) -> None:
        self._late.cancel()
        session, known = self._server.session(theirs.facts.get("session", "")[:64], self.stamp.user, trusted=self._line.trusted)
        facts = {"incarnation": self._server._incarnation, "session": "known" if known else "new"}
        self._line.send(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", facts))
        agree(theirs)
        before, session.now, self._session = session.now, self, session
        if before is not None:
            before.close()

    def _asked(self, session: _Session, request: Request, value: Value) -> None:
        begun = session.answering.begin(request, value)
        if isinstance(begun, Begun):
            self._answer(session, request, value, begun)
        elif isinstance(begun, Again):
            session.pulse()
            for item in begun.items:
                self._tell(Reply(request.id, item.body, more=True), item)
            if begun.message is not None:
                self._tell(begun.message, begun.value)

    def _answer(self, session: _Session, request: Request, value: Value, begun: Begun) -> None:
        token = current_caller.set(self.stamp)
        try:
            function = function_of(self._server._target, request.op)
            args, kwargs = _arguments(value)
        except BaseException as error:  # noqa: BLE001 - a class of the caller's may raise anything when it is read
            current_caller.reset(token)
            self._finish(session, begun, Fault(request.id, *said_of(error)), None)
            _pass_on(error)
            return
        try:
            found = function(*args, **kwargs)
            if inspect.isawaitable(found) or request.stream:
                task = self._server._loop.create_task(self._later(session, request, begun, found))
                session.tasks[request.id] = task
                task.add_done_callback(lambda _task: self._over(session, begun, found))
                return
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its caller's
            self._finish(session, begun, self._fault(begun, error), None)
            _pass_on(error)
            return
        finally:
            current_caller.reset(token)
        self._end(session, begun, found)

    def _over(self, session: _Session, begun: Begun, found: Any) -> None:
        begun.release()
        session.tasks.pop(begun.id, None)
        if inspect.iscoroutine(found):
            found.close()  # withdrawn before it had begun

    async def _later(self, session: _Session, request: Request, begun: Begun, found: Any) -> None:
        try:
            if request.stream:
                await self._stream(session, begun, found)
                found = None
            else:
                found = await found
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # the handler's own
                self._finish(session, begun, self._fault(begun, error), None)
                return
            if not begun.cancelled:
                self._finish(session, begun, Fault(begun.id, *said_of(Unavailable("the port was closed"))), None)
            raise
        except BaseException as error:  # noqa: BLE001 - likewise
            self._finish(session, begun, self._fault(begun, error), None)
            _pass_on(error)
        else:
            self._end(session, begun, found)

    def _fault(self, begun: Begun, error: BaseException) -> Fault:
        try:
            return fault_of(begun.id, error, trusted=self._line.trusted)
        except Exception as second:  # noqa: BLE001 - an exception whose class raises when it is pickled or read
            return Fault(begun.id, *said_of(second))

    async def _stream(self, session: _Session, begun: Begun, items: Any) -> None:
        if inspect.isawaitable(items):
            items = await items
        if hasattr(items, "__aiter__"):
            found: AsyncIterator[Any] = items.__aiter__()
            try:
                async for item in found:
                    if not await self._item(session, begun, item):
                        return
            finally:
                if hasattr(found, "aclose"):
                    await found.aclose()
            return
        try:
            iterator: Iterator[Any] = iter(items)
        except TypeError:
            raise CallerError("this handler gives no stream") from None
        try:
            for item in iterator:
                if not await self._item(session, begun, item):
                    return
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    async def _item(self, session: _Session, begun: Begun, item: Any) -> bool:
        """Send an item when there is room; False if nobody reads any more."""
        while begun.room <= 0 and not begun.cancelled:
            await session.changed.wait()
        if begun.cancelled:
            return False
        value, keep = self._fixed(encode(item, trusted=self._line.trusted))
        message = session.answering.item(begun, value, keep=keep)
        if (now := session.now) is not None:
            now._tell(message, value)
            await now._line.drain()
        return True

    def _fixed(self, value: Value) -> tuple[Value, bool]:
        """Return a value as it is to be sent, and whether it can be sent again later: not if the program may change it meanwhile."""
        if value.is_fixed:
            return value, True
        return (value, False) if self._line.local else (value.fixed(), True)

    def _end(self, session: _Session, begun: Begun, found: Any) -> None:
        try:
            answer, keep = self._fixed(encode(found, trusted=self._line.trusted))
        except BaseException as error:  # noqa: BLE001 - what a class raises when it is pickled is its caller's too
            self._finish(session, begun, self._fault(begun, error), None)
            _pass_on(error)
            return
        self._finish(session, begun, Reply(begun.id, answer.body), answer, keep=keep)

    def _finish(self, session: _Session, begun: Begun, message: Reply | Fault, answer: Value | None, *, keep: bool = True) -> None:
        if begun.oneway:
            session.answering.end(begun, message, None, keep=False)
            return
        session.answering.end(begun, message, answer, keep=keep)
        if begun.cancelled or (now := session.now) is None:
            return
        try:
            now._tell(message, answer)
        except (CallerError, ValueError) as error:  # no memory for it, or it is none that can be encoded
            fault = Fault(begun.id, *said_of(error))
            session.answering.lost(begun, fault)
            now._tell(fault, None)

    def _tell(self, message: Reply | Fault, value: Value | None) -> None:
        if isinstance(message, Reply) and value is not None and value.buffers:
            self._line.send_value(lambda places, count: Reply(message.id, message.body, message.more, count, places), value.buffers)
        else:
            self._line.send(message)


def _pass_on(error: BaseException) -> None:
    """Ctrl-C is for whoever runs the loop."""
    if isinstance(error, KeyboardInterrupt):
        raise error


def _end(sock: socket.socket) -> None:
    """End a connection: only a shutdown tells the broker, who keeps duplicates of both ends."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _arguments(value: Value) -> tuple[tuple[Any, ...], dict[str, Any]]:
    asked = decode(value, trusted=value.trusted)
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        args, kwargs = asked
        return tuple(args), {str(key): given for key, given in kwargs.items()}
    raise CallerError("the peer sent no arguments")
