"""Relaying: bytes between a local socket and a conversation with another kernel, both ways, without a task and in few copies.

What arrives from the link goes to the socket at once if it is little: a call waits for no round of the loop. Bulk goes in steps of the request's own
sequence, so that what is more urgent goes between two of them. Nothing is queued here: what the socket does not take stays in the inbox, for which no
credit is granted, and what the link does not take stays in the socket, which is not read.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from unios.errors import ProtocolError, UniosError
from unios.limits import SESSION_KEPT_S, WIDE_CHUNK_BYTES
from unios.wire.byte_way import ByteWay
from unios.wire.peer import Call, Stream
from unios.wire.running import context_of
from unios.wire.transport import UNIX_BUFFER_BYTES

AT_ONCE_BYTES: Final = 16 * 1024
"""So much goes to the socket in the step in which it arrives: about what an arrival costs anyway."""


class Relay:
    """One of them. Takes the socket over. `end_way`: this side asked for the request, and says by that that the socket has no more to say; the relay is
    over when the request is, for what was said is still to be taken at the other end: SESSION_KEPT_S after the program has gone at the latest, once
    that is noticed. Without, it is over when the socket has no more to say.

    `over` is done when nothing more is to be passed; `close` is to be called then, or before to break it off.
    """

    def __init__(self, sock: socket.socket, way: ByteWay, end_way: Callable[[], None] | None = None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER_BYTES)
        self._sock, self._way, self._end_way = sock, way, end_way
        self._loop = asyncio.get_running_loop()
        self._context = context_of(way.sequence)
        self._reads = self._writes = self._is_due = self._is_deaf = self._is_shut = self._has_said_all = False
        self._late: asyncio.TimerHandle | None = None
        self.over: asyncio.Future[None] = self._loop.create_future()
        way.on_arrival(self._arrived)
        self._read_on()

    # from the socket

    def _read_on(self) -> None:
        if not self._reads and not self.over.done():
            self._reads = True
            self._context.copy().run(self._loop.add_reader, self._sock.fileno(), self._readable)

    def _rest(self) -> None:
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        """Pass one piece on, if it would go out now; else wait until it would."""
        way = self._way
        if not way.is_open:
            self._rest()
            way.when_open(self._opened)
            return
        try:
            count = self._sock.recv_into(way.room())
        except (BlockingIOError, InterruptedError):
            self._read_on()
            return
        except OSError:
            count = 0
        if count:
            way.send(count)
            self._read_on()
        else:
            self._socket_ended()

    def _opened(self) -> None:
        """Called from where credit or room comes in, which is urgent: what is passed on is not."""
        self._loop.call_soon(self._go_on, context=self._context.copy())

    def _go_on(self) -> None:
        if not self.over.done() and not self._reads:
            self._readable()
        self._way.pass_turn()

    def _socket_ended(self) -> None:
        self._rest()
        self._has_said_all = True
        if self._end_way is None:
            self._finish()
            return
        self._end_way()
        if self._is_deaf:
            self._has_gone()

    def _has_gone(self) -> None:
        """Nobody is at the socket any more. If what he said is still on its way the request goes on: its end would take that back."""
        if self._way.is_all_taken:
            self._finish()
        elif self._late is None:
            self._late = self._loop.call_later(SESSION_KEPT_S, self._finish)

    # to the socket

    def _arrived(self) -> None:
        if self._writes or self._is_due or self.over.done():
            return
        if self._way.held <= AT_ONCE_BYTES:
            self._pass()
        else:
            self._later()

    def _later(self) -> None:
        self._is_due = True
        self._loop.call_soon(self._step, context=self._context.copy())

    def _step(self) -> None:
        self._is_due = False
        if not self.over.done():
            self._pass()

    def _writable(self) -> None:
        self._pass()

    def _pass(self) -> None:
        """Hand to the socket what it takes of one step."""
        if self._is_deaf:
            self._way.drop()
        elif self._hand_over():
            self._write_later()
            return
        self._write_no_more()
        if self._way.held:
            self._later()
        elif self._way.has_ended:
            self._way_ended()

    def _hand_over(self) -> bool:
        """Return whether the socket is full."""
        try:
            pieces = self._way.pieces(WIDE_CHUNK_BYTES)
        except ProtocolError:
            self._way.drop()
            self._finish()
            return False
        if not pieces:
            return False
        try:
            sent = self._sock.send(pieces[0]) if len(pieces) == 1 else self._sock.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:  # its other end is gone; what that has said before is still to be read
            self._is_deaf = True
            self._way.drop()
            if self._has_said_all:
                self._has_gone()
            return False
        self._way.passed(sent, pieces)
        return sent < sum(map(len, pieces))

    def _write_later(self) -> None:
        if not self._writes:
            self._writes = True
            self._context.copy().run(self._loop.add_writer, self._sock.fileno(), self._writable)

    def _write_no_more(self) -> None:
        if self._writes:
            self._writes = False
            self._loop.remove_writer(self._sock.fileno())

    def _way_ended(self) -> None:
        if self._end_way is not None:
            self._finish()
        elif not self._is_shut:
            self._is_shut = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    # the end

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def close(self) -> None:
        """Let go of the socket, and of what it has not taken. Idempotent."""
        self._finish()
        if self._late is not None:
            self._late.cancel()
        if self._sock.fileno() < 0:
            return
        self._way.close()
        self._rest()
        self._write_no_more()
        with contextlib.suppress(OSError):  # a program that was forked may hold its end too
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


async def relay_asked(sock: socket.socket, call: Call) -> None:
    """Relay for a request that another kernel asked, until the socket has no more to say. The end of the items is the end of what the socket gets."""
    relay = Relay(sock, call.way())
    try:
        await relay.over
    finally:
        relay.close()


async def relay_stream(sock: socket.socket, stream: Stream) -> None:
    """Relay for a stream that this side asked for, until that has ended; closes both."""
    relay = Relay(sock, stream.way(), stream.end)
    try:
        await relay.over
    finally:
        relay.close()
        stream.close()


async def join_ends(call: Call, onward: Stream) -> None:
    """Pass items of a request on to another one, and back, until either side ends."""

    async def upward() -> None:
        while (item := await call.receive(bytes)) is not None:
            await onward.send(item)

    async def downward() -> None:
        while (item := await onward.next(bytes)) is not None:
            await call.send(item)

    tasks = [asyncio.ensure_future(upward()), asyncio.ensure_future(downward())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, UniosError):
                await task
