"""A connection on which both sides ask and answer, in asyncio.

- `start` exchanges greetings; `call` asks once; `stream` asks for many answers and may send items along.
- The handler is called once per request in a task of its own; the task is cancelled when the asker cancels or the connection ends.
- A request whose connection breaks after it was sent is OutcomeUnknown, never a guess; one that could not be sent is Unavailable.
- Requests at a time, items under way and bytes queued are bounded (limits.py): over the bound a request is refused as Unavailable,
  a sender of items waits for credit, and one that does not is cut off.

Never retries, never interprets a body.
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from unios.core.sequences import ARRIVAL, BEAT, sequence_of
from unios.errors import CallerError, OutcomeUnknown, ProtocolError, Unavailable, UniosError, from_wire, to_wire
from unios.limits import FDS_MAX, HELLO_TIMEOUT_MS, REQUESTS_PER_PEER_MAX, STREAM_WINDOW_BYTES
from unios.wire.allowances import Allowance
from unios.wire.call import Call as Call
from unios.wire.deadlines import Deadlines
from unios.wire.flow import OVERFLOW
from unios.wire.frames import FrameReader
from unios.wire.messages import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Cancel,
    Credit,
    Fault,
    Hello,
    Item,
    Message,
    Reply,
    Request,
    agree,
    decode,
    framed,
    pack,
    unpack,
)
from unios.wire.outbox import Outbox
from unios.wire.running import context_of, in_sequence
from unios.wire.stream import Stream as Stream
from unios.wire.transport import Buffer, Transport

T = TypeVar("T")
FAULT_CHARACTERS_MAX = 64 * 1024


class Answer(msgspec.Struct):
    """A handler's result that carries descriptors; they are closed here once they are sent."""

    body: object
    descriptors: list[int] = []


Handler = Callable[[Call], Awaitable[object]]
HeldOf = Callable[[str], Allowance | None]
"""What may be held of what a user has sent; None: as much as comes."""
AROUND_BYTES_MAX: Final = 1024
"""More than that around the body of a message is not kept as long as the body is: only that is counted."""
AtOnce = Callable[[Call], bool]
"""Takes a request that needs no task, to `answer` it later; False leaves it to the handler. What it raises is the answer."""


def as_it_comes(_user: str) -> None:
    """The HeldOf of one whose peer is trusted."""


async def refuse(call: Call) -> object:
    """Handler of a side that only asks."""
    raise CallerError(f"this side answers nothing, {call.op} neither")


def _do_all(works: list[Callable[[], None]]) -> None:
    """Do all of them; one that fails keeps no other from being done."""
    for number, work in enumerate(works, 1):
        try:
            work()
        except BaseException:
            for later in works[number:]:
                asyncio.get_running_loop().call_soon(later)
            raise


def _apart(body: msgspec.Raw, size: int) -> msgspec.Raw:
    """Return the body of a message of so many bytes so that it keeps no more than is counted for it."""
    return body.copy() if size - len(memoryview(body)) > AROUND_BYTES_MAX else body


class Peer:
    """One connection. Takes the transport over; all methods belong to the loop's thread."""

    def __init__(
        self,
        transport: Transport,
        handler: Handler = refuse,
        *,
        role: str = "",
        facts: dict[str, str] | None = None,
        at_once: AtOnce | None = None,
        allowance: Allowance | None = None,
        held: HeldOf = as_it_comes,
    ) -> None:
        """`allowance`: of a stranger, for messages that are begun. `held`: by user, for what has come whole and waits here."""
        self.transport = transport
        self.outbox = Outbox(transport)
        self.handler = handler
        self._at_once, self._held = at_once, held
        self.hello = Hello(PROTOCOL_MIN, PROTOCOL_MAX, role, facts or {})
        self.theirs: Hello | None = None
        self.protocol = 0
        self.why_closed = ""
        self._reader = FrameReader(allowance=allowance)
        self._descriptors: deque[int] = deque()
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[tuple[msgspec.Raw, list[int]]]] = {}
        self._told: dict[int, Callable[[msgspec.Raw | UniosError], None]] = {}
        """Who waits for an answer without a task."""
        self._deadlines = Deadlines(self._give_up)
        self._streams: dict[int, Stream] = {}
        self._afterwards: list[Callable[[], None]] | None = None
        """While messages are taken in, what is to be done when all that came together have been."""
        self._calls: dict[int, tuple[Call, asyncio.Task[None] | None]] = {}
        """Without a task: those that are served at once."""
        loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[Hello] = loop.create_future()
        self._closed: asyncio.Future[str] = loop.create_future()

    async def start(self, *, timeout_ms: int = HELLO_TIMEOUT_MS) -> Hello:
        """Exchange greetings; return theirs. ProtocolError if no version fits, Unavailable if the peer does not greet in time."""
        self.send(self.hello, sequence=BEAT)  # first: what has come already may end the connection, and the other side has to hear why
        in_sequence(ARRIVAL, self.transport.start, self._on_bytes, self._on_close, self._reader.room)
        try:
            return await asyncio.wait_for(asyncio.shield(self._greeted), timeout_ms / 1000)
        except TimeoutError:
            self.close("the peer did not greet in time")
            raise Unavailable(f"the peer did not greet within {timeout_ms} ms") from None

    @property
    def is_closed(self) -> bool:
        return self._closed.done()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked or answered over it just now."""
        return not (self._waiting or self._told or self._streams or self._calls)

    async def closed(self) -> str:
        """Wait until the connection has ended; return why."""
        return await asyncio.shield(self._closed)

    def close(self, why: str = "closed here") -> None:
        self.transport.close(why)

    def send(self, message: Message, descriptors: Sequence[int] = (), *, sequence: int) -> None:
        self.outbox.send(framed(message), descriptors, sequence)

    async def call(
        self,
        op: str,
        body: object = None,
        type_: type[T] | Any = Any,
        *,
        node: str = "",
        user: str = "",
        descriptors: Sequence[int] = (),
        timeout_ms: int | None = None,
        hops: int = 0,
    ) -> Any:
        """Ask once and return the answer; raise what the other side raised. For descriptors in an answer use the next one."""
        raw, received = await self._ask(op, body, node, user, descriptors, timeout_ms, hops)
        for descriptor in received:
            os.close(descriptor)
        return unpack(raw, type_)

    async def call_with_descriptors(
        self, op: str, body: object = None, *, node: str = "", user: str = "", timeout_ms: int | None = None
    ) -> tuple[msgspec.Raw, list[int]]:
        """Ask once; return the raw answer and its descriptors, which are the caller's to close."""
        return await self._ask(op, body, node, user, (), timeout_ms)

    async def _ask(
        self, op: str, body: object, node: str, user: str, descriptors: Sequence[int], timeout_ms: int | None, hops: int = 0
    ) -> tuple[msgspec.Raw, list[int]]:
        id_ = self._begin()
        payload = pack(body)
        future: asyncio.Future[tuple[msgspec.Raw, list[int]]] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = future
        if timeout_ms is not None:
            self._deadlines.add(id_, op, timeout_ms)
        try:
            self.send(Request(id_, op, payload, node, user, len(descriptors), hops), descriptors, sequence=sequence_of(op))
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                for descriptor in future.result()[1]:
                    os.close(descriptor)
            raise
        finally:
            self._deadlines.drop(id_)
            del self._waiting[id_]
            if future.cancelled():
                self.send(Cancel(id_), sequence=sequence_of(op))

    def ask(self, op: str, body: object, type_: type[T] | Any, told: Callable[[T | UniosError], None], *, timeout_ms: int) -> None:
        """Ask once, without a task; `told` is called with the answer, or with what `call` would raise, now or later and exactly once."""

        def answered(raw: msgspec.Raw | UniosError) -> None:
            if not isinstance(raw, UniosError):
                try:
                    raw = unpack(raw, type_)
                except ProtocolError as error:
                    raw = error
            told(raw)  # type: ignore[arg-type]

        if self.is_closed:
            answered(Unavailable(f"the connection has ended: {self.why_closed}"))
            return
        id_ = self._begin()
        self._told[id_] = answered
        self._deadlines.add(id_, op, timeout_ms)
        self.send(Request(id_, op, pack(body)), sequence=sequence_of(op))

    def _tell(self, id_: int, answer: msgspec.Raw | UniosError) -> bool:
        """Tell who asked without a task; return whether there was one."""
        told = self._told.pop(id_, None)
        if told is None:
            return False
        self._deadlines.drop(id_)
        self._deadlines.rest()
        told(answer)
        return True

    def _give_up(self, id_: int, op: str, timeout_ms: int) -> None:
        if id_ in self._told:
            self.send(Cancel(id_), sequence=sequence_of(op))
            self._tell(id_, OutcomeUnknown(f"no answer to {op} within {timeout_ms} ms"))
            return
        future = self._waiting.get(id_)
        if future is not None and not future.done():
            future.set_exception(OutcomeUnknown(f"no answer to {op} within {timeout_ms} ms"))
            self.send(Cancel(id_), sequence=sequence_of(op))

    def stream(self, op: str, body: object = None, *, node: str = "", user: str = "", hops: int = 0, sequence: int | None = None) -> Stream:
        """Ask for many answers; what is sent along goes out in `sequence`, by default the operation's."""
        id_ = self._begin()
        stream = Stream(self, id_, sequence_of(op) if sequence is None else sequence, self._held(user))
        self.send(Request(id_, op, pack(body), node, user, 0, hops), sequence=stream._sequence)
        self._streams[id_] = stream
        return stream

    def _begin(self) -> int:
        if self.is_closed:
            raise Unavailable(f"the connection has ended: {self.why_closed}")
        id_ = self._next_id
        self._next_id += 1
        return id_

    def forget(self, id_: int) -> None:
        stream = self._streams.pop(id_, None)
        if stream is not None:
            stream._inbox.discard()
            if not stream._inbox.ended:
                stream._inbox.end(Unavailable("the stream was closed here"))
                stream._window.grant(STREAM_WINDOW_BYTES)
                self.send(Cancel(id_), sequence=stream._sequence)

    # incoming

    def afterwards(self, work: Callable[[], None]) -> None:
        """Call `work` when the messages that came together have been taken in, else as soon as may be."""
        if self._afterwards is None:
            asyncio.get_running_loop().call_soon(work)
        else:
            self._afterwards.append(work)

    def _on_bytes(self, data: Buffer, descriptors: list[int]) -> None:
        afterwards: list[Callable[[], None]] = []
        self._afterwards = afterwards
        try:
            self._take_in(data, descriptors)
        except BaseException:  # what came with it is lost: whoever waits for that has to hear
            self.close("what the peer sent could not be taken in")
            raise
        finally:
            self._afterwards = None
            _do_all(afterwards)

    def _take_in(self, data: Buffer, descriptors: list[int]) -> None:
        self._descriptors.extend(descriptors)
        try:
            if len(self._descriptors) > 4 * FDS_MAX:
                raise ProtocolError("the peer sent descriptors that no message claims")
            for payload in self._reader.feed(data):
                if self.is_closed:  # by what came before it: nobody would end what it begins
                    return
                self._on_message(decode(payload), len(payload))
        except ProtocolError as error:
            if not self._greeted.done():
                self._greeted.set_exception(error)
            self.close(str(error))

    def _on_cancel(self, id_: int, why: UniosError | None = None) -> None:
        """Withdraw a request, by default since its asker has. One without a task goes on to its end, which is told nobody; in its answer's place the asker
        hears what he may believe."""
        entry = self._calls.get(id_)
        if entry is None:
            return
        call, task = entry
        call.withdrawn = why or OutcomeUnknown(f"{call.op} was cancelled")
        if task is not None:
            task.cancel()
        else:
            call.answer(call.withdrawn)

    def _claim(self, count: int) -> list[int]:
        if not 0 <= count <= len(self._descriptors):
            raise ProtocolError(f"the peer announced {count} descriptors and sent {len(self._descriptors)}")
        return [self._descriptors.popleft() for _ in range(count)]

    def _on_message(self, message: Message, size: int) -> None:
        if self.theirs is None:
            if not isinstance(message, Hello):
                raise ProtocolError("the peer did not greet")
            self.protocol = agree(message)
            self.theirs = message
            if not self._greeted.done():
                self._greeted.set_result(message)
            return
        match message:
            case Request():
                self._on_request(message, size)
            case Reply():
                self._on_reply(message, size)
            case Fault():
                self._on_fault(message)
            case Item():
                self._on_item(message, size)
            case Cancel():
                self._on_cancel(message.id)
            case Credit():
                self._on_credit(message)
            case Hello():
                raise ProtocolError("the peer greeted twice")

    def _on_request(self, request: Request, size: int) -> None:
        descriptors = self._claim(request.descriptors)
        if request.id in self._calls:
            raise ProtocolError("the peer used a request id twice")
        if len(self._calls) >= REQUESTS_PER_PEER_MAX:
            self._turn_down(request, descriptors, f"more than {REQUESTS_PER_PEER_MAX} requests at a time on one connection")
            return
        allowance = self._held(request.user)
        if allowance is not None and not allowance.take(size):
            self._turn_down(request, descriptors, OVERFLOW)
            return
        call = Call(self, request, descriptors, allowance, size)
        if self._at_once is not None and not self.outbox.is_full(call.sequence) and self._serve_at_once(self._at_once, call, request.id):
            return
        task = asyncio.get_running_loop().create_task(self._serve(call, request.id), context=context_of(call.sequence))
        self._calls[request.id] = (call, task)
        task.add_done_callback(lambda task: self._served(call, request.id, task))

    def _turn_down(self, request: Request, descriptors: list[int], why: str) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        self._say_fault(Fault(request.id, Unavailable.code, why), sequence_of(request.op))

    def _say_fault(self, fault: Fault, sequence: int) -> None:
        """Send it. A client that asks and asks, and does not read, would have this side keep faults without end."""
        if self._reader.is_strangers and self.outbox.is_full(sequence):
            self.close("the peer asks, and does not read what it is told")
        self.send(fault, sequence=sequence)

    def _serve_at_once(self, at_once: AtOnce, call: Call, id_: int) -> bool:
        self._calls[id_] = (call, None)
        try:
            taken = at_once(call)
        except Exception as error:  # noqa: BLE001 as in `_serve`
            call.answer(error)
            return True
        if not taken:
            del self._calls[id_]
        return taken

    async def _serve(self, call: Call, id_: int) -> None:
        answer: Answer | None = None
        try:
            result = await self.handler(call)
            answer = result if isinstance(result, Answer) else Answer(result)
            if self.outbox.is_full(call.sequence):
                await self.outbox.drain(call.sequence)
            self.send(Reply(id_, pack(answer.body), descriptors=len(answer.descriptors)), answer.descriptors, sequence=call.sequence)
        except asyncio.CancelledError:
            self._fault(call, call.withdrawn or OutcomeUnknown(f"{call.op} was cancelled"))
        except Exception as error:  # noqa: BLE001 the boundary: whatever a handler raises goes to the asker as a fault
            if self.outbox.is_full(call.sequence):
                await self.outbox.drain(call.sequence)
            self._fault(call, error)
        finally:
            for descriptor in answer.descriptors if answer else ():
                os.close(descriptor)

    def _served(self, call: Call, id_: int, task: asyncio.Task[None]) -> None:
        """Let go of a request; a task that is cancelled before it began has done nothing of `_serve`."""
        del self._calls[id_]
        call.end()
        if task.cancelled():
            self._fault(call, call.withdrawn or OutcomeUnknown(f"{call.op} was cancelled"))

    def _fault(self, call: Call, error: BaseException) -> None:
        code, text = to_wire(error)
        # What is no text (a path, say) must not keep the asker from its answer, and neither must length.
        self._say_fault(Fault(call._id, code, text[:FAULT_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode()), call.sequence)

    def _on_reply(self, reply: Reply, size: int) -> None:
        descriptors = self._claim(reply.descriptors)
        if (stream := self._streams.get(reply.id)) is not None:
            if reply.more and stream._inbox.put(_apart(reply.body, size), descriptors):
                return
            del self._streams[reply.id]
            if reply.more:
                stream._inbox.overflow()
                self.send(Cancel(reply.id), sequence=stream._sequence)
            else:
                stream.result = reply.body
                stream._inbox.end()
            stream._window.grant(STREAM_WINDOW_BYTES)
        elif (future := self._waiting.get(reply.id)) is not None and not future.done() and not reply.more:
            future.set_result((reply.body, descriptors))
            return
        elif not reply.more:
            self._tell(reply.id, reply.body)
        for descriptor in descriptors:
            os.close(descriptor)

    def _on_fault(self, fault: Fault) -> None:
        error = from_wire(fault.code, fault.text)
        if (stream := self._streams.pop(fault.id, None)) is not None:
            stream._inbox.end(error)
            stream._window.grant(STREAM_WINDOW_BYTES)
        elif (future := self._waiting.get(fault.id)) is not None and not future.done():
            future.set_exception(error)
        else:
            self._tell(fault.id, error)

    def _on_item(self, item: Item, size: int) -> None:
        entry = self._calls.get(item.id)
        if entry is None or (inbox := entry[0]._inbox).failure is not None:
            return
        if item.end:
            inbox.end()
        elif not inbox.put(_apart(item.body, size), []):
            inbox.overflow()
            self._on_cancel(item.id, OutcomeUnknown(OVERFLOW))

    def _on_credit(self, credit: Credit) -> None:
        if not 0 < credit.bytes <= STREAM_WINDOW_BYTES * 16:
            raise ProtocolError("the peer granted credit out of bounds")
        if credit.to_asker:
            if (stream := self._streams.get(credit.id)) is not None:
                stream._window.grant(credit.bytes)
        elif (entry := self._calls.get(credit.id)) is not None:
            entry[0]._window.grant(credit.bytes)

    def _on_close(self, why: str) -> None:
        self.why_closed = why
        self._deadlines.close()
        self._reader.clear()
        self.outbox.close()
        if not self._greeted.done():
            self._greeted.set_exception(Unavailable(why))
        self._greeted.exception() if self._greeted.done() and not self._greeted.cancelled() else None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(OutcomeUnknown(f"the connection ended before the answer came: {why}"))
        for stream in self._streams.values():
            stream._inbox.end(Unavailable(f"the connection ended: {why}"))
            stream._window.grant(STREAM_WINDOW_BYTES)
        self._streams.clear()
        for id_ in list(self._calls):
            self._on_cancel(id_)
        while self._descriptors:
            os.close(self._descriptors.popleft())
        if not self._closed.done():
            self._closed.set_result(why)
        for id_ in list(self._told):  # last: who is told may ask again, and has to hear that there is no connection
            self._tell(id_, OutcomeUnknown(f"the connection ended before the answer came: {why}"))
