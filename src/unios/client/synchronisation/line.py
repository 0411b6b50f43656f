"""Line: the connection of a session to the locks' service, for several threads: any may say something, one listens.

Speaks the protocol of wire/messages.py: one request is open all the time; what the session says are its items, what it is told are answers. Belongs to
one session, which makes another one when it breaks. A broken line says nothing and raises nothing but to who listens.
"""

import contextlib
import math
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from unios.client.synchronisation.bell import Bell
from unios.errors import ProtocolError, Unavailable, from_wire
from unios.limits import FRAME_BYTES_MAX, HELLO_TIMEOUT_MS, STREAM_WINDOW_BYTES
from unios.wire.frames import FrameReader
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Credit, Fault, Hello, Item, Message, Reply, Request, agree, cost, decode, framed
from unios.wire.synchronising import OPERATION, Said, Told, pack, told

_READ_BYTES: Final = 64 * 1024
_ID: Final = 1
_SEND_S: Final = 2.0
"""A service that takes nothing in for so long is taken for hung."""


class Broken(Exception):
    """The line has ended; never leaves the session."""


class Line:
    """One connected socket, taken over."""

    def __init__(self, sock: socket.socket) -> None:
        """Exchange greetings and open the request. Unavailable or ProtocolError if that fails."""
        self._in = sock
        self._out = sock.dup()
        self._writable = select.poll()
        self._writable.register(self._out, select.POLLOUT)
        self._mutex = threading.Lock()
        self._reading = threading.Lock()
        """Held by who reads: its descriptor is not closed meanwhile. On its way to Linux a read would wait at whatever has the number by then."""
        self._room = STREAM_WINDOW_BYTES
        self._roomy = Bell()
        self._reader = FrameReader()
        self._owed = 0
        self.is_closed = False
        self.said_bye = False
        """The session ends with it."""
        try:
            self._greet()
            self._in.settimeout(None)  # from here on who may not wait says so with each call: one call of Linux for each message
            self._send(Request(_ID, OPERATION))
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        self._in.settimeout(HELLO_TIMEOUT_MS / 1000)
        self._send(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "locks"))
        try:
            head = _exactly(self._in, 4)
            length = int.from_bytes(head, "big")
            if length > FRAME_BYTES_MAX:
                raise ProtocolError("the service of locks did not greet")
            theirs = decode(_exactly(self._in, length))
        except OSError as error:
            raise Unavailable(f"the service of locks did not greet: {error}") from error
        if not isinstance(theirs, Hello):
            raise ProtocolError("the service of locks did not greet")
        agree(theirs)

    @property
    def has_room(self) -> bool:
        return self._room > 0

    def wait_room(self) -> None:
        """Wait while the service is behind with what it was told."""
        if self._room <= 0:
            until_s = time.monotonic() + _SEND_S
            while self._room <= 0 and not self.is_closed and time.monotonic() < until_s:
                self._roomy.wait(until_s - time.monotonic())
            self._roomy.ring()  # others wait, too

    def say(self, message: Said) -> None:
        """Send one message. Silent if the line is broken: who listens hears it."""
        body = pack(message)
        with self._mutex:
            self._room -= cost(body)
            self._send(Item(_ID, body))

    def _send(self, message: Message) -> None:
        if self.is_closed:
            return
        try:
            data = b"".join(framed(message))
            if (sent := self._some(data)) < len(data):
                self._rest(data[sent:])
        except OSError:
            self.cut()
        except BaseException:
            self.cut()  # a signal's handler has raised: half a message may have gone out
            raise

    def _some(self, data: bytes) -> int:
        """Send what can be sent at once; return how much."""
        try:
            return self._out.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _rest(self, data: bytes) -> None:
        until_s = time.monotonic() + _SEND_S
        while data:
            if not self._writable.poll(max(0, math.ceil(1000 * (until_s - time.monotonic())))):
                raise TimeoutError("the service of locks takes nothing in")
            data = data[self._some(data) :]

    def listen(self, until_s: float) -> Iterator[Told]:
        """Yield what has come; nothing if nothing has by `until_s` (time.monotonic; inf: wait). Broken when the line has ended; why is its text."""
        try:
            with self._reading:
                if until_s < math.inf:
                    self._in.settimeout(max(until_s - time.monotonic(), 0.0005))
                elif self._in.gettimeout() is not None:
                    self._in.settimeout(None)
                data = self._in.recv(_READ_BYTES)
        except TimeoutError:
            return
        except OSError as error:
            raise Broken(str(error)) from error
        if not data:
            raise Broken("the connection was closed")
        for payload in self._reader.feed(data):
            message = decode(payload)
            if isinstance(message, Reply) and message.more:
                self._grant(message.body)
                yield told(message.body)
            elif isinstance(message, Fault):
                raise from_wire(message.code, message.text)
            elif isinstance(message, Credit):
                with self._mutex:
                    self._room += message.bytes
                self._roomy.ring()
            elif isinstance(message, Reply):
                raise Broken("the service has ended the session")

    def _grant(self, body: msgspec.Raw) -> None:
        self._owed += cost(body)
        if self._owed >= STREAM_WINDOW_BYTES // 2:
            with self._mutex:
                self._send(Credit(_ID, self._owed))
            self._owed = 0

    def cut(self) -> None:
        """End the connection, from any thread; who listens hears it, and closes."""
        self.is_closed = True
        self._roomy.ring()
        with contextlib.suppress(OSError):
            self._out.shutdown(socket.SHUT_RDWR)  # the broker of the port keeps duplicates: only this tells the other side

    def close(self) -> None:
        """End the line for both sides; idempotent. Who listens hears of the end by then."""
        self.cut()
        with self._reading:
            self.let_go()

    def let_go(self) -> None:
        """Close this process's descriptors and nothing else: after a fork the line is the parent's."""
        self.is_closed = True
        self._in.close()
        self._out.close()


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise Unavailable("the service of locks closed the connection")
        data += more
    return data
