"""Chunks: one buffer in which a chunk of output becomes a whole frame, around the bytes that were read into its middle: nothing is copied.

What it makes is what `framed(Reply(id, pack(chunk), more=True))` would; a test compares them.
"""

from typing import Final

import msgspec

from unios.wire.frames import length_of
from unios.wire.messages import Reply, around

_HEAD_BYTES: Final = 256
_TAIL_BYTES: Final = 64
"""More than can be written before and after the bytes: a name of a stream, an id and four numbers of at most nine bytes."""
_encode = msgspec.msgpack.Encoder().encode


class ChunkBuffer:
    """Holds one chunk at a time. Read into `middle`, then `enclose`."""

    def __init__(self, bytes_max: int) -> None:
        self._buffer = memoryview(bytearray(_HEAD_BYTES + bytes_max + _TAIL_BYTES))
        self.middle = self._buffer[_HEAD_BYTES : _HEAD_BYTES + bytes_max]

    def enclose(self, id_: int, stream: str, incarnation: int, offset: int, count: int, lost: int) -> tuple[memoryview, int]:
        """Return the frame of a Chunk with the first `count` bytes of `middle`, and the size of its body. Good until the buffer is used again."""
        before = b"\x85\xa6stream%b\xabincarnation%b\xa6offset%b\xa4data" % (_encode(stream), _encode(incarnation), _encode(offset))
        before += bin_head(count)
        after = b"\xa4lost" + _encode(lost)
        middle = self.middle[:count]
        head, tail = around(Reply(id_, more=True))
        head = length_of(head, before, middle, after, tail) + head + before
        after_end = _HEAD_BYTES + count
        begin, end = _HEAD_BYTES - len(head), after_end + len(after) + len(tail)
        self._buffer[begin:_HEAD_BYTES] = head
        self._buffer[after_end:end] = after + tail
        return self._buffer[begin:end], len(before) + count + len(after)


def bin_head(count: int) -> bytes:
    """Return the head of msgpack's bytes, in the width that the encoder takes."""
    if count < 1 << 8:
        return b"\xc4" + count.to_bytes(1, "big")
    if count < 1 << 16:
        return b"\xc5" + count.to_bytes(2, "big")
    return b"\xc6" + count.to_bytes(4, "big")
