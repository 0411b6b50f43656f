"""Line: one connection of two programs, blocking. Frames messages, carries their large buffers, takes descriptors in.

Any thread may send, one at a time; any one thread may read. Never decides what a message means. Whatever breaks off the sending or the reading of a message
in its midst, a signal's handler that raises or a deadline, ends the connection: nobody could find the next message, and a session goes on over another one.
"""

import array
import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from unios.client.messages import memory
from unios.client.messages.intake import Intake, Lacking
from unios.errors import OutcomeUnknown, ProtocolError
from unios.limits import FRAME_BYTES_MAX, PART_BYTES, STRANGER_FRAME_BYTES_MAX
from unios.wire.allowances import Allowance
from unios.wire.conversations import Said, decode
from unios.wire.frames import FrameReader, length_of
from unios.wire.messages import Cancel, Fault, Hello, Part, Reply, Request, encode
from unios.wire.values import Value

_READ_BYTES: Final = 64 * 1024
_POLL_MS_MAX: Final = 24 * 3600 * 1000
_CARRYING: Final = (Reply, Request)
Heard = tuple[Said, Value | None]
WhileBlocked = Callable[[], None] | None
"""What to do when the peer takes nothing and has something to say."""


class Closed(Exception):
    """The connection is gone. `sent`: perhaps a part of what was to be sent has gone out."""

    def __init__(self, text: str, *, sent: bool = True) -> None:
        super().__init__(text)
        self.sent = sent


class Late(TimeoutError):
    """The deadline has passed. A class of its own: a signal's handler may raise TimeoutError."""


class Line:
    """Takes a connected stream socket over. `local`: descriptors can be sent along; `trusted`: the other side is of the same user."""

    def __init__(self, sock: socket.socket, *, local: bool, trusted: bool, keeps: bool = False, allowance: Allowance | None = None) -> None:
        """`keeps`: large buffers that come are only kept here, not written to, and sent on uncopied. `allowance`: of a stranger who calls."""
        self.is_closed = False
        self.is_cut = False
        """Whether the other side has lost the right to it."""
        self.sock = sock
        self.local, self.trusted = local, trusted
        self._pid = os.getpid()
        self._intake = Intake(trusted=trusted, keeps=keeps, allowance=allowance)
        self._reader = FrameReader(self._intake.place, allowance, FRAME_BYTES_MAX if trusted else STRANGER_FRAME_BYTES_MAX)
        self._is_allowed = allowance is not None
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._early: list[Heard] = []
        self._sending = threading.RLock()
        self._anything = False
        """Whether a byte of the message that is being sent has gone out."""

    # sending

    def send(self, message: Said, while_blocked: WhileBlocked = None, deadline: float | None = None) -> None:
        """Send a message without large buffers. Closed if that fails, Late at the deadline (time.monotonic), which ends the connection too."""
        data = encode(message)
        data = length_of(data) + data
        lock = self._sending
        try:
            if deadline is None:
                lock.acquire()
            elif not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise Late
            self._anything = False
            try:
                self._send(data, (), while_blocked, deadline)
            except BaseException:
                self.close()
                raise
        finally:
            try:  # in one call: a signal's handler may raise after each
                lock.release()
            except RuntimeError:  # it was not acquired
                pass

    def send_unless_busy(self, build: Callable[[], Said | None], while_blocked: WhileBlocked, deadline: float | None) -> None:
        """As `send`, what `build` returns, if that is anything; nothing while another thread sends."""
        lock = self._sending
        try:
            if lock.acquire(blocking=False) and (message := build()) is not None:
                self.send(message, while_blocked, deadline)
        finally:
            try:  # in one call: a signal's handler may raise after each
                lock.release()
            except RuntimeError:  # it was not acquired
                pass

    @property
    def is_sending_here(self) -> bool:
        """Whether this very thread is in the midst of a message: whoever asks has interrupted it."""
        return bool(self._sending._is_owned())  # type: ignore[attr-defined]

    def send_value(
        self,
        build: Callable[[tuple[memory.Place, ...], int], Request | Reply],
        buffers: Sequence[memoryview],
        while_blocked: WhileBlocked = None,
        deadline: float | None = None,
    ) -> None:
        """Send a message with large buffers; `build` makes it of their places and the number of descriptors. As `send`, and CallerError without memory."""
        carried = memory.carry(buffers, local=self.local, trusted=self.trusted)
        try:
            message = build(carried.places, len(carried.descriptors))
            data = encode(message)
            data = length_of(data) + data
            self._send_whole(message.id, data, buffers, carried, while_blocked, deadline)
        finally:
            carried.freeze()

    def _send_whole(
        self, id_: int, data: bytes, buffers: Sequence[memoryview], carried: memory.Carried, while_blocked: WhileBlocked, deadline: float | None
    ) -> None:
        lock = self._sending
        try:  # as in `send`, where one more call would cost
            if not lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
                raise Late
            self._anything = False
            try:
                self._send_parts(id_, buffers, carried.places, while_blocked, deadline)
                self._send(data, carried.descriptors, while_blocked, deadline)
            except BaseException:
                self.close()
                raise
        finally:
            try:  # in one call: a signal's handler may raise after each
                lock.release()
            except RuntimeError:  # it was not acquired
                pass

    def _send_parts(
        self, id_: int, buffers: Sequence[memoryview], places: Sequence[memory.Place], while_blocked: WhileBlocked, deadline: float | None
    ) -> None:
        total = sum(size for number, _offset, size in places if number == memory.INLINE)
        for buffer in memory.inline_of(buffers, places):
            for start in range(0, len(buffer), PART_BYTES):
                piece = buffer[start : start + PART_BYTES]
                head = encode(Part(id_, total, memoryview(b"")))[:-2] + b"\xc6" + len(piece).to_bytes(4, "big")
                self._send(length_of(head, piece) + head, (), while_blocked, deadline)
                self._send(piece, (), while_blocked, deadline)

    def _send(self, data: bytes | memoryview, descriptors: Sequence[int], while_blocked: WhileBlocked, deadline: float | None) -> None:
        try:
            if not descriptors and while_blocked is None and deadline is None:
                self.sock.sendall(data)
                return
            sent = self._try(data, descriptors)
            if sent == len(data):
                return
            self._anything = self._anything or sent > 0
            rest = memoryview(data)[sent:]
            while rest:
                self._wait(while_blocked, deadline)
                sent_now = self._try(rest, () if sent else descriptors)
                self._anything = self._anything or sent_now > 0
                sent += sent_now
                rest = rest[sent_now:]
        except OSError as error:
            if error.errno is None:  # not Linux's: of a signal's handler, which may well raise TimeoutError; or Late
                raise
            raise Closed(str(error), sent=self._anything) from error

    def _try(self, data: bytes | memoryview, descriptors: Sequence[int]) -> int:
        try:
            if descriptors:  # they go with the first byte
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                return self.sock.sendmsg([data], rights, socket.MSG_DONTWAIT)
            return self.sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _wait(self, while_blocked: WhileBlocked, deadline: float | None) -> None:
        """Wait until the peer takes more; what it says meanwhile is listened to, or both would wait for each other for ever."""
        poll = _poll(self.sock, select.POLLOUT | (select.POLLIN if while_blocked is not None else 0))
        found = poll.poll(None if deadline is None else _left_ms(deadline))
        if not found and deadline is not None and time.monotonic() >= deadline:
            raise Late
        if while_blocked is not None and any(mask & select.POLLIN and not mask & select.POLLOUT for _descriptor, mask in found):
            while_blocked()

    # reading

    def read(self, deadline: float | None = None) -> list[Heard]:
        """Wait for bytes and return the messages that they complete. Late at the deadline (time.monotonic), Closed at the end, ProtocolError."""
        if self._early:
            early, self._early = self._early, []
            return early
        if deadline is not None:
            self._readable(deadline)
        try:
            return self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> list[Heard]:
        reader = self._reader
        if self.is_closed:  # perhaps in the midst of a frame, of which nobody knows any more how much has come
            raise Closed("it was closed here")
        try:
            return self._read_into(reader)
        except ProtocolError:
            if self.is_closed:  # by another thread, meanwhile: what it let go of is missing
                raise Closed("it was closed here") from None
            raise

    def _read_into(self, reader: FrameReader) -> list[Heard]:
        room = reader.room()
        try:
            data = self._receive(self._buffer if room is None else room)
        except OSError as error:
            if error.errno is None:  # as in _send
                raise
            raise Closed(str(error)) from error
        if not data:
            raise Closed("the other side has ended")
        frames = reader.feed(data)
        if len(frames) == 1:
            message = decode(frames[0], self.trusted)
            if isinstance(message, _CARRYING) and not message.buffers and not message.descriptors:
                return [(message, Value(message.body, (), self.trusted))]  # most: small, and one at a time
            return self._heard(message)
        return [heard for frame in frames for heard in self._heard(decode(frame, self.trusted))]

    def _readable(self, deadline: float) -> None:
        poll = _poll(self.sock, select.POLLIN)
        while not poll.poll(_left_ms(deadline)):
            if time.monotonic() >= deadline:
                raise Late

    def _receive(self, buffer: memoryview) -> memoryview:
        return self._intake.receive(self.sock, buffer) if self.local else buffer[: self.sock.recv_into(buffer)]

    def _heard(self, message: Said) -> list[Heard]:
        if isinstance(message, _CARRYING):
            try:
                return [(message, self._intake.value(message))]
            except Lacking as error:
                if isinstance(message, Request):
                    raise
                return [(Fault(message.id, OutcomeUnknown.code, str(error)), None)]
        if isinstance(message, Part):
            self._intake.add(message)
            return []
        if isinstance(message, Fault):
            self._intake.drop(message.id)
            return [(message, Value(message.body, (), self.trusted))]
        return [(message, None)]

    def greet(self, hello: Hello, deadline: float) -> Hello:
        """Exchange greetings. Closed, Late, ProtocolError."""
        self.send(hello, None, deadline)
        return self.greeted(deadline)

    def greeted(self, deadline: float) -> Hello:
        """Return the other side's greeting. Closed, Late, ProtocolError."""
        heard: list[Heard] = []
        while not heard:
            heard = self.read(deadline)
        theirs = heard[0][0]
        if not isinstance(theirs, Hello):
            raise ProtocolError("the peer did not greet")
        self._early = heard[1:]
        return theirs

    def withdraw(self, id_: int) -> bool:
        """Tell that nobody waits for an answer any more; waits for nothing. False if somebody is sending: say it later.

        If the peer takes nothing the connection ends: the next one says it (Asking.waiting).
        """
        lock = self._sending
        if lock._is_owned():  # type: ignore[attr-defined]  # the collector came in the midst of a message
            return False
        try:
            if not lock.acquire(blocking=False):
                return False
            with contextlib.suppress(Closed, Late):
                self.send(Cancel(id_), None, time.monotonic())
        finally:
            try:  # in one call: a signal's handler may raise after each
                lock.release()
            except RuntimeError:  # it was not acquired
                pass
        return True

    def drop(self) -> None:
        """Let go of the socket without ending the connection: it is the parent's, of whom this process is a fork."""
        self.is_closed = True
        self.sock.close()

    def close(self) -> None:
        """End the connection; idempotent. Whoever reads sees the end."""
        if not self.is_closed and self._pid == os.getpid():
            self.is_closed = True
            try:
                self.sock.shutdown(socket.SHUT_RDWR)  # the broker of a port keeps duplicates of both ends: only this tells it
            except OSError:
                pass

    def release(self) -> None:
        """Close, and give the descriptors back: nobody reads any more."""
        self.close()
        self.sock.close()
        reader, self._reader = self._reader, FrameReader()  # for whoever goes on knowing this connection, as a request that was made over it does
        self._intake.release()
        if self._is_allowed:  # it is read by the thread that does this; any other may still be in the midst of a frame
            reader.clear()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, TypeError, OSError):  # begun halfway, or the interpreter ends
            self.release()


def _poll(sock: socket.socket, mask: int) -> select.poll:
    poll = select.poll()
    try:
        poll.register(sock, mask)
    except ValueError as error:
        raise Closed("it was closed here", sent=False) from error
    return poll


def _left_ms(deadline: float) -> float:
    """Return what a poll takes; it is to be asked again if that is less than there is."""
    return min(max(0.0, deadline - time.monotonic()) * 1000, _POLL_MS_MAX)
