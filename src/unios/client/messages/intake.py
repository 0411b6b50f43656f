"""Intake: what comes over a connection of two programs beside its frames, descriptors and parts of large buffers, and what messages make of that. For both lines.

Invariants: every descriptor that came is closed once, whatever it came with; at most so many are held as few messages carry; what is announced is bounded.
"""

import array
import contextlib
import errno
import os
import resource
import socket
from collections import deque
from itertools import islice
from typing import Final

from unios.client.messages import bringing, memory
from unios.errors import ProtocolError
from unios.limits import FDS_MAX, MESSAGE_BYTES_MAX, MESSAGE_BYTES_STRANGER_MAX
from unios.wire.allowances import Allowance
from unios.wire.gathering import Gathering
from unios.wire.messages import Part, Reply, Request
from unios.wire.values import Value

SPACE: Final = socket.CMSG_SPACE(FDS_MAX * 4)
TRUNCATED: Final = int(socket.MSG_CTRUNC)
"""A plain number: the enumeration's own operator, 0.5 us in a loop, made a call of 64 bytes 10 us slower (commits in turns, 2026-11-28)."""
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_LOST: Final = -1
"""In the place of descriptors that Linux could not give to this process, as it may have no more."""


class Lacking(ProtocolError):
    """This process has no room for what came with a message, so that is gone: nothing is wrong with the peer."""


class NoMemory(Lacking):
    """For want of memory, or of addresses."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"there is no memory in this program for the {size} bytes that were sent, or it may have no more of it (ulimit -v, vm.max_map_count)"
        )


class NoDescriptors(Lacking):
    """For want of descriptors."""

    def __init__(self) -> None:
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        super().__init__(
            f"what was sent came with descriptors, and this program may have no more than {soft} (ulimit -n): let go of some of the large values that it "
            "holds, or raise that"
        )


def not_come(what: str) -> ProtocolError:
    """Return what to raise when what belongs to an answer came without its descriptor: Linux had none for this process."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ProtocolError(f"{what} came without its descriptor: this program may have no more than {soft} (ulimit -n); close some, or raise that")


class Intake:
    """That of one connection. Whoever reads it calls these, one thread at a time."""

    __slots__ = ("_descriptors", "_gathering", "_keeps", "_trusted")

    def __init__(self, *, trusted: bool, keeps: bool = False, allowance: Allowance | None = None) -> None:
        """`keeps`: large buffers that come are only kept here, not written to, and sent on uncopied. `allowance`: of a stranger who calls."""
        self._trusted, self._keeps = trusted, keeps
        self._gathering = Gathering(MESSAGE_BYTES_MAX if trusted else MESSAGE_BYTES_STRANGER_MAX, memory.gather if keeps else None, allowance)
        self._descriptors: deque[int] = deque()
        """Taken out one at a time: `release` may come from another thread, and none may be closed twice, when its number is another file's."""

    def receive(self, sock: socket.socket, buffer: memoryview) -> memoryview:
        """Read bytes and the descriptors that come with them; return the bytes, none at the end. OSError; ProtocolError if no message claims those."""
        count, ancillary, flags, _address = sock.recvmsg_into([buffer], SPACE, _CLOEXEC)
        return self.taken(buffer, count, ancillary, flags) if ancillary or flags & TRUNCATED else buffer[:count]

    def taken(self, buffer: memoryview, count: int, ancillary: list[tuple[int, int, bytes]], flags: int) -> memoryview:
        """As `receive`, of what was read."""
        if flags & TRUNCATED:
            self._lose(ancillary)
            return buffer[:count]
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % 4])
                self._descriptors.extend(numbers)
        if len(self._descriptors) > 4 * FDS_MAX:
            raise ProtocolError("the peer sent descriptors that no message claims")
        return buffer[:count]

    def _lose(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Note that some of a message's descriptors did not come: they are of no use without the others."""
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % 4])
                for number in numbers:
                    os.close(number)
        self._descriptors.append(_LOST)

    def add(self, part: Part) -> None:
        """Take a part of a message's buffers in. ProtocolError."""
        self._gathering.add(part)

    def place(self, begin: memoryview, length: int) -> tuple[int, memoryview] | None:
        """Return where the data of a large frame belongs if it is a part of a message's buffers (wire/frames.py, Place): nothing is copied after. ProtocolError."""
        found = Part.begun(begin, length)
        if found is None:
            return None
        before, part = found
        return before, self._gathering.place(part, length - before)

    def drop(self, id_: int) -> None:
        """The parts for that message are not wanted: another kind of answer came."""
        self._gathering.drop(id_)

    def value(self, message: Reply | Request) -> Value:
        """Return what a message says, with the buffers that came for it. ProtocolError if they are not what it announces; Lacking."""
        if not message.buffers and not message.descriptors:
            return Value(message.body, (), self._trusted)
        if type(message) is Request and message.brought is not None:
            return self._brought(message)
        if not self._trusted and len(message.buffers) > 1:
            raise ProtocolError("the peer sent more buffers than a value between users has")
        count = message.descriptors
        if count and self._descriptors and self._descriptors[0] == _LOST:
            self._descriptors.popleft()
            self._gathering.drop(message.id)
            raise NoDescriptors
        if not 0 <= count <= len(self._descriptors):
            raise ProtocolError(f"the peer announced {count} descriptors and sent {len(self._descriptors)}")
        descriptors: list[int] = []
        try:
            try:
                descriptors.extend(islice(iter(self._descriptors.popleft, None), count))  # in one call: a signal's handler may raise after each
            except IndexError:
                raise ProtocolError("the connection was ended meanwhile") from None
            total = sum(size for number, _offset, size in message.buffers if number == memory.INLINE)
            inline = self._gathering.take(message.id, total) if total else memoryview(b"")
            if self._keeps:
                memory.settle(inline)
            buffers = memory.receive(message.buffers, descriptors, inline, trusted=self._trusted, kept=self._keeps)
            return Value(message.body, buffers, self._trusted)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise NoDescriptors from error
            if error.errno == errno.ENOMEM:
                raise NoMemory(sum(size for _number, _offset, size in message.buffers)) from error
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _brought(self, message: Request) -> Value:
        """As `value`, of a message with an object beside it. If Linux had no descriptor for that, nothing is missing: whoever gets it asks its holder."""
        if not self._trusted or message.buffers or message.descriptors != 1 or message.brought is None:
            raise ProtocolError("the peer brings an object along where it may not")
        if not self._descriptors:
            raise ProtocolError("the peer announced 1 descriptors and sent 0")
        if self._descriptors[0] == _LOST:
            self._descriptors.popleft()
        else:
            bringing.came(message.brought, self._descriptors)
        return Value(message.body, (), True)

    def release(self) -> None:
        """Nothing more will come: close what nobody has claimed, and let go of the memory of what was not whole. Idempotent."""
        self._gathering.clear()
        with contextlib.suppress(IndexError):
            while True:
                if (descriptor := self._descriptors.pop()) != _LOST:
                    os.close(descriptor)
