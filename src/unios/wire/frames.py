"""Frames: a 4-byte big-endian length, then that many bytes. Sans I/O; bounded by FRAME_BYTES_MAX.

A frame over the bound is a ProtocolError: there is no way to find the next frame behind it, so the connection ends. A large frame is copied once, to
the place where it is put together: output goes through here at hundreds of megabytes a second.
"""

import struct

from unios.errors import ProtocolError
from unios.limits import FRAME_BYTES_MAX

_LENGTH = struct.Struct(">I")
_ROOM_BYTES = 512 * 1024
"""So much room is made for a frame when it is announced; more as its bytes come."""


def frame(*pieces: bytes | memoryview) -> bytes:
    """Return the pieces joined, with their length before them; ProtocolError if it is over the bound."""
    size = sum(map(len, pieces))
    if size > FRAME_BYTES_MAX:
        raise ProtocolError(f"a message of {size} bytes is over the limit of {FRAME_BYTES_MAX}")
    return b"".join((_LENGTH.pack(size), *pieces))


class FrameReader:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    __slots__ = ("_begun", "_filled", "_head")

    def __init__(self) -> None:
        self._head = b""
        self._begun: bytearray | None = None
        """Room for a frame whose length is known and of which `_filled` bytes have come."""
        self._filled = 0

    def feed(self, data: bytes | memoryview) -> list[bytes | bytearray]:
        """Take more bytes; return the frames they complete. `data` may be used again after. ProtocolError if a length is over the bound."""
        view = memoryview(data)
        frames: list[bytes | bytearray] = []
        at, end = 0, len(view)
        while at < end:
            if self._begun is not None:
                at = self._fill(view, at, frames)
                continue
            needed = 4 - len(self._head)
            self._head += view[at : at + needed]
            at = min(end, at + needed)
            if len(self._head) < 4:
                break
            length = self._length()
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"the peer announced a message of {length} bytes; the limit is {FRAME_BYTES_MAX}")
            if end - at >= length:
                frames.append(bytes(view[at : at + length]))
                at += length
                self._head = b""
            else:
                at = self._begin(length, view, at)
        return frames

    def _begin(self, length: int, view: memoryview, at: int) -> int:
        """Make room for what is announced; a large one gets it as it comes, so that nobody takes memory by announcing alone."""
        self._begun = bytearray(min(length, max(_ROOM_BYTES, 2 * (len(view) - at))))
        self._filled = len(view) - at
        self._begun[: self._filled] = view[at:]
        return len(view)

    def _fill(self, view: memoryview, at: int, frames: list[bytes | bytearray]) -> int:
        begun = self._begun
        assert begun is not None
        length = self._length()
        count = min(length - self._filled, len(view) - at)
        if self._filled + count > len(begun):
            begun.extend(bytes(min(length, max(2 * len(begun), self._filled + count)) - len(begun)))
        begun[self._filled : self._filled + count] = view[at : at + count]
        self._filled += count
        if self._filled == length:
            frames.append(begun)
            self._head, self._begun = b"", None
        return at + count

    def _length(self) -> int:
        return int(_LENGTH.unpack(self._head)[0])

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not whole yet."""
        return len(self._head) + (self._filled if self._begun is not None else 0)
