"""Two peers on a socket pair, or one peer and a raw socket; and what a test asks about the process it runs in."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from unios.wire.frames import FrameReader, frame
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Message, decode, encode
from unios.wire.peer import AtOnce, Call, Handler, Peer, refuse
from unios.wire.transport import SocketTransport


def bounded(work: Callable[[], Awaitable[None]], *, seconds: float = 20) -> None:
    """Run `work`; fail if it hangs, or if the loop had to handle an exception that nobody caught."""
    unhandled: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
        async with asyncio.timeout(seconds):
            await work()
            await settled()

    asyncio.run(main())
    assert not unhandled, unhandled


async def settled() -> None:
    """Let callbacks that are due run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the caller bounds the time."""
    while not condition():
        await asyncio.sleep(0.001)


async def echo(call: Call) -> object:
    return call.decode(object)


async def for_ever(_call: Call) -> object:
    await asyncio.Event().wait()
    return None


@contextlib.asynccontextmanager
async def peers(handler: Handler = refuse, other: Handler = refuse, *, at_once: AtOnce | None = None) -> AsyncIterator[tuple[Peer, Peer]]:
    """Yield (asker, answerer) that have greeted each other."""
    left, right = socket.socketpair()
    asker, answerer = Peer(SocketTransport(left), other, role="asker"), Peer(SocketTransport(right), handler, role="answerer", at_once=at_once)
    try:
        await asyncio.gather(asker.start(), answerer.start())
        yield asker, answerer
    finally:
        asker.close("the test is over")
        answerer.close("the test is over")
        await settled()


class Raw:
    """The other end of a peer's connection, byte by byte."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._reader = FrameReader()
        self._messages: list[Message] = []

    async def send(self, *messages: Message, greet: bool = False) -> None:
        """Send messages in one piece."""
        hello = [Hello(PROTOCOL_MIN, PROTOCOL_MAX)] if greet else []
        await self.send_bytes(b"".join(frame(encode(message)) for message in (*hello, *messages)))

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self) -> Message:
        """Return the next message; ConnectionError at the end."""
        while not self._messages:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
            if not data:
                raise ConnectionError("the end")
            self._messages += [decode(payload) for payload in self._reader.feed(data)]
        return self._messages.pop(0)


@contextlib.asynccontextmanager
async def raw_and_peer(handler: Handler = refuse) -> AsyncIterator[tuple[Raw, Peer]]:
    """Yield a raw socket and the peer at its other end, not started."""
    left, right = socket.socketpair()
    peer = Peer(SocketTransport(right), handler)
    try:
        yield Raw(left), peer
    finally:
        peer.close("the test is over")
        left.close()
        await settled()
