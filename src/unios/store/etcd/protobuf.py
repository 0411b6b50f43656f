"""The wire format of Protocol Buffers, as far as etcd's messages need it: varints and fields of bytes. Knows no message."""

from collections.abc import Iterator
from typing import Final

_MASK: Final = 2**64 - 1
_SIGN: Final = 2**63


def varint(number: int) -> bytes:
    """Encode an int64."""
    number &= _MASK
    if number < 128:
        return bytes((number,))
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def integer(field: int, number: int) -> bytes:
    """A field of a number; nothing for 0, the default."""
    return varint(field << 3) + varint(number) if number else b""


def blob(field: int, data: bytes) -> bytes:
    """A field of bytes, a string or a message; there even if it is empty."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield each field's number and value. Raises ValueError for what is no message."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _read(data, at)
        match tag & 7:
            case 0:
                number, at = _read(data, at)
                yield tag >> 3, number - (_MASK + 1) if number >= _SIGN else number
            case 2:
                length, at = _read(data, at)
                if at + length > end:
                    raise ValueError("a field ends after its message")
                yield tag >> 3, data[at : at + length]
                at += length
            case 1:
                at += 8
            case 5:
                at += 4
            case other:
                raise ValueError(f"a field of type {other}")


def _read(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number does not end")
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
