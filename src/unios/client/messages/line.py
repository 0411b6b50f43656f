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
from typing import Any, Final

from unios.client.messages import memory
from unios.client.messages.intake import SPACE, TRUNCATED, Intake, Lacking
from unios.errors import OutcomeUnknown, ProtocolError
from unios.limits import FRAME_BYTES_MAX, PART_BYTES, STRANGER_FRAME_BYTES_MAX
from unios.wire.allowances import Allowance
from unios.wire.conversations import Said, decode
from unios.wire.frames import LENGTH, FrameReader, length_of
from unios.wire.messages import Cancel, Fault, Hello, Part, Reply, Request, encode
from unios.wire.values import Value, made

_READ_BYTES: Final = 64 * 1024
_POLL_MS_MAX: Final = 24 * 3600 * 1000
_CARRYING: Final = (Reply, Request)
_DONTWAIT, _CLOEXEC = int(socket.MSG_DONTWAIT), int(socket.MSG_CMSG_CLOEXEC)
_packed, _announced = LENGTH.pack, LENGTH.unpack_from
_LOOKS: Final = 64
_LOOKED_EACH: Final = 127
_VAIN_MAX: Final = 2
_PROCESSORS: Final = os.cpu_count() or 1
_NO_ANCILLARY: Final[list[tuple[int, int, bytes]]] = []
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
        self._push, self._pull = sock.send, sock.recvmsg_into
        self.local, self.trusted = local, trusted
        self._pid = os.getpid()
        self._intake = Intake(trusted=trusted, keeps=keeps, allowance=allowance)
        self._reader = FrameReader(self._intake.place, allowance, FRAME_BYTES_MAX if trusted else STRANGER_FRAME_BYTES_MAX)
        self._is_allowed = allowance is not None
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._buffers = (self._buffer,)
        self._vain = 0 if local and trusted and _PROCESSORS > 1 else _VAIN_MAX
        self._vain_again = _VAIN_MAX if self._vain else _VAIN_MAX - 1
        self._waits = 0
        self._poll: select.poll | None = None
        self._early: list[Heard] = []
        self.sending = threading.RLock()
        """Whose it is, who is in the midst of a message: if that is the very thread that asks, it has been interrupted."""
        self._anything = False
        """Whether a byte of the message that is being sent has gone out."""

    # sending

    def send(self, message: Said, while_blocked: WhileBlocked = None, deadline: float | None = None) -> None:
        """Send a message without large buffers. Closed if that fails, Late at the deadline (time.monotonic), which ends the connection too."""
        data = encode(message)
        data = _packed(len(data)) + data if len(data) < _READ_BYTES else length_of(data) + data
        lock = self.sending
        try:
            if deadline is None:
                lock.acquire()
            elif not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise Late
            self._anything = False
            try:
                try:
                    sent = self._push(data, _DONTWAIT)
                except BlockingIOError:
                    sent = 0
                if sent != len(data):
                    self._anything = sent > 0
                    self._send(memoryview(data)[sent:], (), while_blocked, deadline)
            except BaseException as error:
                self.close()
                if isinstance(error, OSError) and error.errno is not None:  # as in _send
                    raise Closed(str(error), sent=False) from error
                raise
        finally:
            try:  # in one call: a signal's handler may raise after each
                lock.release()
            except RuntimeError:  # it was not acquired
                pass

    def send_unless_busy(self, build: Callable[[], Said | None], while_blocked: WhileBlocked, deadline: float | None) -> None:
        """As `send`, what `build` returns, if that is anything; nothing while another thread sends."""
        lock = self.sending
        try:
            if lock.acquire(blocking=False) and (message := build()) is not None:
                self.send(message, while_blocked, deadline)
        finally:
            try:  # in one call: a signal's handler may raise after each
                lock.release()
            except RuntimeError:  # it was not acquired
                pass

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

    def send_bringing(self, message: Request, descriptor: int, while_blocked: WhileBlocked, deadline: float | None) -> None:
        """As `send`, with the descriptor of the object that the message brings along."""
        data = encode(message)
        carried = memory.Carried((), (descriptor,), None, ())
        self._send_whole(message.id, length_of(data) + data, (), carried, while_blocked, deadline)

    def _send_whole(
        self, id_: int, data: bytes, buffers: Sequence[memoryview], carried: memory.Carried, while_blocked: WhileBlocked, deadline: float | None
    ) -> None:
        lock = self.sending
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
        reader, waiting = self._reader, False
        try:
            if self.is_closed:  # perhaps in the midst of a frame, of which nobody knows any more how much has come
                raise Closed("it was closed here")
            if self._vain < _VAIN_MAX and not reader.is_amid:
                found = self._looked()
            else:
                found = None
                self._waits += 1
                if not self._waits & _LOOKED_EACH:
                    self._vain = self._vain_again
            if found is None and deadline is not None:
                waiting = True
                self._readable(deadline)
                waiting = False
            if reader.is_amid:
                return self._read_on(reader)
            buffer, ancillary, flags = self._buffer, _NO_ANCILLARY, 0
            if found is not None:
                count, ancillary, flags, _address = found
            elif self.local:
                count, ancillary, flags, _address = self._pull(self._buffers, SPACE, _CLOEXEC)
            else:
                count = self.sock.recv_into(buffer)
            if ancillary or flags & TRUNCATED or count <= 4 or _announced(buffer)[0] != count - 4 or not self.trusted:
                return self._taken(reader, self._intake.taken(buffer, count, ancillary, flags))
            message = decode(bytes(buffer[4:count]))  # most: a small one, and one at a time
            if (type(message) is Reply or type(message) is Request) and not message.buffers and not message.descriptors:
                return [(message, made(Value, (message.body, (), True)))]
            return self._heard(message)
        except BaseException as error:
            if waiting:  # it is late, or a signal's handler has raised: nothing was read
                raise
            closed = self.is_closed
            self.close()
            if isinstance(error, OSError) and error.errno is not None:  # as in _send
                raise Closed(str(error)) from error
            if closed and isinstance(error, ProtocolError):  # by another thread, meanwhile: what it let go of is missing
                raise Closed("it was closed here") from None
            raise

    def _looked(self) -> tuple[int, list[tuple[int, int, bytes]], int, Any] | None:
        """Look for some 50 us whether anything comes, and read it; None if not. For to wake a processor that sleeps takes longer than all the rest of a call.
        Who has looked in vain _VAIN_MAX times, one after the other, does so at each 128th reading only: a busy machine has better to do."""
        for _ in range(_LOOKS):
            try:
                found = self._pull(self._buffers, SPACE, _CLOEXEC | _DONTWAIT)
                self._vain = 0
                return found
            except BlockingIOError:
                pass
        self._vain += 1
        return None

    def _read_on(self, reader: FrameReader) -> list[Heard]:
        room = reader.room()
        return self._taken(reader, self._receive(self._buffer if room is None else room))

    def _taken(self, reader: FrameReader, data: memoryview) -> list[Heard]:
        if not data:
            raise Closed("the other side has ended")
        return [heard for frame in reader.feed(data) for heard in self._heard(decode(frame, self.trusted))]

    def _readable(self, deadline: float) -> None:
        poll = self._poll
        if poll is None:
            poll = self._poll = _poll(self.sock, select.POLLIN)
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
        lock = self.sending
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
