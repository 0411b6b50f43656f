"""Line: one connection of two programs, blocking. Frames messages, carries their large buffers, takes descriptors in.

Any thread may send, one at a time; any one thread may read. Never decides what a message means.
"""

import array
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from unios.client.messages import memory
from unios.errors import ProtocolError
from unios.limits import FDS_MAX, MESSAGE_BYTES_MAX, MESSAGE_BYTES_STRANGER_MAX, PART_BYTES
from unios.wire.conversations import Gathering, Said, decode
from unios.wire.frames import FrameReader, length_of
from unios.wire.messages import Cancel, Fault, Hello, Part, Reply, Request, encode
from unios.wire.values import Value

_READ_BYTES: Final = 64 * 1024
_LENGTH: Final = struct.Struct(">I")
_SPACE: Final = socket.CMSG_SPACE(FDS_MAX * 4)
Heard = tuple[Said, Value | None]


class Closed(Exception):
    """The connection is gone."""


class Line:
    """Takes a connected stream socket over. `local`: descriptors can be sent along; `trusted`: the other side is of the same user."""

    def __init__(self, sock: socket.socket, *, local: bool, trusted: bool) -> None:
        self.sock = sock
        self.local, self.trusted = local, trusted
        self._reader = FrameReader()
        self._gathering = Gathering(MESSAGE_BYTES_MAX if trusted else MESSAGE_BYTES_STRANGER_MAX)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._descriptors: list[int] = []
        self._early: list[Heard] = []
        self._sending = threading.Lock()
        self.is_closed = False
        self.heard_large = False
        """Whether what was read since this was reset had a message that is worth letting go at once."""

    # sending

    def send(self, message: Said, while_blocked: Callable[[], None] | None = None) -> None:
        """Send a message without large buffers. Closed if that fails. `while_blocked` is called when the peer takes nothing and has something to say."""
        data = encode(message)
        data = _LENGTH.pack(len(data)) + data
        with self._sending:
            try:
                sent = self.sock.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.close()
                raise Closed(os.strerror(error.errno or 0)) from error
            if sent < len(data):
                self._send(memoryview(data)[sent:], (), while_blocked)

    def send_value(
        self,
        build: Callable[[tuple[memory.Place, ...], int], Request | Reply],
        buffers: Sequence[memoryview],
        while_blocked: Callable[[], None] | None = None,
    ) -> None:
        """Send a message with large buffers; `build` makes it of their places and the number of descriptors."""
        carried = memory.carry(buffers, local=self.local, trusted=self.trusted)
        try:
            message = build(carried.places, len(carried.descriptors))
            with self._sending:
                self._send_parts(message.id, buffers, carried.places, while_blocked)
                data = encode(message)
                self._send(length_of(data) + data, carried.descriptors, while_blocked)
        finally:
            carried.freeze()

    def _send_parts(self, id_: int, buffers: Sequence[memoryview], places: Sequence[memory.Place], while_blocked: Callable[[], None] | None) -> None:
        total = sum(size for number, _offset, size in places if number == memory.INLINE)
        for buffer in memory.inline_of(buffers, places):
            for start in range(0, len(buffer), PART_BYTES):
                piece = buffer[start : start + PART_BYTES]
                head = encode(Part(id_, total, memoryview(b"")))[:-2] + b"\xc6" + len(piece).to_bytes(4, "big")
                self._send(length_of(head, piece) + head, (), while_blocked)
                self._send(piece, (), while_blocked)

    def _send(self, data: bytes | memoryview, descriptors: Sequence[int], while_blocked: Callable[[], None] | None) -> None:
        try:
            if descriptors:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                sent = self.sock.sendmsg([data], rights)  # the first byte may wait: there is no half of it
            elif while_blocked is None:
                self.sock.sendall(data)
                return
            else:
                sent = self._try(data)
            rest = memoryview(data)[sent:]
            while rest:
                if while_blocked is not None:
                    self._wait(while_blocked)
                    rest = rest[self._try(rest) :]
                else:
                    rest = rest[self.sock.send(rest) :]
        except OSError as error:
            self.close()
            raise Closed(os.strerror(error.errno or 0)) from error

    def _try(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _wait(self, while_blocked: Callable[[], None]) -> None:
        """Wait until the peer takes more; what it says meanwhile is listened to, or both would wait for each other for ever."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT | select.POLLIN)
        if any(mask & select.POLLIN for _descriptor, mask in poll.poll()):
            while_blocked()

    # reading

    def read(self, deadline: float | None = None) -> list[Heard]:
        """Wait for bytes and return the messages that they complete. TimeoutError at the deadline (time.monotonic), Closed at the end, ProtocolError."""
        if self._early:
            early, self._early = self._early, []
            return early
        if deadline is not None:
            self._readable(deadline)
        room = self._reader.room()
        try:
            data = self._receive(self._buffer if room is None else room)
        except OSError as error:
            self.close()
            raise Closed(os.strerror(error.errno or 0)) from error
        if not data:
            self.close()
            raise Closed("the other side has ended")
        if room is not None:
            self.heard_large = True
        elif (frame := self._whole(data)) is not None:
            return self._heard(decode(frame))
        frames = self._reader.feed(data)
        return [heard for frame in frames for heard in self._heard(decode(frame))]

    def _whole(self, data: memoryview) -> bytes | None:
        """Return the frame if these bytes are just one: nearly always they are."""
        if len(data) > 4 and not self._reader.pending and _LENGTH.unpack_from(data)[0] == len(data) - 4:
            return bytes(data[4:])
        return None

    def _readable(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError

    def _receive(self, buffer: memoryview) -> memoryview:
        if not self.local:
            return buffer[: self.sock.recv_into(buffer)]
        count, ancillary, _flags, _address = self.sock.recvmsg_into([buffer], _SPACE, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % 4])
                self._descriptors.extend(numbers)
        if len(self._descriptors) > 4 * FDS_MAX:
            raise ProtocolError("the peer sent descriptors that no message claims")
        return buffer[:count]

    def _heard(self, message: Said) -> list[Heard]:
        if isinstance(message, Reply | Request):
            if not message.buffers and not message.descriptors:
                return [(message, Value(message.body))]
            self.heard_large = True
            return [(message, Value(message.body, self._buffers(message)))]
        if isinstance(message, Part):
            self._gathering.add(message)
            return []
        return [(message, Value(message.body) if isinstance(message, Fault) else None)]

    def _buffers(self, message: Reply | Request) -> list[memoryview]:
        count = message.descriptors
        if not 0 <= count <= len(self._descriptors):
            raise ProtocolError(f"the peer announced {count} descriptors and sent {len(self._descriptors)}")
        descriptors, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        try:
            total = sum(size for number, _offset, size in message.buffers if number == memory.INLINE)
            inline = self._gathering.take(message.id, total) if total else memoryview(b"")
            return memory.receive(message.buffers, descriptors, inline, trusted=self.trusted)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def greet(self, hello: Hello, deadline: float) -> Hello:
        """Exchange greetings. Closed, TimeoutError, ProtocolError."""
        self.send(hello)
        heard: list[Heard] = []
        while not heard:
            heard = self.read(deadline)
        theirs = heard[0][0]
        if not isinstance(theirs, Hello):
            raise ProtocolError("the peer did not greet")
        self._early = heard[1:]
        return theirs

    def withdraw(self, id_: int) -> None:
        """Tell that nobody waits for an answer any more, if there is still somebody to be told."""
        try:
            self.send(Cancel(id_))
        except Closed:
            pass

    def drop(self) -> None:
        """Let go of the socket without ending the connection: it is the parent's, of whom this process is a fork."""
        self.is_closed = True
        self.sock.close()

    def close(self) -> None:
        """End the connection; idempotent. Whoever reads sees the end."""
        if not self.is_closed:
            self.is_closed = True
            try:
                self.sock.shutdown(socket.SHUT_RDWR)  # the broker of a port keeps duplicates of both ends: only this tells it
            except OSError:
                pass

    def release(self) -> None:
        """Close, and give the descriptors back: nobody reads any more."""
        self.close()
        self.sock.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
