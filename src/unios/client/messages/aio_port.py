"""AsyncPort: the caller's end of a port in asyncio, the twin of `port`. Belongs to one loop.

Blocking steps (finding a port) are done in a thread.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from unios.client.connection import Connection
from unios.client.messages import places
from unios.client.messages.aio_line import AioLine
from unios.client.messages.ends import outcome
from unios.client.messages.line import Line
from unios.errors import CallerError, OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.limits import HELLO_TIMEOUT_MS
from unios.wire.conversations import Asked, Asking, Said
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Cancel, Fault, Hello, Reply, agree
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
        line = ends.line
        if line is None or line.is_full or ends.is_full:
            line = await ends.ready()
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
        return outcome(asked)

    async def send(self, op: str, /, *args: object, **kwargs: object) -> None:
        """Send a message that is not answered; waits while too much waits to be sent."""
        asked = self._ends.ask(await self._ends.ready(), op, (args, kwargs), oneway=True)
        if asked.failure is not None:
            outcome(asked)

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
                    outcome(asked)
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
        self._full: deque[asyncio.Future[None]] = deque()
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
            while self.is_full and not line.is_closed:
                self._full.append(waiting := self.loop.create_future())
                await waiting
            if not line.is_closed:
                return line

    @property
    def is_full(self) -> bool:
        """Whether so many calls are under way that one more has to wait for one of them."""
        return self._asking.is_full

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
            self.line = line
            again, failed = self._asking.greeted(theirs)
            if any(asked.sent for asked in again):
                line.send(self._asking.waiting())
            for asked in again:
                if asked.sent:
                    self._transmit(line, asked)
            for asked in failed:
                self._settle(asked)
            return line

    def ask(self, line: AioLine, op: str, value: object, *, again: bool = False, stream: bool = False, oneway: bool = False) -> Asked:
        """Begin a request and send it."""
        if not op.isprintable():
            raise CallerError(f"{op[:80]!r} is no name of an operation")
        encoded = Value(*encode(value, trusted=line.trusted)[:2], line.trusted)
        asked = self._asking.ask(op, encoded, again=again, stream=stream, oneway=oneway)
        asked.sent = True
        try:
            self._transmit(line, asked)
            if oneway:
                self._asking.left(asked)
        except BaseException:
            self._asking.open.pop(asked.id, None)
            raise
        return asked

    def _transmit(self, line: AioLine, asked: Asked) -> None:
        if asked.value.trusted and not line.trusted:
            self._fail(asked, OutcomeUnknown(f"another user listens on port {self.name} now: whether {asked.op} was done is not known"))
            return
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
        while self._full and not self._asking.is_full:
            waiting = self._full.popleft()
            if not waiting.done():
                waiting.set_result(None)
        future = self._futures.pop(asked.id, None)
        if future is not None and not future.done():
            future.set_result(None)

    def _fail(self, asked: Asked, failure: UniosError) -> None:
        self._asking.fail(asked, failure)
        self._settle(asked)

    def _heard(self, message: Said, value: Value | None) -> None:
        if isinstance(message, Reply | Fault):
            asked = self._asking.heard(message, value)
            if (ack := self._asking.acknowledgement()) is not None and self.line is not None:
                self.line.send(ack)
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
        value, credit = self._asking.take(asked)
        if credit is not None and self.line is not None:
            self.line.send(credit)
        return decode(value, trusted=value.trusted)

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
        while self._full:
            if not (waiting := self._full.popleft()).done():
                waiting.set_result(None)
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
