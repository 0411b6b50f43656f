"""A kernel's connection to its guard or to the init of a tree, in asyncio: requests with answers, events, and data frames for stdin.

The other ends speak kernel/trees_protocol.py. A connection that breaks fails what waits with Unavailable: every request of theirs is idempotent.
"""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unios.errors import CallerError, Denied, InternalError, NoRoom, NotFound, ProgramNotFound, ProgramNotRunnable, Unavailable, UniosError
from unios.kernel.trees_protocol import Decoder, Garbage, encode, encode_data
from unios.limits import TREE_TIMEOUT_MS
from unios.wire.doors import connect_unix

OnEvent = Callable[[dict[str, Any]], None]
_CHUNK = 64 * 1024
_ERRORS: dict[str, type[UniosError]] = {
    "caller": CallerError,
    "limits": CallerError,
    "superseded": CallerError,
    "denied": Denied,
    "not-found": NotFound,
    "program-not-found": ProgramNotFound,
    "program-not-runnable": ProgramNotRunnable,
    "too-big": ProgramNotRunnable,
    "unavailable": Unavailable,
    "no-room": NoRoom,
}


class CwdMissing(ProgramNotFound):
    """The folder to start in is not there, on the node that was tried."""


class TreePeer:
    """One connection; belongs to the loop's thread."""

    def __init__(self, path: Path, on_event: OnEvent) -> None:
        """Connect; raises Unavailable if nobody listens at `path`, or so many wait there already that this one would have to (a stopped init)."""
        try:
            self._sock = connect_unix(path, timeout_s=0)
        except OSError as error:
            raise Unavailable(f"{path.name} of this node does not answer: {error.strerror}") from error
        self._sock.setblocking(False)
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._sending = asyncio.Lock()
        self.closed = asyncio.Event()
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
            frames = self._decoder.feed(data)
        except BlockingIOError:
            return
        except (OSError, Garbage):
            self.close()
            return
        for frame in frames:
            fields = frame.fields or {}
            future = self._waiting.pop(fields.get("id", 0), None)
            if future is not None and not future.done():
                future.set_result(fields)
            elif "event" in fields:
                self._on_event(fields)
        if not data:
            self.close()

    async def ask(self, op: str, *, timeout_ms: int = TREE_TIMEOUT_MS, **fields: Any) -> dict[str, Any]:
        """Ask once; return the answer's fields, or raise what it says went wrong."""
        return checked(await self.answer(op, timeout_ms=timeout_ms, **fields))

    async def answer(self, op: str, *, timeout_ms: int = TREE_TIMEOUT_MS, **fields: Any) -> dict[str, Any]:
        """Ask once; return the answer's fields, which may say what went wrong. Raises Unavailable if there is none."""
        if self.closed.is_set():
            raise Unavailable("the connection to the tree has ended")
        id_ = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[id_] = future
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._send(encode({"id": id_, "op": op, **fields}))
                return await future
        except TimeoutError:
            raise Unavailable(f"the guard or init of the process did not answer to {op} within {timeout_ms} ms") from None
        finally:
            self._waiting.pop(id_, None)

    async def tell(self, op: str, **fields: Any) -> None:
        """Ask for something to which there is no answer."""
        await self._send(encode({"op": op, **fields}))

    async def send_data(self, data: bytes) -> None:
        """Send bytes for the program's stdin; waits while the init does not read."""
        await self._send(encode_data(data))

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            if self.closed.is_set():
                raise Unavailable("the connection to the tree has ended")
            try:
                await self._loop.sock_sendall(self._sock, frame)
            except asyncio.CancelledError:  # a part of the frame may have gone out: what comes after it would be garbage
                self.close()
                raise
            except OSError as error:
                self.close()
                raise Unavailable(f"the connection to the tree has ended: {error.strerror}") from error

    def close(self) -> None:
        """End the connection; idempotent."""
        if self.closed.is_set():
            return
        self.closed.set()
        with contextlib.suppress(OSError, ValueError):
            self._loop.remove_reader(self._sock.fileno())
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the guard or init of the process ended"))
        self._waiting.clear()


def checked(reply: dict[str, Any]) -> dict[str, Any]:
    """Return an answer, or raise what it says went wrong."""
    if "error" in reply:
        raise to_error(str(reply["error"]), str(reply.get("text", "")))
    return reply


def to_error(code: str, text: str) -> UniosError:
    """Return the error for what a guard or init says."""
    if code == "cwd":
        return CwdMissing(text)
    return _ERRORS.get(code, InternalError)(text)
