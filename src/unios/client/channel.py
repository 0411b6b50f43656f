"""A connection as one side sees it that only asks, blocking: no event loop, no thread.

- `call` asks once; `begin` starts a request whose answers are read one by one, and which may send items along.
- Several requests may be under way at a time: whoever reads puts what arrives before the request that it belongs to.
- Credit is granted as answers are read and awaited before items are sent, as wire/peer.py has it.

Belongs to one thread. Never retries, never interprets a body. After a ProtocolError the channel is closed.
"""

import array
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from unios.client.flowing import HEAD_BYTES, LEAST_BYTES, Flowing
from unios.errors import OutcomeUnknown, ProtocolError, Unavailable, UniosError, fresh, from_wire
from unios.limits import FDS_MAX, FRAME_BYTES_MAX, HELLO_TIMEOUT_MS, STREAM_WINDOW_BYTES
from unios.wire.chunks import begun_chunk
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
    cost,
    decode,
    framed,
    pack,
)
from unios.wire.messages import (
    unpack as unpack,
)

T = TypeVar("T")
_READ_BYTES = 32 * 1024
"""Of what may be many small frames or the beginning of a large one, whose rest is read where it is put together."""


class Asked:
    """A request under way."""

    def __init__(self, channel: "Channel", id_: int, op: str) -> None:
        self.op = op
        self._channel = channel
        self._id = id_
        self._items: deque[tuple[msgspec.Raw, list[int]]] = deque()
        self._owed = 0
        self._held = 0
        self.room = STREAM_WINDOW_BYTES
        """Bytes of items that may be sent before more credit comes; may fall below 0 by one item."""
        self.ended = False
        self.failure: UniosError | None = None
        self.result: tuple[msgspec.Raw, list[int]] | None = None
        self.flowing: Flowing | None = None
        """A chunk that comes after all items here; only for who waits with `flows`."""

    def put(self, body: msgspec.Raw, descriptors: list[int]) -> None:
        self._items.append((body, descriptors))
        self._held += cost(body)
        if self._held > STREAM_WINDOW_BYTES + FRAME_BYTES_MAX:
            raise ProtocolError("the peer sent answers without credit")

    @property
    def ready(self) -> bool:
        """Whether `next` returns at once."""
        return bool(self._items) or self.flowing is not None or self.ended

    def wait(self, timeout_s: float, flows: frozenset[str] = frozenset()) -> bool:
        """Wait until `next` or `take_flowing` would return at once; False at the timeout. `flows`: of which streams large chunks are for `take_flowing`."""
        deadline = time.monotonic() + timeout_s
        channel = self._channel
        channel.flows = (self, flows) if flows else None
        try:
            while not self.ready:
                channel.read_until(deadline, self.op)
        except OutcomeUnknown:
            return False
        finally:
            channel.flows = None
        return True

    def next(self, type_: type[T] | Any, *, timeout_s: float | None = None) -> Any:
        """Return the next of many answers, None at the end; raise what ended it, OutcomeUnknown at the timeout."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._items:
            if self.ended:
                if self.failure is not None:
                    raise fresh(self.failure)
                return None
            self._channel.read_until(deadline, self.op)
        body, descriptors = self._items.popleft()
        _close(descriptors)
        size = cost(body)
        self._held -= size
        self._grant(size)
        return unpack(body, type_)

    def take_flowing(self) -> Flowing | None:
        """Return the next answer if that is a chunk whose bytes are still in the connection: they are to be moved before anything else is read."""
        if self._items or self.flowing is None:
            return None
        found, self.flowing = self.flowing, None
        self._grant(found.cost)
        return found

    def _grant(self, size: int) -> None:
        """So much has been taken: let the other side send as much more, by and by."""
        self._owed += size
        if self._owed >= STREAM_WINDOW_BYTES // 2 and not self.ended:
            self._channel.send(Credit(self._id, self._owed))
            self._owed = 0

    def finish(self, *, timeout_s: float | None = None) -> tuple[msgspec.Raw, list[int]]:
        """Return the last answer, raw, with its descriptors, which are the caller's to close; answers before it are dropped."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while not self.ended:
                self._channel.read_until(deadline, self.op)
        finally:
            self.close()
        if self.failure is not None:
            raise fresh(self.failure)
        if self.result is None:
            raise ProtocolError(f"the peer ended {self.op} without an answer")
        return self.result

    def send(self, item: object, *, timeout_s: float | None = None) -> None:
        """Send one item along; waits for room. Raises what ended the request."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.room <= 0 and not self.ended:
            self._channel.read_until(deadline, self.op)
        if self.failure is not None:
            raise fresh(self.failure)
        body = pack(item)
        self.room -= len(memoryview(body))
        self._channel.send(Item(self._id, body))

    def end_items(self) -> None:
        """Say that no more items will come."""
        if not self.ended:
            self._channel.send(Item(self._id, end=True))

    def close(self) -> None:
        """Withdraw the request if it is still under way; idempotent."""
        self._channel.forget(self._id)
        for _body, descriptors in self._items:
            _close(descriptors)
        self._items.clear()
        if not self.ended:
            self.end(Unavailable(f"{self.op} was withdrawn here"))

    def end(self, failure: UniosError | None = None) -> None:
        self.ended, self.failure = True, failure


class Channel:
    """One connected socket, taken over. Use `with` or `close` it."""

    def __init__(self, sock: socket.socket, *, role: str = "client", timeout_s: float = HELLO_TIMEOUT_MS / 1000) -> None:
        """Exchange greetings. Unavailable if the peer does not greet in time, ProtocolError if no version fits."""
        self.sock = sock
        self._reader = FrameReader()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._descriptors: deque[int] = deque()
        self._asked: dict[int, Asked] = {}
        self._next_id = 1
        self.theirs: Hello | None = None
        self.why_closed = ""
        self.flows: tuple[Asked, frozenset[str]] | None = None
        """Whose large chunks, and of which streams, are left in the connection for `take_flowing`: of who waits just now, so that nobody else reads on."""
        self._flowing: Flowing | None = None
        try:
            self.send(Hello(PROTOCOL_MIN, PROTOCOL_MAX, role))
            self._await_greeting(time.monotonic() + timeout_s)
        except BaseException:
            self.close("it did not greet")
            raise

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _await_greeting(self, deadline: float) -> None:
        try:
            while self.theirs is None and not self.why_closed:
                self.read_until(deadline, "the greeting")
        except OutcomeUnknown:
            raise Unavailable("the peer did not greet in time") from None
        if self.why_closed:
            raise Unavailable(f"the connection ended: {self.why_closed}")

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def is_closed(self) -> bool:
        return bool(self.why_closed)

    def begin(self, op: str, body: object = None, *, node: str = "", descriptors: Sequence[int] = ()) -> Asked:
        """Ask, without waiting. Unavailable if the connection has ended, and then nothing was asked."""
        if self.why_closed:
            raise Unavailable(f"the connection has ended: {self.why_closed}")
        id_ = self._next_id
        self._next_id += 1
        asked = self._asked[id_] = Asked(self, id_, op)
        self.send(Request(id_, op, pack(body), node, "", len(descriptors)), descriptors)
        return asked

    def call(self, op: str, body: object = None, type_: type[T] | Any = Any, *, node: str = "", timeout_s: float | None = None) -> Any:
        """Ask once and return the answer; raise what the other side raised, OutcomeUnknown when no answer came."""
        raw, descriptors = self.begin(op, body, node=node).finish(timeout_s=timeout_s)
        _close(descriptors)
        return unpack(raw, type_)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message; a connection that breaks ends every request under way and raises nothing."""
        if self.why_closed:
            return
        data = memoryview(b"".join(framed(message)))
        try:
            self.sock.settimeout(HELLO_TIMEOUT_MS / 1000)
            sent = 0
            if descriptors:
                rights = array.array("i", descriptors)
                sent = self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            self.sock.sendall(data[sent:])
        except TimeoutError:
            self.close("the peer takes nothing in")
        except OSError as error:
            self.close(os.strerror(error.errno or 0))

    def forget(self, id_: int) -> None:
        asked = self._asked.pop(id_, None)
        if asked is not None and not asked.ended:
            self.send(Cancel(id_))

    def read_until(self, deadline: float | None, what: str) -> None:
        """Wait for bytes and take them in; OutcomeUnknown at the deadline (time.monotonic; None: wait for ever)."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise OutcomeUnknown(f"no answer to {what} in time")
        try:
            self.sock.settimeout(left)
            if self._flowing is not None:
                self._flowing.drop(self.sock)
                self._flowing = None
            data, descriptors = self._receive()
        except TimeoutError:
            raise OutcomeUnknown(f"no answer to {what} in time") from None
        except OSError as error:
            self.close(os.strerror(error.errno or 0))
            return
        except ProtocolError as error:
            self.close(str(error))
            raise
        self._descriptors.extend(descriptors)
        if not data:
            self.close("the peer closed the connection")
            return
        if self.flows is not None and self._is_left(*self.flows, data):
            return
        try:
            if len(self._descriptors) > 4 * FDS_MAX:
                raise ProtocolError("the peer sent descriptors that no message claims")
            for payload in self._reader.feed(data):
                self._on_message(decode(payload))
        except ProtocolError as error:
            self.close(str(error))
            raise

    def _is_left(self, asked: Asked, streams: frozenset[str], data: memoryview) -> bool:
        """Leave the bytes of a large chunk where they are, if one begins here."""
        if self._reader.is_amid or (begun := begun_chunk(data)) is None or begun.stream not in streams or self._asked.get(begun.id) is not asked:
            return False
        first = bytes(data[begun.before :])
        if begun.size - len(first) < LEAST_BYTES:
            return False
        self._flowing = asked.flowing = Flowing(self, begun, first)
        return True

    def _receive(self) -> tuple[memoryview, list[int]]:
        space = socket.CMSG_SPACE(FDS_MAX * 4)
        room = self._reader.room()
        if room is None:
            room = self._buffer if self.flows is None else self._buffer[:HEAD_BYTES]
        buffer = room
        count, ancillary, _flags, _address = self.sock.recvmsg_into([buffer], space, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
        return buffer[:count], list(descriptors)

    def _claim(self, count: int) -> list[int]:
        if not 0 <= count <= len(self._descriptors):
            raise ProtocolError(f"the peer announced {count} descriptors and sent {len(self._descriptors)}")
        return [self._descriptors.popleft() for _ in range(count)]

    def _on_message(self, message: Message) -> None:
        if self.theirs is None:
            if not isinstance(message, Hello):
                raise ProtocolError("the peer did not greet")
            agree(message)
            self.theirs = message
        elif isinstance(message, Reply):
            self._on_reply(message, self._claim(message.descriptors))
        elif isinstance(message, Fault):
            if (asked := self._asked.pop(message.id, None)) is not None:
                asked.end(from_wire(message.code, message.text))
        elif isinstance(message, Credit):
            if not 0 < message.bytes <= STREAM_WINDOW_BYTES * 16:
                raise ProtocolError("the peer granted credit out of bounds")
            if message.to_asker and (asked := self._asked.get(message.id)) is not None:
                asked.room += message.bytes
        elif isinstance(message, Request):
            _close(self._claim(message.descriptors))
            self.send(Fault(message.id, "caller", f"this side answers nothing, {message.op} neither"))
        elif isinstance(message, Hello):
            raise ProtocolError("the peer greeted twice")

    def _on_reply(self, reply: Reply, descriptors: list[int]) -> None:
        asked = self._asked.get(reply.id)
        if asked is None:
            _close(descriptors)
        elif reply.more:
            asked.put(reply.body, descriptors)
        else:
            del self._asked[reply.id]
            asked.result = (reply.body, descriptors)
            asked.end()

    def close(self, why: str = "closed here") -> None:
        """End the connection and every request under way; idempotent."""
        if self.why_closed:
            return
        self.why_closed = why
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # the broker of a port keeps duplicates of both ends: only this tells it
        self.sock.close()
        _close(self._descriptors)
        for asked in self._asked.values():
            asked.end(OutcomeUnknown(f"the connection ended before the answer to {asked.op} came: {why}"))
        self._asked.clear()


def _close(descriptors: "Sequence[int] | deque[int]") -> None:
    for descriptor in descriptors:
        os.close(descriptor)
