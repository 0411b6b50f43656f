"""Parcels: what the caller of tasks, the parents of its workers and the workers say to each other. Sans I/O.

A parcel is a frame that holds a head, and after it the parts that the head announces, raw and however large: a pickle and the buffers that it refers to.
Each large part is read where it will lie (`room`), so that nothing is copied after. Between two processes of one user only: a pickle is a program.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from unios.errors import ProtocolError
from unios.limits import TASK_BYTES_MAX, TASK_PARTS_MAX
from unios.undecodable import UNDECODABLE
from unios.wire.frames import length_of
from unios.wire.gathering import room_for

Part = bytes | bytearray | memoryview
_HEAD_BYTES_MAX: Final = 1024 * 1024
_ROOM_MIN: Final = 64 * 1024
"""A part of so many bytes or more is read straight into its place."""


class _Head(msgspec.Struct, frozen=True, array_like=True, tag=True):
    sizes: tuple[int, ...] = ()
    """Of the parts that follow, in bytes."""


class Hello(_Head, frozen=True, array_like=True, tag=1):
    """The first of a parent (`worker` 0) or worker. `proof`: that it knows the secret, over `nonce`."""

    crew: int = 0
    worker: int = 0
    node: str = ""
    nonce: bytes = b""
    proof: bytes = b""


class Welcome(_Head, frozen=True, array_like=True, tag=2):
    """The answer. To a parent with what it prepares, to a worker with the initializer, each as a pickle of one part and more."""

    proof: bytes = b""


class Ready(_Head, frozen=True, array_like=True, tag=3):
    """A parent may be asked to fork, a worker given tasks. With parts: the initializer failed, and this is its exception."""


class Fork(_Head, frozen=True, array_like=True, tag=4):
    """To a parent: start that worker."""

    worker: int = 0


class Gone(_Head, frozen=True, array_like=True, tag=5):
    """Of a parent: that worker has ended. `status` as waitpid has it; `begun`: the last turn that it began; `memory`: Linux killed for want of memory."""

    worker: int = 0
    status: int = 0
    begun: int = 0
    memory: bool = False


class Bar(_Head, frozen=True, array_like=True, tag=6):
    """To a parent: that worker shall not begin that turn, nor one before it."""

    worker: int = 0
    turn: int = 0


class Barred(_Head, frozen=True, array_like=True, tag=7):
    """Of a parent: of the turns up to that one the worker begins none after `begun`."""

    worker: int = 0
    turn: int = 0
    begun: int = 0


class Kill(_Head, frozen=True, array_like=True, tag=8):
    """To a parent: end that worker at once. Idempotent."""

    worker: int = 0


class Give(_Head, frozen=True, array_like=True, tag=9):
    """To a worker: a call. Parts: the pickled function if it is not known there, then arguments. `many`: a list of them, answered by a list."""

    turn: int = 0
    function: bytes = b""
    fresh: bool = False
    many: bool = False


class Answer(_Head, frozen=True, array_like=True, tag=10):
    """Of a worker: the turn's result, or its exception. To a worker: those of what it has submitted itself under that number."""

    turn: int = 0
    failed: bool = False


class Submit(_Head, frozen=True, array_like=True, tag=11):
    """Of a worker: the task that it runs submits one. Parts as in Give, always with the function."""

    number: int = 0
    function: bytes = b""
    many: bool = False
    retries: int = 0


class Stop(_Head, frozen=True, array_like=True, tag=12):
    """To a parent or worker: end."""


class Refused(_Head, frozen=True, array_like=True, tag=13):
    """Of a worker: it has not begun the turn, since that is barred."""

    turn: int = 0


class Unwanted(_Head, frozen=True, array_like=True, tag=14):
    """To a parent: whoever waited for that turn of that worker, which has begun, does not any more. The worker goes on, unless the task looks and ends."""

    worker: int = 0
    turn: int = 0


class Withdraw(_Head, frozen=True, array_like=True, tag=15):
    """Of a worker: cancel what was submitted under that number. Answered by Withdrawn, but for one that has ended."""

    number: int = 0


class Withdrawn(_Head, frozen=True, array_like=True, tag=16):
    """To a worker: what was submitted under that number is cancelled and never runs, also without having been withdrawn; or, False, goes on."""

    number: int = 0
    cancelled: bool = False


Head = Hello | Welcome | Ready | Fork | Gone | Bar | Barred | Kill | Give | Answer | Submit | Stop | Refused | Unwanted | Withdraw | Withdrawn
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Head).decode


def sizes_of(parts: Sequence[Part]) -> tuple[int, ...]:
    """Return what a head says of its parts; ProtocolError if they are over the bounds."""
    sizes = tuple(map(len, parts))
    if len(sizes) > TASK_PARTS_MAX or sum(sizes) > TASK_BYTES_MAX:
        raise ProtocolError(
            f"{sum(sizes)} bytes in {len(sizes)} buffers are too much for one message: {TASK_BYTES_MAX} and {TASK_PARTS_MAX} are the limits"
        )
    return sizes


def head_of(head: Head) -> bytes:
    """Return what goes before the parts."""
    encoded = _encode(head)
    return length_of(encoded) + encoded


def is_short(head: Head, parts: Sequence[Part]) -> bool:
    """Return whether there was no memory for the parts of a parcel: it came without any."""
    return len(parts) < len(head.sizes)


class ParcelReader:
    """Cuts a byte stream into parcels; holds at most one unfinished one. What the peer announces takes memory only as it comes, a part at a time.

    A parcel for whose parts there is no memory is read over and comes without them (`is_short`): what follows it in the stream is as good as before.
    """

    __slots__ = ("_buffer", "_filled", "_head", "_left", "_parts", "_place", "_short")

    def __init__(self) -> None:
        self._buffer = b""
        self._head: Head | None = None
        self._parts: list[Part] = []
        self._place: memoryview | None = None
        """A large part that is being read."""
        self._filled = 0
        self._short = False
        """Whether there was no memory for a part of this parcel."""
        self._left = 0
        """Of a part that is read over: so much of it is to come beside what `_place` takes."""

    def room(self) -> memoryview | None:
        """Return where the next bytes belong, then to be told of by `filled`; None: anywhere, to be fed."""
        return self._place[self._filled :] if self._place is not None else None

    def filled(self, count: int) -> tuple[Head, list[Part]] | None:
        """So many bytes have come into `room`; return the parcel that they complete, if they do."""
        assert self._place is not None and self._head is not None
        self._filled += count
        if not self._is_filled():
            return None
        self._begin()
        return self._whole() or next(iter(self.feed(b"")), None)  # whose last parts may be empty: nothing more has to come for them

    def feed(self, data: bytes) -> list[tuple[Head, list[Part]]]:
        """Take in more bytes; return the parcels that they complete. ProtocolError if they are none; the stream is of no use then."""
        if self._buffer:
            data = self._buffer + data
        found: list[tuple[Head, list[Part]]] = []
        at, end = 0, len(data)
        while True:
            if self._head is None:
                if end - at < 4:
                    break
                size = int.from_bytes(data[at : at + 4], "big")
                if size > _HEAD_BYTES_MAX:
                    raise ProtocolError(f"a head of {size} bytes was announced; the limit is {_HEAD_BYTES_MAX}")
                if end - at < 4 + size:
                    break
                self._head = _read(data[at + 4 : at + 4 + size])
                at += 4 + size
            elif self._place is not None:
                at = self._pour(data, at)
            else:
                size = self._head.sizes[len(self._parts)] if len(self._parts) < len(self._head.sizes) else 0
                if end - at < size:
                    break
                self._parts.append(data[at : at + size])
                at += size
            self._begin()
            whole = self._whole()
            if whole is not None:
                found.append(whole)
            elif at >= end and (self._place is not None or self._head is None):
                break
        self._buffer = data[at:]
        return found

    def _pour(self, data: bytes, at: int) -> int:
        assert self._place is not None
        count = min(len(self._place) - self._filled, len(data) - at)
        self._place[self._filled : self._filled + count] = data[at : at + count]
        self._filled += count
        self._is_filled()
        return at + count

    def _is_filled(self) -> bool:
        """Take in what has come, if that is all of its part."""
        assert self._place is not None
        if self._filled < len(self._place):
            return False
        if self._left:
            self._place = self._place[: min(self._left, len(self._place))]
            self._left -= len(self._place)
            self._filled = 0
            return False
        self._parts.append(b"" if self._short else self._place)
        self._place = None
        return True

    def _begin(self) -> None:
        """Make the place of the next part, if that is large."""
        head, at = self._head, len(self._parts)
        if head is not None and self._place is None and at < len(head.sizes) and head.sizes[at] >= _ROOM_MIN:
            size, self._filled = head.sizes[at], 0
            if not self._short:
                try:
                    self._place = room_for(size)
                    return
                except (MemoryError, OSError):
                    self._short = True
                    self._parts = [b""] * at
            self._place, self._left = memoryview(bytearray(_ROOM_MIN)), size - _ROOM_MIN

    def _whole(self) -> tuple[Head, list[Part]] | None:
        head = self._head
        if head is None or len(self._parts) < len(head.sizes):
            return None
        parts, self._head, self._parts = [] if self._short else self._parts, None, []
        self._short = False
        return head, parts


def _read(data: bytes) -> Head:
    try:
        head: Head = _decode(data)
    except UNDECODABLE as error:
        raise ProtocolError(f"what came is no message of tasks: {error}") from error
    if len(head.sizes) > TASK_PARTS_MAX or any(size < 0 for size in head.sizes) or sum(head.sizes) > TASK_BYTES_MAX:
        raise ProtocolError(
            f"{sum(head.sizes)} bytes in {len(head.sizes)} buffers were announced; {TASK_BYTES_MAX} and {TASK_PARTS_MAX} are the limits"
        )
    return head
