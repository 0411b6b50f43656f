"""AioLine: one connection of two programs in asyncio. Frames messages, carries their large buffers, takes descriptors in.

What is said in one turn of the loop goes out in few pieces: the first message at once, what follows in the same turn together. Never decides what a message means.
"""

import array
import asyncio
import contextlib
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from unios.client.messages import memory
from unios.client.messages.intake import SPACE, TRUNCATED, Intake, Lacking
from unios.errors import CallerError, OutcomeUnknown, ProtocolError
from unios.limits import FRAME_BYTES_MAX, PART_BYTES, SEND_QUEUE_BYTES_MAX, STRANGER_FRAME_BYTES_MAX
from unios.wire.allowances import Allowance
from unios.wire.conversations import Said, decode
from unios.wire.frames import LENGTH, FrameReader, Payload, length_of
from unios.wire.messages import Fault, Part, Reply, Request, encode
from unios.wire.values import Value, made

_READ_BYTES: Final = 64 * 1024
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_packed, _announced = LENGTH.pack, LENGTH.unpack_from
_LOOKS: Final = 64
_LOOKED_EACH: Final = 127
_VAIN_MAX: Final = 2
_PROCESSORS: Final = os.cpu_count() or 1
_numbers: Final = itertools.count(1)
_spoke: Final = [0]
"""The number of the line on which something was said last, of all in this process."""
FINISH_S: Final = 5.0
"""So long a peer has to take what was said before a connection was closed."""
OnHeard = Callable[[Said, Value | None], None]


class AioLine:
    """Takes a connected stream socket over. `heard` gets each message, `closed` is called once. Belongs to one loop."""

    def __init__(
        self,
        sock: socket.socket,
        heard: OnHeard,
        closed: Callable[[str], None],
        *,
        local: bool,
        trusted: bool,
        pauses: bool = False,
        allowance: Allowance | None = None,
    ) -> None:
        """`pauses`: take nothing in while the peer does not read either. `allowance`: of a stranger who calls."""
        sock.setblocking(False)
        self.sock = sock
        self.local, self.trusted = local, trusted
        self.is_closed = False
        self.refused: ProtocolError | None = None
        """What the peer said that ended the connection, if that did."""
        self._pid = os.getpid()
        self.queued = 0
        self._gone = self._owed = 0
        """How many bytes have been taken from here, and how many have to be until the last one-way message has."""
        self._heard, self._closed = heard, closed
        self._loop = asyncio.get_running_loop()
        self._intake = Intake(trusted=trusted, allowance=allowance)
        self._reader = FrameReader(self._intake.place, allowance, FRAME_BYTES_MAX if trusted else STRANGER_FRAME_BYTES_MAX)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._buffers = (self._buffer,)
        self._push, self._pull = sock.send, sock.recvmsg_into
        self._number = next(_numbers)
        self._vain = 0 if local and trusted and _PROCESSORS > 1 else _VAIN_MAX
        self._vain_again = _VAIN_MAX if self._vain else _VAIN_MAX - 1
        self._waits = 0
        self._will_look = False
        self._small: list[bytes] = []
        """Said in this turn after the first, or while what came is taken in, to go out together."""
        self._queue: deque[tuple[memoryview, tuple[int, ...], int]] = deque()
        """What the peer has not taken: bytes, the descriptors that go with the first of them, and how many bytes of memory those hold."""
        self._held: list[Payload] = []
        """Frames that came while it pauses."""
        self._writing = self._paused = self._finishing = False
        self._turning = False
        """Whether `_turned` is to come."""
        self._said = self._taking = False
        """Whether something has gone out since something came; whether what came is being taken in."""
        self._pauses = pauses
        self._room: list[asyncio.Future[None]] = []
        self._loop.add_reader(sock.fileno(), self._readable)

    # sending

    def send(self, message: Said) -> None:
        """Say something without large buffers. Nothing happens on a closed connection."""
        data = encode(message)
        data = _packed(len(data)) + data if len(data) < _READ_BYTES else length_of(data) + data
        if self._said or self._taking or self._queue or self.is_closed:
            self._say(data)
            return
        self._said = True  # a question or an answer by itself costs the loop no turn
        try:
            sent = self._push(data)
        except OSError:  # it takes nothing, or it broke: as any other
            sent = 0
        self._gone += sent
        if sent != len(data):
            self._put(memoryview(data)[sent:], ())
        elif self._vain < _VAIN_MAX:
            self._look_soon()

    def send_value(self, build: Callable[[tuple[memory.Place, ...], int], Request | Reply], buffers: Sequence[memoryview]) -> None:
        """Say something with large buffers; `build` makes it of their places and the number of descriptors. CallerError if there is no memory for it."""
        carried = memory.carry(buffers, local=self.local, trusted=self.trusted)
        try:
            message = build(carried.places, len(carried.descriptors))
            total = sum(size for number, _offset, size in carried.places if number == memory.INLINE)
            handed_over = sum(size for _number, _offset, size in carried.places) - total
            self._flush_small()
            for buffer in memory.inline_of(buffers, carried.places):
                for start in range(0, len(buffer), PART_BYTES):
                    piece = buffer[start : start + PART_BYTES]
                    head = encode(Part(message.id, total, memoryview(b"")))[:-2] + b"\xc6" + len(piece).to_bytes(4, "big")
                    self._put(memoryview(length_of(head, piece) + head), ())
                    self._put(piece, ())
            data = encode(message)
            self._put(memoryview(length_of(data) + data), _duplicates(carried.descriptors), handed_over)
        except OSError as error:
            raise CallerError(f"the buffers cannot be handed over: {error.strerror}") from error
        finally:
            carried.freeze()

    def owe(self) -> None:
        """What was said last is a one-way message: nobody else would say that it was lost."""
        self._owed = self._gone + self.queued

    def _say(self, data: bytes) -> None:
        if not (self._said or self._taking):  # a question or an answer by itself costs the loop no turn
            self._said = True
            self._put(memoryview(data), ())
            return
        self._small.append(data)
        self.queued += len(data)
        if not self._taking:
            self._turn()

    def _turn(self) -> None:
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turned)

    def _turned(self) -> None:
        self._turning = self._said = False
        self._flush_small()
        if self._paused or self._room:
            self._go_on()

    def _flush_small(self) -> None:
        small, self._small = self._small, []
        if small:
            if self._vain < _VAIN_MAX:
                self._look_soon()
            data = b"".join(small) if len(small) > 1 else small[0]
            self.queued -= len(data)
            self._put(memoryview(data), ())

    def _put(self, data: memoryview, descriptors: tuple[int, ...], handed_over: int = 0) -> None:
        if self.is_closed:
            _close(descriptors)
            return
        if not self._queue:
            sent = self._send(data, descriptors)
            if sent < 0 or sent == len(data):
                self._gone += max(0, sent)
                _close(descriptors)
                return
            self._gone += sent
            if sent:
                _close(descriptors)
                data, descriptors, handed_over = data[sent:], (), 0
        self._queue.append((data, descriptors, handed_over))
        self.queued += len(data) + handed_over
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self.sock.fileno(), self._writable)

    def _send(self, data: memoryview, descriptors: tuple[int, ...]) -> int:
        """Return how many bytes went out; -1 if the connection broke."""
        try:
            if descriptors:
                return self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
            return self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._loop.call_soon(self.close, os.strerror(error.errno or 0))
            return -1

    def _writable(self) -> None:
        while self._queue:
            data, descriptors, handed_over = self._queue[0]
            sent = self._send(data, descriptors)
            if sent <= 0:
                break
            _close(descriptors)
            self.queued -= sent + handed_over
            self._gone += sent + handed_over
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = (data[sent:], (), 0)
        if not self._queue and self._writing:
            self._writing = False
            self._loop.remove_writer(self.sock.fileno())
        if self._finishing and not self._queue:
            self.close()
        else:
            self._go_on()

    def _pause(self) -> None:
        self._paused = True
        self._loop.remove_reader(self.sock.fileno())

    def _go_on(self) -> None:
        """The peer has taken something: if it is enough, take in what has come meanwhile, and let those go on who wait."""
        if self.queued > SEND_QUEUE_BYTES_MAX // 2 or self.is_closed:
            return
        if self._paused:
            self._paused = False
            self._loop.add_reader(self.sock.fileno(), self._readable)
            held, self._held = self._held, []
            self._guarded(lambda: self._take_in(held))
        self._wake()

    def _wake(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that who says more should wait for `drain`."""
        return self.queued > SEND_QUEUE_BYTES_MAX

    async def drain(self) -> None:
        """Wait until the peer has taken more, or the connection has ended."""
        while self.is_full and not self.is_closed:
            future: asyncio.Future[None] = self._loop.create_future()
            self._room.append(future)
            await future

    # reading

    def _readable(self) -> None:
        self._said = self._turning  # what waits to go out goes first
        self._waits += 1
        if not self._waits & _LOOKED_EACH:
            self._vain = self._vain_again
        self._guarded(self._read)

    def _read(self) -> None:
        if self._reader.is_amid:
            room = self._reader.room()
            buffer = self._buffer if room is None else room
            self._came(self._intake.receive(self.sock, buffer) if self.local else buffer[: self.sock.recv_into(buffer)])
        elif self.local:
            self._taken(*self._pull(self._buffers, SPACE, _CLOEXEC))
        else:
            self._taken(self.sock.recv_into(self._buffer), (), 0, None)

    def _look_soon(self) -> None:
        """Look for an answer, or the next question, before the loop sleeps; if nothing else is said meanwhile, for then the loop has better to do."""
        _spoke[0] = self._number
        if not self._will_look:
            self._will_look = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """As a blocking line does (Line._looked): for some 50 us, for to wake a processor that sleeps takes longer than all the rest of a call."""
        self._will_look = False
        if _spoke[0] != self._number or self.is_closed or self._paused or self._reader.is_amid:
            return
        for _ in range(_LOOKS):
            try:
                found = self._pull(self._buffers, SPACE, _CLOEXEC)
            except BlockingIOError:
                continue
            except OSError:  # whoever reads next sees it too
                return
            self._vain = 0
            self._said = self._turning
            self._guarded(partial(self._taken, *found))
            return
        self._vain += 1

    def _taken(self, count: int, ancillary: Any, flags: int, _address: object) -> None:
        """So much was read into the buffer, which is no message's rest. Most: a small message, and just one."""
        buffer = self._buffer
        if ancillary or flags & TRUNCATED or count <= 4 or _announced(buffer)[0] != count - 4 or not self.trusted or (self._pauses and self.is_full):
            self._came(self._intake.taken(buffer, count, ancillary, flags))
            return
        self._taking = True
        try:
            message = decode(bytes(buffer[4:count]))
            if (type(message) is Reply or type(message) is Request) and not message.buffers and not message.descriptors:
                self._heard(message, made(Value, (message.body, (), True)))
            else:
                self._on_message(message)
        finally:
            self._end_taking()

    def _came(self, data: memoryview) -> None:
        if data:
            self._take_in(self._reader.feed(data))
        else:
            self.close("the other side has ended")

    def _take_in(self, frames: Sequence[Payload]) -> None:
        """What is said meanwhile goes out together, at the end."""
        self._taking = True
        try:
            for number, frame in enumerate(frames):
                if self._pauses and self.queued > SEND_QUEUE_BYTES_MAX:
                    self._held.extend(frames[number:])
                    if not self._paused:
                        self._pause()
                    return
                self._on_message(decode(frame, self.trusted))
                if self.is_closed:
                    return
        finally:
            self._end_taking()

    def _end_taking(self) -> None:
        """What was said meanwhile goes out."""
        self._taking = False
        if self._small:
            self._flush_small()
        if self._paused or self._room:  # by then there may be room again, and nothing else would say so
            self._turn()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it; whatever is wrong with what has come ends the connection."""
        try:
            work()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(os.strerror(error.errno or 0))
        except ProtocolError as error:
            self.refused = error
            self.close(str(error))
        except BaseException:  # what was read and not taken in is asked for again
            self.close("it could not be taken in")
            raise

    def _on_message(self, message: Said) -> None:
        if isinstance(message, Reply | Request):
            try:
                value = self._intake.value(message)
            except Lacking as error:
                if isinstance(message, Request):
                    raise
                self._heard(Fault(message.id, OutcomeUnknown.code, str(error)), None)
            else:
                self._heard(message, value)
        elif isinstance(message, Part):
            self._intake.add(message)
        elif isinstance(message, Fault):
            self._intake.drop(message.id)  # parts of an answer that became none
            self._heard(message, Value(message.body, (), self.trusted))
        else:
            self._heard(message, None)

    def finish(self, lost: Callable[[float], object]) -> None:
        """As `close`, once the peer has taken what was said, at most FINISH_S later. Nobody is told, neither of that nor of what comes meanwhile, but for
        `lost`: how many seconds it had, if one-way messages are among what the peer has not taken by then."""
        self._heard = self._closed = _nobody
        self._flush_small()
        if self.is_closed or not self._queue or self._pid != os.getpid():
            self.close()
        elif not self._finishing:
            self._finishing = True
            self._loop.call_later(FINISH_S, self._give_up, lost)

    def _give_up(self, lost: Callable[[float], object]) -> None:
        if not self.is_closed:
            if self._gone < self._owed:
                lost(FINISH_S)
            self.close()

    async def finished(self) -> None:
        """Wait until the connection has ended."""
        while not self.is_closed:
            future: asyncio.Future[None] = self._loop.create_future()
            self._room.append(future)
            await future

    def close(self, why: str = "closed here") -> None:
        """End the connection; idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._pid != os.getpid():  # the loop and the connection are the parent's
            self.sock.close()
            return
        self._loop.remove_reader(self.sock.fileno())
        if self._writing:
            self._loop.remove_writer(self.sock.fileno())
        self._let_go()
        self._wake()
        self._closed(why)

    def _let_go(self) -> None:
        for _data, descriptors, _handed_over in self._queue:
            _close(descriptors)
        self._queue.clear()
        self._small.clear()
        self._held.clear()
        self._intake.release()
        self._reader.clear()
        self._buffer = memoryview(bytearray(1))  # 64 kB, and the collector may come late to this
        self._buffers = (self._buffer,)
        try:
            self.sock.shutdown(socket.SHUT_RDWR)  # the broker of a port keeps duplicates of both ends: only this tells it
        except OSError:
            pass
        self.sock.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # begun halfway
            if not self.is_closed and self._pid == os.getpid():  # the loop has ended without it
                self._let_go()


def _nobody(*_told: object) -> None:
    pass


def _duplicates(descriptors: Sequence[int]) -> tuple[int, ...]:
    found: list[int] = []
    try:
        for descriptor in descriptors:
            found.append(os.dup(descriptor))
    except OSError:
        _close(found)
        raise
    return tuple(found)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
