"""Chunks: one buffer in which a chunk of output becomes a whole frame, around the bytes that were read into its middle: nothing is copied.

What it makes is what `framed(Reply(id, pack(chunk), more=True))` would; a test compares them.
"""

from typing import Final, Literal, NamedTuple

import msgspec

from unios.undecodable import UNDECODABLE
from unios.wire.frames import length_of
from unios.wire.messages import ITEM_COST, Reply, around

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


class Begun(NamedTuple):
    """A chunk of whose frame only the beginning has come."""

    id: int
    stream: str
    incarnation: int
    offset: int
    before: int
    """So many bytes of the frame go before the chunk's."""
    size: int
    tail_bytes: int
    cost: int
    """What it takes of the window that Credit grants."""


class _Head(msgspec.Struct):
    stream: Literal["out", "err"]
    incarnation: int
    offset: int
    data: bytes


class _Around(msgspec.Struct):
    id: int
    body: _Head


_BEGIN: Final = b"\x84\xa4type\xa5reply"
_BODY: Final = b"\xa4body\x85"
_DATA: Final = b"\xa4data\xc6"
_LOST: Final = b"\xa4lost"
_MORE: Final = b"\xa4more\xc3"
_LENGTH_BYTES: Final = 4
_decoder: Final = msgspec.msgpack.Decoder(_Around)


def begun_chunk(begin: memoryview) -> Begun | None:
    """Return the large chunk whose frame begins so, length included. None if it is none, or not as `enclose` writes it, or its head has not come."""
    head = bytes(begin[:_HEAD_BYTES])
    if not head.startswith(_BEGIN, _LENGTH_BYTES):
        return None
    at = head.find(_DATA) + len(_DATA)
    before = at + _LENGTH_BYTES
    body = head.find(_BODY) + len(_BODY) - 1
    if at < len(_DATA) or body < len(_BODY) - 1 or body > at or len(head) < before:
        return None
    length, count = int.from_bytes(head[:_LENGTH_BYTES], "big"), int.from_bytes(head[at:before], "big")
    tail_bytes = length + _LENGTH_BYTES - before - count
    if not len(_LOST) + 1 + len(_MORE) <= tail_bytes <= _TAIL_BYTES:
        return None
    try:
        found = _decoder.decode(head[_LENGTH_BYTES : at - 1] + b"\xc4\x00" + _LOST + b"\x00" + _MORE)
    except UNDECODABLE:
        return None
    size = before - body + count + tail_bytes - len(_MORE)
    return Begun(found.id, found.body.stream, found.body.incarnation, found.body.offset, before, count, tail_bytes, size + ITEM_COST)


def is_tail(tail: bytes) -> bool:
    """Return whether what stands behind a chunk's bytes is as `enclose` writes it."""
    return tail.startswith(_LOST) and tail.endswith(_MORE)
