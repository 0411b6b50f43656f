"""How many objects a msgpack document makes: each takes some 64 bytes of memory, and one byte of the document is enough for one.

Looks at heads only and stops at the bound, so it takes a fraction of a second whatever it is given. What is no msgpack is left to the decoder.
"""

from typing import Final

_SIZES: Final = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 1),
    0xCA: 5,
    0xCB: 9,
    0xCC: 2,
    0xCD: 3,
    0xCE: 5,
    0xCF: 9,
    0xD0: 2,
    0xD1: 3,
    0xD2: 5,
    0xD3: 9,
    0xD4: 3,
    0xD5: 4,
    0xD6: 6,
    0xD7: 10,
    0xD8: 18,
}
"""Of what has a fixed size, all bytes."""
_LENGTHS: Final = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
"""Of bytes, extensions and texts: of how many bytes the length is, and how many stand between it and the content."""


def is_over(document: memoryview, objects_max: int) -> bool:
    """Say whether a document makes more objects than that."""
    at, end, count = 0, len(document), 0
    while at < end:
        count += 1
        if count > objects_max:
            return True
        head = document[at]
        if head < 0xA0 or head >= 0xE0:  # small numbers; small maps and arrays, whose elements follow
            at += 1
        elif head < 0xC0:
            at += 1 + (head & 0x1F)
        elif head in _LENGTHS:
            width, between = _LENGTHS[head]
            at += 1 + width + between + int.from_bytes(document[at + 1 : at + 1 + width], "big")
        else:
            at += _SIZES.get(head, 3 if head in (0xDC, 0xDE) else 5)
    return False
