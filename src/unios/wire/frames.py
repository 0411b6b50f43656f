"""Frames: a 4-byte big-endian length, then that many bytes. Sans I/O; bounded by FRAME_BYTES_MAX.

A frame over the bound is a ProtocolError: there is no way to find the next frame behind it, so the connection ends. Output goes through here at
hundreds of megabytes a second, so whoever reads a large frame reads it into `room`, the place where it is put together, and nothing is copied after.
"""

import struct
from _thread import _local as Local  # threading's, which a short command does without
from collections.abc import Callable
from typing import Final

from unios.errors import ProtocolError
from unios.limits import FRAME_BYTES_MAX
from unios.wire.allowances import Allowance

LENGTH: Final = struct.Struct(">I")
_ROOM_BYTES = 512 * 1024
"""So much room is made for a frame when it is announced; more as its bytes come."""
_USED_AGAIN_MIN: Final = 32 * 1024
_USED_AGAIN_BYTES: Final = 400 * 1024
"""A frame of up to so many bytes is put together in a buffer that is used again when nobody holds a view of it any more."""
_USED_AGAIN: Final = 2
"""Buffers kept for that, for all connections of a thread; who finds none free makes one that is not kept."""
_local = Local()
Payload = bytes | bytearray | memoryview


Place = Callable[[memoryview, int], tuple[int, memoryview] | None]
"""Given the beginning of a large frame and its length: how many bytes go before its data, and where the data, all the rest, belongs; None: anywhere.
Who gave a place for it is not given the frame: nothing that comes after it is fed on before its data has come. May raise ProtocolError."""


def frame(*pieces: bytes | memoryview) -> bytes:
    """Return the pieces joined, with their length before them; ProtocolError if it is over the bound."""
    return b"".join((length_of(*pieces), *pieces))


def length_of(*pieces: bytes | memoryview) -> bytes:
    """Return what stands before these pieces of one frame; ProtocolError if they are over the bound."""
    size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
    if size > FRAME_BYTES_MAX:
        raise ProtocolError(f"a message of {size} bytes is over the limit of {FRAME_BYTES_MAX}")
    return LENGTH.pack(size)


class FrameReader:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    __slots__ = ("_allowance", "_begun", "_filled", "_head", "_hold", "_max", "_place", "_placed", "_taken")

    def __init__(self, place: Place | None = None, allowance: Allowance | None = None, bytes_max: int = FRAME_BYTES_MAX) -> None:
        """`place`: asked where the data of a large frame belongs, if nothing has come with its beginning that has not been returned yet. `allowance`: of a
        stranger, for large frames that are begun and not placed; a frame for which there is none is a ProtocolError. `bytes_max`: of one frame."""
        self._max = bytes_max
        self._allowance, self._taken = allowance, 0
        self._head = b""
        self._place = place
        self._placed: memoryview | None = None
        """The place of the frame that is begun, if there is one."""
        self._begun: bytearray | None = None
        """Room for a frame whose length is known and of which `_filled` bytes have come; may be longer."""
        self._hold: memoryview | None = None
        """What keeps `_begun` from being taken for another frame, if it is one of those that are used again."""
        self._filled = 0

    @property
    def is_strangers(self) -> bool:
        """Whether what comes has an allowance."""
        return self._allowance is not None

    @property
    def is_amid(self) -> bool:
        """Whether a part of a frame has come."""
        return self._begun is not None or self._placed is not None or bool(self._head)

    def room(self) -> memoryview | None:
        """Return where the next bytes of a large frame belong, to be read there and fed in the order of the stream; None while there is none begun."""
        if self._placed is not None:
            return self._placed[self._filled :]
        if self._begun is None or len(self._begun) < self._length():
            return None
        return memoryview(self._begun)[self._filled : self._length()]

    def feed(self, data: bytes | memoryview) -> list[Payload]:
        """Take more bytes; return the frames they complete. `data` may be used again after. ProtocolError if a length is over the bound."""
        view = memoryview(data)
        if self._begun is None and not self._head and len(view) > 4 and LENGTH.unpack_from(view)[0] == len(view) - 4:
            return [bytes(view[4:])]  # most: a small one, and just one
        frames: list[Payload] = []
        if self._placed is not None and view.obj is self._placed.obj:
            self._placed_in(len(view))
            return frames
        if self._begun is not None and view.obj is self._begun:
            self._take_in(len(view), frames)
            return frames
        at, end = 0, len(view)
        while at < end:
            if self._placed is not None:
                at = self._pour(view, at)
                continue
            if self._begun is not None:
                at = self._fill(view, at, frames)
                continue
            needed = 4 - len(self._head)
            self._head += view[at : at + needed]
            at = min(end, at + needed)
            if len(self._head) < 4:
                break
            length = self._length()
            if length > self._max:
                raise ProtocolError(f"the peer announced a message of {length} bytes; the limit is {self._max}")
            if end - at >= length:
                frames.append(bytes(view[at : at + length]))
                at += length
                self._head = b""
            else:
                at = self._begin(length, view, at, may_place=not frames)
        return frames

    def _begin(self, length: int, view: memoryview, at: int, *, may_place: bool) -> int:
        """Make room for what is announced; a large one gets it as it comes, so that nobody takes memory by announcing alone."""
        if may_place and self._place is not None and length >= _USED_AGAIN_MIN and (found := self._place(view[at:], length)) is not None:
            before, self._placed = found
            self._filled = 0
            return self._pour(view, at + before)
        if self._allowance is not None and length >= _USED_AGAIN_MIN:
            if not self._allowance.take(length):
                raise ProtocolError("the peer's user has as much under way on other connections as he may")
            self._taken = length
        self._begun = _free_buffer() if _USED_AGAIN_MIN <= length <= _USED_AGAIN_BYTES else None
        if self._begun is not None:
            self._hold = memoryview(self._begun)
        else:
            self._begun = bytearray(min(length, max(_ROOM_BYTES, 2 * (len(view) - at))))
        self._filled = len(view) - at
        self._begun[: self._filled] = view[at:]
        return len(view)

    def _pour(self, view: memoryview, at: int) -> int:
        """Copy what has come of a frame with a place into that."""
        assert self._placed is not None
        count = min(len(self._placed) - self._filled, len(view) - at)
        self._placed[self._filled : self._filled + count] = view[at : at + count]
        self._placed_in(count)
        return at + count

    def _placed_in(self, count: int) -> None:
        assert self._placed is not None
        self._filled += count
        if self._filled == len(self._placed):
            self._head, self._placed = b"", None

    def _fill(self, view: memoryview, at: int, frames: list[Payload]) -> int:
        begun = self._begun
        assert begun is not None
        length = self._length()
        count = min(length - self._filled, len(view) - at)
        if self._filled + count > len(begun):
            begun.extend(bytes(min(length, max(2 * len(begun), self._filled + count)) - len(begun)))
        begun[self._filled : self._filled + count] = view[at : at + count]
        self._take_in(count, frames)
        return at + count

    def _take_in(self, count: int, frames: list[Payload]) -> None:
        """So many bytes more of the frame that is begun are in their place."""
        self._filled += count
        if self._filled == self._length():
            assert self._begun is not None
            frames.append(memoryview(self._begun)[: self._filled])
            self._head, self._begun, self._hold = b"", None, None
            self._give_back()

    def _give_back(self) -> None:
        if self._allowance is not None:
            self._allowance.give(self._taken)
            self._taken = 0

    def clear(self) -> None:
        """Nothing more will come: let go of the frame that is begun, and of its place."""
        self._head, self._begun, self._hold, self._placed, self._filled = b"", None, None, None, 0
        self._give_back()

    def _length(self) -> int:
        return int(LENGTH.unpack(self._head)[0])

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not whole yet."""
        return len(self._head) + (self._filled if self._begun is not None or self._placed is not None else 0)


def _free_buffer() -> bytearray | None:
    """Return a buffer of this thread that nobody uses, None if all are in use. The frame under way keeps it by a view, and so does what was decoded from it."""
    buffers: list[bytearray] | None = getattr(_local, "buffers", None)
    if buffers is None:
        buffers = _local.buffers = []
    for buffer in buffers:
        try:
            buffer.append(buffer.pop())  # Python lets nobody change the size of what there is a view of
        except BufferError:
            continue
        return buffer
    if len(buffers) < _USED_AGAIN:
        buffers.append(bytearray(_USED_AGAIN_BYTES))
        return buffers[-1]
    return None
