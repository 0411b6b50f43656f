"""Transports whose bytes are the items of a request on another connection: how a connection goes through a node in between."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from unios.errors import ProtocolError, UniosError
from unios.limits import SEND_QUEUE_BYTES_MAX
from unios.wire.peer import Call, Stream
from unios.wire.transport import Frame, OnBytes, OnClose, Room, Transport, nowhere

CHUNK_BYTES = 256 * 1024


class _Pipe:
    """Queues what is written, bounded by whoever awaits `drain`; two tasks move the bytes."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes | None]], end: Callable[[], None]) -> None:
        self._send, self._receive, self._end = send, receive, end
        self._queue: deque[bytes] = deque()
        self.queued = 0
        self.on_room: Callable[[], None] = lambda: None
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._on_close: OnClose | None = None
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def start(self, on_bytes: OnBytes, on_close: OnClose, room: Room = nowhere) -> None:
        self._on_close = on_close
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._reading(on_bytes)), loop.create_task(self._writing())]

    async def _reading(self, on_bytes: OnBytes) -> None:
        why = "the peer closed the connection"
        try:
            while (data := await self._receive()) is not None:
                on_bytes(data, [])
        except UniosError as error:
            why = str(error)
        self.close(why)

    async def _writing(self) -> None:
        try:
            while True:
                while self._queue:
                    data = self._queue.popleft()
                    await self._send(data)
                    self.queued -= len(data)
                    self._changed.set()
                    self.on_room()
                self._changed.clear()
                await self._changed.wait()
        except UniosError as error:
            self.close(str(error))

    def write(self, data: Frame, descriptors: Sequence[int] = ()) -> None:
        if descriptors:
            raise ProtocolError("descriptors do not travel between machines")
        if isinstance(data, tuple):
            data = b"".join(data)
        if not self.closed.done():
            for start in range(0, len(data), CHUNK_BYTES):
                self._queue.append(bytes(data[start : start + CHUNK_BYTES]))
            self.queued += len(data)
            self._changed.set()

    async def drain(self) -> None:
        while self.queued > SEND_QUEUE_BYTES_MAX and not self.closed.done():
            await asyncio.sleep(0.005)

    def send_ahead(self, size: int) -> None:
        """That of the connection below holds."""

    def close(self, why: str = "closed") -> None:
        if self.closed.done():
            return
        self.closed.set_result(why)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        with contextlib.suppress(UniosError):
            self._end()
        if self._on_close is not None:
            self._on_close(why)


class StreamTransport(_Pipe):
    """The bytes are the items of a stream that this side asked for."""

    def __init__(self, stream: Stream) -> None:
        async def receive() -> bytes | None:
            return await stream.next(bytes)

        super().__init__(stream.send, receive, stream.close)


class CallTransport(_Pipe):
    """The bytes are the items of a request that this side answers; the request lasts until `closed`."""

    def __init__(self, call: Call) -> None:
        def send(data: bytes) -> Any:
            return call.send(data)

        def receive() -> Any:
            return call.receive(bytes)

        super().__init__(send, receive, lambda: None)


def join(one: Transport, other: Transport) -> None:
    """Pass bytes between two transports until one of them ends."""
    one.start(lambda data, _descriptors: other.write(data), other.close)
    other.start(lambda data, _descriptors: one.write(data), one.close)
