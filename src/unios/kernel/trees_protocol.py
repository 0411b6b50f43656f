"""The bytes between kernel, guard and inits: a 4-byte big-endian length, one kind byte, then JSON ('J') or raw data ('D').

Bytes that are not text (argv, env, paths) travel as `os.fsdecode` makes them: JSON escapes what is not UTF-8. Light on purpose: guard and inits
import it. Decoding never raises anything but `Garbage`, whatever arrives.

An init runs the code that it was made with until its tree ends, whatever is upgraded meanwhile. So what it speaks is written in its tree.json (`protocol`;
without it: 1), the guard says its own in `info`, and kernel and guard speak all from PROTOCOL_MIN on. A change that an older side would not understand, or
would do otherwise, takes a new number; fields and requests that the other side may leave alone do not.
"""

import json
import struct
from typing import Any, Final, NamedTuple

from unios.limits import TREE_FRAME_BYTES_MAX

_HEAD: Final = struct.Struct(">I")
PROTOCOL_MIN: Final = 1
PROTOCOL: Final = 1
JSON: Final = ord("J")
DATA: Final = ord("D")


class Garbage(Exception):
    """The peer sent what the protocol does not allow: close the connection."""


def is_spoken(protocol: object) -> bool:
    """Whether this side speaks what the other one says it does; None: it is older than the number, and speaks 1."""
    return protocol is None or (isinstance(protocol, int) and PROTOCOL_MIN <= protocol <= PROTOCOL)


class Frame(NamedTuple):
    """One message: `fields` of a JSON frame, or None and `data`."""

    fields: dict[str, Any] | None
    data: bytes


def encode(fields: dict[str, Any]) -> bytes:
    """Return the frame of a JSON object."""
    body = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return _HEAD.pack(len(body) + 1) + b"J" + body


def encode_data(data: bytes) -> bytes:
    return _HEAD.pack(len(data) + 1) + b"D" + data


class Decoder:
    """Cuts a byte stream into frames; holds at most one incomplete frame."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises Garbage."""
        self._buffer += data
        frames, start = [], 0
        while len(self._buffer) - start >= 4:
            (length,) = _HEAD.unpack_from(self._buffer, start)
            if not 1 <= length <= TREE_FRAME_BYTES_MAX:
                raise Garbage(f"a frame of {length} bytes")
            if len(self._buffer) - start < 4 + length:
                break
            frames.append(decode(bytes(self._buffer[start + 4 : start + 4 + length])))
            start += 4 + length
        del self._buffer[:start]
        return frames


def head_length(head: bytes) -> int:
    """Return how many bytes follow a 4-byte head. Raises Garbage."""
    (length,) = _HEAD.unpack(head)
    if not 1 <= length <= TREE_FRAME_BYTES_MAX:
        raise Garbage(f"a frame of {length} bytes")
    return int(length)


def decode(body: bytes) -> Frame:
    """Return the frame whose bytes after the length are `body`. Raises Garbage."""
    if body[0] == DATA:
        return Frame(None, body[1:])
    if body[0] != JSON:
        raise Garbage(f"a frame of kind {body[0]}")
    try:
        fields = json.loads(body[1:].decode())  # as text: json looks for an encoding in bytes
    except (ValueError, RecursionError) as error:
        raise Garbage("a frame that is not JSON") from error
    if not isinstance(fields, dict):
        raise Garbage("a frame that is not a JSON object")
    return Frame(fields, b"")
