"""AsyncPort: the caller's end of a port in asyncio, the twin of `port`. Belongs to one loop.

Blocking steps (finding a port) are done in a thread.
"""

import asyncio
import contextlib
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from unios.client.connection import Connection
from unios.client.messages import places, port
from unios.client.messages.aio_line import AioLine
from unios.client.messages.line import Line
from unios.client.messages.outcomes import outcome
from unios.client.messages.port import deadline_of
from unios.errors import CallerError, NotFound, OutcomeUnknown, PeerRestarted, ProtocolError, Unavailable, UniosError, fresh
from unios.limits import CLIENT_RETRY_MS, HELLO_TIMEOUT_MS
from unios.wire.conversations import Asked, Asking, Said
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Cancel, Fault, Hello, Reply, agree
from unios.wire.values import Value, decode, encode

_ROUND_S: Final = 1.0
"""So long at a time a thread looks for whoever listens: who ends meanwhile waits for it."""


class AsyncPort:
    """What `await connect(name)` returns. `await port.NAME(...)` calls NAME. Belongs to one loop."""

    def __init__(self, name: str, *, home: "Path | str | None" = None, node: str = "") -> None:
        self._ends = _Ends(name, home, node)
        self._held = _Held(self._ends)
        self._timeout: float | None = None
        self._again = False

    @property
    def name(self) -> str:
        return self._ends.name

    def options(self, *, timeout: float | None = None, idempotent: bool = False) -> "AsyncPort":
        """Return this port with a deadline of so many seconds for each call, and with calls that may be done again after a loss."""
        deadline_of(timeout)  # a loop would take nan for a time, and its other timers for late
        port = object.__new__(AsyncPort)
        port._ends, port._held, port._timeout, port._again = self._ends, self._held, timeout, idempotent
        return port

    async def call(self, op: str, /, *args: object, **kwargs: object) -> Any:
        """Call and return what the handler returned; raise what it raised. OutcomeUnknown and CallerError as in `Port.call`."""
        ends, timeout = self._ends, self._timeout
        line = ends.line
        if line is None or line.is_full or ends.is_full:
            deadline = self._deadline()
            line = await ends.ready(deadline)
            timeout = _left(deadline)
        asked = ends.ask(line, op, (args, kwargs), again=self._again)
        future = ends.future(asked)
        handle = ends.loop.call_later(timeout, ends.give_up, asked) if timeout is not None else None
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
        asked = self._ends.ask(await self._ends.ready(self._deadline()), op, (args, kwargs), oneway=True)
        if asked.failure is not None:
            outcome(asked)

    async def stream(self, op: str, /, *args: object, **kwargs: object) -> AsyncIterator[Any]:
        """Call what yields, and yield the items. Whoever stops reading stops the handler; so does the deadline, which is that of the whole stream."""
        ends, deadline = self._ends, self._deadline()
        line = await ends.ready(deadline)
        asked = ends.ask(line, op, (args, kwargs), stream=True, again=self._again)
        left = _left(deadline)
        handle = ends.loop.call_later(left, ends.give_up, asked) if left is not None else None
        try:
            while True:
                while not asked.items and not asked.ended:
                    await ends.future(asked)
                if not asked.items:
                    outcome(asked)
                    return
                yield ends.next_item(asked)
        finally:
            if handle is not None:
                handle.cancel()
            if not asked.ended:
                ends.give_up(asked)

    def _deadline(self) -> float | None:
        return deadline_of(self._timeout)

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_"):
            raise AttributeError(op)

        def call(*args: object, **kwargs: object) -> Any:
            return self.call(op, *args, **kwargs)

        return call

    def __reduce__(self) -> tuple[Any, ...]:
        """As `Port`, it travels as its name. It arrives as an AsyncPort where a loop runs, else as a Port."""
        return travelled, (self._ends.name, self._timeout, self._again)

    async def __aenter__(self) -> "AsyncPort":
        await self._ends.ready()
        return self

    async def __aexit__(self, kind: object, *_exc: object) -> None:
        lost: list[str] = []
        if (line := self._ends.close(self._ends.say if kind else lost.append)) is not None:
            await line.finished()
        if lost:
            raise OutcomeUnknown(lost[0])

    def close(self) -> None:
        """End the connection; calls that wait end with OutcomeUnknown. Idempotent; a later call connects again.

        What was sent before still goes out while the loop runs, if it is taken within FINISH_S; leaving `async with` waits for that. If a one-way message is
        not, leaving raises OutcomeUnknown; after `close` the loop's exception handler is told.
        """
        self._ends.close(self._ends.say)


def travelled(name: str, timeout: float | None, again: bool) -> Any:
    """Return a port that has come in a message: an AsyncPort if a loop runs in this thread, else a Port. It connects when it is first called."""
    try:
        return AsyncPort(name).options(timeout=timeout, idempotent=again)
    except RuntimeError:
        return port._travelled(name, timeout, again)


async def connect(name: str, *, timeout: float | None = None, home: "Path | str | None" = None, node: str = "") -> AsyncPort:
    """Return a port, waiting up to `timeout` seconds (None: for ever) for somebody to listen. NotFound, Denied, Unavailable."""
    port = AsyncPort(name, home=home, node=node)
    await port._ends.ready(deadline_of(timeout))
    return port


class _Held:
    """What the ports of one connection hold: when the last of them is dropped, the connection ends. The loop holds that itself."""

    __slots__ = ("_ends",)

    def __init__(self, ends: "_Ends") -> None:
        self._ends = ends

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._ends.loop.call_soon_threadsafe(self._ends.close, self._ends.say)


class _Ends:
    """A session and its connection, in one loop."""

    def __init__(self, name: str, home: "Path | str | None", node: str) -> None:
        self.name = name
        self._home, self._node = home, node
        self._pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self.line: AioLine | None = None
        self._newest: AioLine | None = None
        """The same, or one on which nobody has greeted yet."""
        self._full: deque[asyncio.Future[None]] = deque()
        self._asking = Asking(uuid.uuid4().hex)
        self._futures: dict[int, asyncio.Future[None]] = {}
        self._opening: asyncio.Task[None] | None = None
        self._opened_s = 0.0
        """When the last connection was made: the next one is no sooner than CLIENT_RETRY_MS after it, in case its owner ends each."""
        self._waiting: dict[asyncio.Future[None], float | None] = {}
        """Those who wait for a connection, each until its deadline."""
        self._greeting: asyncio.Future[Hello] | None = None

    async def ready(self, deadline: float | None = None) -> AioLine:
        """Return the connection, made again if it is gone, once it takes more. At the deadline (time.monotonic) NotFound, Unavailable, OutcomeUnknown."""
        while True:
            line = self.line
            if line is None:
                await self._connected(deadline)
                continue
            try:
                async with asyncio.timeout(_left(deadline)):
                    while (line.is_full or self.is_full) and not line.is_closed:
                        if line.is_full:
                            await line.drain()
                        else:
                            self._full.append(waiting := self.loop.create_future())
                            await waiting
            except TimeoutError:
                raise Unavailable(f"port {self.name} took nothing more in time: {len(self._asking.open)} calls are under way") from None
            if not line.is_closed:
                return line

    @property
    def is_full(self) -> bool:
        """Whether so many calls are under way that one more has to wait for one of them."""
        return self._asking.is_full

    # the connection

    async def _connected(self, deadline: float | None) -> None:
        """Wait until there is a connection. It is looked for once for all who wait, and each is told at his own deadline."""
        self._check_process()
        waiting: asyncio.Future[None] = self.loop.create_future()
        self._waiting[waiting] = deadline
        left, late = _left(deadline), None
        if left is not None:  # the kernel says why, a little later
            late = self.loop.call_later(left + places.GRACE_S, _fail, waiting, OutcomeUnknown(f"port {self.name} was not reached in time"))
        self._reopen()
        try:
            await waiting
        finally:
            self._waiting.pop(waiting, None)
            if late is not None:
                late.cancel()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise CallerError(f"this port to {self.name} is of the process from which this one was forked: connect again")

    def _reopen(self) -> None:
        if self._opening is None:
            self._opening = self.loop.create_task(self._open())
            self._opening.add_done_callback(self._opened)

    def _opened(self, task: "asyncio.Task[None]") -> None:
        self._opening = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail_all(error)
        elif self.line is not None:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
        elif self._is_wanted:  # it has broken already, or somebody came after `close`
            self._reopen()

    @property
    def _is_wanted(self) -> bool:
        return bool(self._waiting or self._asking.open)

    def _fail_all(self, error: BaseException) -> None:
        for waiting in self._waiting:
            _fail(waiting, fresh(error) if isinstance(error, UniosError) else error)
        for asked in list(self._asking.open.values()):
            self._fail(asked, OutcomeUnknown(f"no answer to {asked.op} came: {error}"))

    async def _open(self) -> None:
        """Make a connection, for as long as somebody wants one. Raises what cannot be waited for."""
        await asyncio.sleep(self._opened_s + CLIENT_RETRY_MS / 1000 - self.loop.time())
        while self._is_wanted:
            deadlines = [deadline for deadline in self._waiting.values() if deadline is not None]
            soon = min([time.monotonic() + _ROUND_S, *deadlines])
            until = max(deadlines) if len(deadlines) == len(self._waiting) and not self._asking.open else None
            found = await _in_thread(lambda soon=soon, until=until: _find(self._home, self._node, self.name, soon, until))  # type: ignore[misc]
            error = await self._greet(found) if isinstance(found, Line) else found
            if error is None:
                return
            now = time.monotonic()
            for waiting, deadline in self._waiting.items():
                if deadline is not None and now >= deadline:
                    _fail(waiting, fresh(error))
            await asyncio.sleep(CLIENT_RETRY_MS / 1000)

    async def _greet(self, found: Line) -> UniosError | None:
        """Greet, and send again what is to be; return why that failed if it may be tried again."""
        sock = found.sock.dup()
        found.drop()
        self._greeting = self.loop.create_future()
        self._newest = line = AioLine(sock, self._heard, self._closed, local=found.local, trusted=found.trusted)
        try:
            line.send(self._asking.hello((PROTOCOL_MIN, PROTOCOL_MAX)))
            theirs = await asyncio.wait_for(self._greeting, HELLO_TIMEOUT_MS / 1000)
            agree(theirs)
        except (TimeoutError, Unavailable):
            line.close()
            return OutcomeUnknown(f"port {self.name} was not reached in time: whoever listens does not greet")
        except BaseException:
            line.close()
            raise
        finally:
            self._greeting = None
        if line.is_closed:
            return OutcomeUnknown(f"port {self.name} was not reached in time: whoever listens ends each connection")
        self.line, self._opened_s = line, self.loop.time()
        again, failed = self._asking.greeted(theirs)
        for asked in failed:
            self._settle(asked)
        if any(asked.sent for asked in again):
            line.send(self._asking.waiting())
        for asked in again:
            if asked.sent:
                try:
                    self._transmit(line, asked)
                except CallerError as error:  # there is no memory for it now
                    self._fail(asked, OutcomeUnknown(f"{asked.op} could not be sent again: {error}"))
        return None

    # asking

    def ask(self, line: AioLine, op: str, value: object, *, again: bool = False, stream: bool = False, oneway: bool = False) -> Asked:
        """Begin a request and send it."""
        self._check_process()
        if not op.isprintable():
            raise CallerError(f"{op[:80]!r} is no name of an operation")
        encoded = Value(*encode(value, trusted=line.trusted)[:2], line.trusted)
        asked = self._asking.ask(op, encoded, again=again, stream=stream, oneway=oneway)
        asked.sent = True
        try:
            self._transmit(line, asked)
            if oneway:
                self._asking.left(asked)
                line.owe()
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
        line, self._newest, self.line = self._newest, None, None
        refused = line.refused if line is not None else None
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(refused or Unavailable(why))
        elif refused is not None:  # he would say the same again
            self._fail_all(refused)
        elif self._asking.open:  # somebody waits: come back, and ask again what may be asked again
            self._reopen()

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

    def say(self, text: str) -> None:
        """Tell whoever watches the loop: nobody waits for this any more."""
        self.loop.call_exception_handler({"message": text})

    def close(self, lost: Callable[[str], object]) -> AioLine | None:
        """End the connection; return it, if there is one: what was said may not have been taken yet. `lost`: told if one-way messages will not be."""
        if self._pid != os.getpid():
            return None
        for asked in list(self._asking.open.values()):
            self._fail(asked, OutcomeUnknown(f"the port was closed here before the answer to {asked.op} came"))
        for waiting in (*self._waiting, *self._full):
            _fail(waiting, OutcomeUnknown(f"the port to {self.name} was closed here"))
        self._full.clear()
        if self._opening is not None:
            self._opening.cancel()
        line, self.line = self.line, None
        if line is not None:
            self._newest = None
            line.finish(lambda s: lost(f"port {self.name} was closed here, and what was sent one way was not taken within {s:g} s: the rest is lost"))
        return line


def _left(deadline: float | None) -> float | None:
    """Return how many seconds are left."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _fail(waiting: "asyncio.Future[None]", error: BaseException) -> None:
    if not waiting.done():
        waiting.set_exception(error)


def _find(home: "Path | str | None", node: str, name: str, deadline: float, until: float | None) -> Line | UniosError:
    """Return a line to whoever listens; or what to say by then, if it is worth trying again. Raises what is not. Times as places.connect has them."""
    with Connection(home, node, role="program") as connection:
        try:
            return places.connect(connection, name, deadline, until=until)
        except NotFound as error:
            return error
        except (Unavailable, OutcomeUnknown, PeerRestarted) as error:
            if not connection.anybody():
                raise
            return error


async def _in_thread(work: Callable[[], Line | UniosError]) -> Line | UniosError:
    """Do it in a thread; if nobody waits for it any more, end what it made."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(_let_go)
        raise


def _let_go(done: "asyncio.Future[Line | UniosError]") -> None:
    if not done.cancelled() and done.exception() is None and isinstance(line := done.result(), Line):
        line.release()
