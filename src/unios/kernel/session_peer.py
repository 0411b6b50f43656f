"""A kernel's connection to a tree's init for one session or one socket: what comes with descriptors. Its end is the session's."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

from unios.errors import Unavailable
from unios.kernel.tree_peer import to_error
from unios.kernel.trees_protocol import Decoder, Garbage, encode
from unios.limits import TREE_TIMEOUT_MS
from unios.wire.doors import connect_unix

_CHUNK = 64 * 1024
_DESCRIPTORS = 3


class SessionPeer:
    """Use `async with`. Raises Unavailable where the init does not answer."""

    def __init__(self, path: Path) -> None:
        try:
            self._sock = connect_unix(path, timeout_s=0)
        except OSError as error:
            raise Unavailable(f"the init of the process does not answer: {error.strerror}") from error
        self._sock.setblocking(False)
        self._decoder = Decoder()
        self._frames: list[dict[str, Any]] = []
        self._descriptors: list[int] = []
        self._session = 0

    async def __aenter__(self) -> "SessionPeer":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._sock.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    async def open(self, fields: dict[str, Any]) -> list[int]:
        """Start a session; return its master, or its three pipes, without blocking mode and the caller's to close. Raises why not."""
        reply = await self._ask({"op": "session", **fields})
        self._session = int(reply["session"])
        taken, self._descriptors = self._descriptors, []
        for descriptor in taken:
            os.set_blocking(descriptor, False)
        if len(taken) not in (1, _DESCRIPTORS):
            self._descriptors = taken
            raise Unavailable("the init of the process answered without the session")
        return taken

    async def socket(self, family: int) -> socket.socket:
        """Return a TCP socket of the process's network, not connected yet."""
        await self._ask({"op": "socket", "family": family})
        if not self._descriptors:
            raise Unavailable("the init of the process answered without the socket")
        made = socket.socket(fileno=self._descriptors.pop())
        made.setblocking(False)
        return made

    async def signal(self, number: int) -> None:
        """Send a signal to the session's process group; whether it was still there nobody asks."""
        await self._send({"op": "session_signal", "session": self._session, "number": number})

    async def exit_code(self) -> int:
        """Wait for the session's end; return its exit code, 128 + n if signal n ended it, or the tree ended with it."""
        try:
            while True:
                fields = await self._next()
                if fields.get("event") == "session":
                    code = os.waitstatus_to_exitcode(int(fields["status"]))
                    return code if code >= 0 else 128 - code
        except Unavailable:
            return 137  # the tree has ended, and the session with it

    async def _ask(self, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TREE_TIMEOUT_MS / 1000):
                await self._send({"id": 1, **fields})
                reply = await self._next()
        except TimeoutError:
            raise Unavailable(f"the init of the process did not answer within {TREE_TIMEOUT_MS} ms") from None
        if "error" in reply:
            raise to_error(str(reply["error"]), str(reply.get("text", "")))
        return reply

    async def _send(self, fields: dict[str, Any]) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, encode(fields))
        except OSError as error:
            raise Unavailable(f"the process has ended: {error.strerror}") from error

    async def _next(self) -> dict[str, Any]:
        while not self._frames:
            await self._receive()
        return self._frames.pop(0)

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(self._sock.fileno(), readable)
        try:
            await ready
        finally:
            loop.remove_reader(self._sock.fileno())
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._sock, _CHUNK, _DESCRIPTORS)
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self._descriptors += descriptors
            self._frames += [frame.fields for frame in self._decoder.feed(data) if frame.fields is not None]
        except BlockingIOError:
            return
        except (OSError, Garbage) as error:
            raise Unavailable("the connection to the process has ended") from error
        if not data:
            raise Unavailable("the process has ended")
