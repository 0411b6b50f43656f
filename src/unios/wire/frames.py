"""Frames: a 4-byte big-endian length, then that many bytes. Sans I/O; bounded by FRAME_BYTES_MAX.

A frame over the bound is a ProtocolError: there is no way to find the next frame behind it, so the connection ends.
"""

import struct

from unios.errors import ProtocolError
from unios.limits import FRAME_BYTES_MAX

_LENGTH = struct.Struct(">I")


def frame(payload: bytes) -> bytes:
    """Return `payload` with its length before it; ProtocolError if it is over the bound."""
    if len(payload) > FRAME_BYTES_MAX:
        raise ProtocolError(f"a message of {len(payload)} bytes is over the limit of {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Take more bytes; return the frames they complete. ProtocolError if a length is over the bound."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        at, end = 0, len(buffer)
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"the peer announced a message of {length} bytes; the limit is {FRAME_BYTES_MAX}")
            if end - at - 4 < length:
                break
            frames.append(bytes(buffer[at + 4 : at + 4 + length]))
            at += 4 + length
        if at:
            del buffer[:at]
        return frames

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not whole yet."""
        return len(self._buffer)
