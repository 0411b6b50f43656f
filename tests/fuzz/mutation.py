"""Mutations of bytes: what lines, disks and enemies do to them. All chance comes from the generator that is given."""

import random
from collections.abc import Callable, Sequence
from typing import Final

BYTES_MAX: Final = 64 * 1024
INTERESTING: Final = (
    0,
    1,
    0x7F,
    0x80,
    0x90,
    0x91,
    0x9F,
    0xA0,
    0xC0,
    0xC1,
    0xC4,
    0xC6,
    0xC9,
    0xCB,
    0xCF,
    0xD3,
    0xD9,
    0xDB,
    0xDC,
    0xDD,
    0xDE,
    0xDF,
    0xFF,
)
"""Among them the first bytes of msgpack's kinds."""
PIECES: Final = (
    b"\x91" * 3000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\x81\xa1a" * 3000,
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xdd\x7f\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xcb\x7f\xf0" + bytes(6),
    b"\xcb\x7f\xf8" + bytes(6),
    b"1e999",
    b"-1",
    b"9" * 5000,
    b"null",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xc7\x05\x01\x92\xa1a\xc3\xc0",
)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(INTERESTING)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randint(0, len(data)) :]


def _drop(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    del data[at : at + rng.randint(1, 16)]


def _put(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    piece = rng.choice(PIECES)
    data[at : at + rng.choice((0, len(piece), 1))] = piece


def _twice(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    part = data[at : at + rng.randint(1, 64)]
    data[at:at] = part * rng.choice((1, 1, 2, 50))


MUTATIONS: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (_flip, _flip, _set, _set, _cut, _drop, _put, _twice)


def mutated(corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """Return one of the corpus, perhaps the beginning of one and the end of another, with up to eight changes."""
    data = bytearray(rng.choice(corpus))
    if rng.random() < 0.15:
        other = rng.choice(corpus)
        data[rng.randint(0, len(data)) :] = other[rng.randint(0, len(other)) :]
    for _time in range(rng.choice((1, 1, 2, 3, 8))):
        rng.choice(MUTATIONS)(data, rng)
    return bytes(data[:BYTES_MAX])
