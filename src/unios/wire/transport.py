"""Byte transports under a Peer: a connected socket in an asyncio loop, with descriptors where it is a Unix socket.

Own thin loop rather than asyncio's streams, since those cannot pass descriptors. Never frames, never blocks. What is queued for
a slow reader is bounded by the caller: it awaits `drain` when `queued` is over SEND_QUEUE_BYTES_MAX.
"""

import array
import asyncio
import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from unios.core.sequences import ARRIVAL
from unios.errors import Unavailable
from unios.limits import FDS_MAX, SEND_AHEAD_BYTES, SEND_QUEUE_BYTES_MAX
from unios.wire.running import PRIORITISED, in_sequence

READ_BYTES = 416 * 1024
HEADS_BYTES: Final = 32 * 1024
"""So much is read of what may be many small frames or the beginning of a large one, whose rest is then read where it belongs."""
UNIX_BUFFER_BYTES: Final = 208 * 1024
"""Asked of Linux for what a Unix socket holds, and it takes twice that: without, a chunk does not fit in, and half of it waits for the reader."""
TCP_NOTSENT_LOWAT: Final = 25

Buffer = bytes | memoryview
Frame = Buffer | tuple[Buffer, ...]
"""In one piece, or in several that go out one behind the other. What can be written to is copied where it has to wait, all else is kept."""
OnBytes = Callable[[Buffer, list[int]], None]
"""What it is given is good only until it returns: the same buffer is read into again."""
OnClose = Callable[[str], None]
Room = Callable[[], memoryview | None]
"""Where the next bytes are wanted; None: anywhere."""


def nowhere() -> None:
    """The Room of one who takes bytes anywhere."""


_local = threading.local()


def _buffer(name: str = "buffer") -> memoryview:
    """Return this thread's buffer for reading: to allocate one for each message costs a mapping, its page faults and its end."""
    found: memoryview | None = getattr(_local, name, None)
    if found is None:
        found = memoryview(bytearray(READ_BYTES))
        setattr(_local, name, found)
    return found


def plain_buffer() -> memoryview:
    """Return this thread's buffer for what has been decrypted."""
    return _buffer("plain")


def duplicates(descriptors: Sequence[int]) -> list[int]:
    """Return a duplicate of each. Raises Unavailable, and has made none, when there are no more to be had."""
    made: list[int] = []
    try:
        for descriptor in descriptors:
            made.append(os.dup(descriptor))
    except OSError as error:
        for descriptor in made:
            os.close(descriptor)
        raise Unavailable(f"a descriptor cannot be passed on: {error.strerror}") from error
    return made


class Transport(Protocol):
    """What a Peer needs below it. `on_bytes` owns the descriptors it is given; `on_close` is called once, with the reason.

    `on_room` is called whenever less is queued than before.
    """

    on_room: Callable[[], None]

    @property
    def queued(self) -> int:
        """How many bytes were written and not taken yet."""
        ...

    def start(self, on_bytes: OnBytes, on_close: OnClose, room: Room = nowhere) -> None:
        """Begin to read, into `room` where that is possible; `on_bytes` is told of these bytes as of others."""
        ...

    def write(self, data: Frame, descriptors: Sequence[int] = ()) -> None:
        """Queue bytes; the descriptors are duplicated by the kernel when they are sent, the caller keeps its own."""
        ...

    async def drain(self) -> None:
        """Wait until less than SEND_QUEUE_BYTES_MAX is queued, or the transport is closed."""
        ...

    def send_ahead(self, size: int) -> None:
        """Let Linux hold so many bytes that it has not sent, where that can be said."""
        ...

    def close(self, why: str = "") -> None: ...


class SocketTransport:
    """A connected, non-blocking stream socket. Takes the socket over."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.unix = sock.family == socket.AF_UNIX
        if self.unix:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER_BYTES)
        self.closed = False
        if PRIORITISED.get():  # what Linux has taken cannot be overtaken any more
            self.send_ahead(SEND_AHEAD_BYTES)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self.queued = 0
        self.on_room: Callable[[], None] = lambda: None
        self._room: list[asyncio.Future[None]] = []
        self._writing = False
        self._on_bytes: OnBytes | None = None
        self._on_close: OnClose | None = None
        self._room_for: Room = nowhere

    def start(self, on_bytes: OnBytes, on_close: OnClose, room: Room = nowhere) -> None:
        self._on_bytes, self._on_close, self._room_for = on_bytes, on_close, room
        if self.closed:
            self._loop.call_soon(on_close, "closed")
        else:
            self._loop.add_reader(self.sock.fileno(), self._readable)

    def _readable(self) -> None:
        descriptors: list[int] = []
        try:
            data = self._receive(descriptors)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"the connection broke: {os.strerror(error.errno or 0)}")
            return
        if not data:
            for descriptor in descriptors:
                os.close(descriptor)
            self.close("the peer closed the connection")
        elif self._on_bytes is not None:
            self._on_bytes(data, descriptors)

    def _receive(self, descriptors: list[int]) -> memoryview:
        buffer = self._room_for()
        if buffer is None:
            buffer = _buffer() if self._room_for is nowhere else _buffer()[:HEADS_BYTES]
        if not self.unix:
            return buffer[: self.sock.recv_into(buffer)]
        count, ancillary, _flags, _address = self.sock.recvmsg_into([buffer], socket.CMSG_SPACE(FDS_MAX * 4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % 4])
                descriptors.extend(numbers)
        return buffer[:count]

    def write(self, data: Frame, descriptors: Sequence[int] = ()) -> None:
        if self.closed:
            return
        pieces = data if isinstance(data, tuple) else (data,)
        sent = 0
        if not self._queue:
            sent = self._send(pieces, descriptors)
            if sent < 0 or sent == sum(map(len, pieces)):
                return
        if sent:
            descriptors = ()  # they have gone out with the first byte
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
            else:
                self._keep(memoryview(piece)[sent:], descriptors)
                sent, descriptors = 0, ()
        if not self._writing:
            self._writing = True
            in_sequence(ARRIVAL, self._loop.add_writer, self.sock.fileno(), self._writable)

    def _keep(self, rest: memoryview, descriptors: Sequence[int]) -> None:
        if not rest.readonly:
            rest = memoryview(bytes(rest))  # the caller uses its buffer again
        self._queue.append((rest, duplicates(descriptors)))
        self.queued += len(rest)

    def _send(self, pieces: tuple[Buffer, ...], descriptors: Sequence[int]) -> int:
        """Return how much went out now; -1 if the connection broke."""
        try:
            if descriptors:
                rights = array.array("i", descriptors)
                return self.sock.sendmsg(pieces, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            return self.sock.send(pieces[0]) if len(pieces) == 1 else self.sock.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._loop.call_soon(self.close, f"the connection broke: {os.strerror(error.errno or 0)}")
            return -1

    def _writable(self) -> None:
        while self._queue:
            data, descriptors = self._queue[0]
            sent = self._send((data,), descriptors)
            if sent <= 0:
                break
            for descriptor in descriptors:
                os.close(descriptor)
            self.queued -= sent
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = (data[sent:], [])
        if not self._queue and self._writing:
            self._writing = False
            self._loop.remove_writer(self.sock.fileno())
        if self.queued < SEND_QUEUE_BYTES_MAX // 2:
            self._wake()
        self.on_room()

    def _wake(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def drain(self) -> None:
        while self.queued > SEND_QUEUE_BYTES_MAX and not self.closed:
            future: asyncio.Future[None] = self._loop.create_future()
            self._room.append(future)
            await future

    def send_ahead(self, size: int) -> None:
        if not self.unix and not self.closed:
            with contextlib.suppress(OSError):  # a socket that has just broken says so elsewhere
                self.sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size)

    def close(self, why: str = "closed") -> None:
        if self.closed:
            return
        self.closed = True
        descriptor = self.sock.fileno()
        self._loop.remove_reader(descriptor)
        if self._writing:
            self._loop.remove_writer(descriptor)
        for _data, descriptors in self._queue:
            for queued in descriptors:
                os.close(queued)
        self._queue.clear()
        self.queued = 0
        # A brokered port's kernel keeps duplicates of both ends: only a shutdown tells it, and the other side, that this is the end.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.sock.close()
        self._wake()
        if self._on_close is not None:
            self._on_close(why)
