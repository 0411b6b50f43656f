"""Frames: how the entries of a log lie in a replica's files. Bytes in, bytes out.

A frame holds what was brought to disk with one fdatasync, under one CRC. The next frame is written only after that. So bytes behind the last good frame are what
a crash has left of one that was never acknowledged: a torn tail. A bad frame with a good one behind it was on disk once: that is damage.

Each file has a salt in its name that begins every CRC of it: entries that are themselves copies of frames are not mistaken for some.

    magic, CRC-32 of all that follows, epoch, offset of the first entry, number of entries, bytes of payload
    payload: the length of each entry, then the entries
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

_MAGIC: Final = b"uLg\x01"
_HEAD: Final = struct.Struct("<4sIQQII")
_CHECKED_FROM: Final = 8
HEAD_BYTES: Final = _HEAD.size


class Place(NamedTuple):
    """Where a good frame lies in its file."""

    first: int
    entries: int
    position: int
    size: int

    @property
    def end(self) -> int:
        return self.first + self.entries


class Scan(NamedTuple):
    """What was found in a file. `good`: so many bytes of it count, the rest is a torn tail. `damage`: (from, to) offsets whose frames are bad."""

    places: list[Place]
    good: int
    damage: list[tuple[int, int]]


def encode(salt: int, epoch: int, first: int, entries: Sequence[bytes]) -> bytes:
    """Return the frame of some entries."""
    payload = b"".join((struct.pack(f"<{len(entries)}I", *map(len, entries)), *entries))
    checked = _HEAD.pack(_MAGIC, 0, epoch, first, len(entries), len(payload))[_CHECKED_FROM:]
    crc = zlib.crc32(payload, zlib.crc32(checked, salt))
    return b"".join((_MAGIC, struct.pack("<I", crc), checked, payload))


def place_of(salt: int, epoch: int, data: bytes, position: int) -> Place | None:
    """Return the frame at that position, None if there is no good one of that epoch."""
    if position + HEAD_BYTES > len(data) or not data.startswith(_MAGIC, position):
        return None
    _magic, crc, of, first, count, length = _HEAD.unpack_from(data, position)
    size = HEAD_BYTES + length
    if of != epoch or not count or position + size > len(data) or 4 * count > length:
        return None
    if zlib.crc32(memoryview(data)[position + _CHECKED_FROM : position + size], salt) != crc:
        return None
    return Place(first, count, position, size)


def decode(salt: int, epoch: int, data: bytes, position: int = 0) -> tuple[Place, list[bytes]] | None:
    """Return the frame at that position and its entries; None if it is not good."""
    place = place_of(salt, epoch, data, position)
    if place is None:
        return None
    at = position + HEAD_BYTES
    sizes = struct.unpack_from(f"<{place.entries}I", data, at)
    at += 4 * place.entries
    entries = []
    for size in sizes:
        entries.append(data[at : at + size])
        at += size
    return place, entries


def scan(salt: int, epoch: int, data: bytes, first: int) -> Scan:
    """Look through a file whose first entry is `first`."""
    places: list[Place] = []
    damage: list[tuple[int, int]] = []
    position, expected = 0, first
    while position < len(data):
        place = place_of(salt, epoch, data, position)
        if place is None or place.first != expected:
            place = _next_good(salt, epoch, data, position + 1, expected)
            if place is None:
                break
            damage.append((expected, place.first))
        places.append(place)
        position, expected = place.position + place.size, place.end
    return Scan(places, position, damage)


def _next_good(salt: int, epoch: int, data: bytes, position: int, expected: int) -> Place | None:
    while (position := data.find(_MAGIC, position)) >= 0:
        place = place_of(salt, epoch, data, position)
        if place is not None and place.first > expected:
            return place
        position += 1
    return None
