"""Relaying: bytes between a local socket and a conversation with another kernel, both ways."""

import asyncio
import contextlib
import socket
from typing import Final

from unios.errors import UniosError
from unios.wire.peer import Call, Stream

CHUNK_BYTES: Final = 128 * 1024


async def relay_asked(sock: socket.socket, call: Call) -> None:
    """Relay for a request that another kernel asked, until the socket has no more to say. The end of the items is the end of what the socket gets."""
    loop = asyncio.get_running_loop()

    async def inward() -> None:
        with contextlib.suppress(OSError, UniosError):
            while (data := await call.receive(bytes)) is not None:
                await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)

    task = loop.create_task(inward())
    try:
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(sock, CHUNK_BYTES):
                await call.send(data)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def relay_stream(sock: socket.socket, stream: Stream) -> None:
    """Relay for a stream that this side asked for, until that has ended; closes both."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)

    async def outward() -> None:
        while data := await loop.sock_recv(sock, CHUNK_BYTES):
            await stream.send(data)
        stream.end()

    with sock, contextlib.suppress(OSError, UniosError):
        task = loop.create_task(outward())
        try:
            async for data in stream.items(bytes):
                await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, UniosError):
                await task
            stream.close()
