"""Listings: what is in a directory, in an order that stays: by the inodes' numbers. So whoever goes on where he was misses nothing that was there all the time.

An entry's cookie is made of its inode's number, and of how manieth of that inode's names it is: a successor that knows of no listing goes on by it. What takes
another's place by rename has a higher number, and is met later.
"""

import bisect
import secrets
from collections.abc import Iterator
from typing import Final

from unios.core.files.inode import LINKS_MAX
from unios.core.files.state import State

_NAMES: Final = 1 << LINKS_MAX.bit_length()
_DOT, _DOTS, _FIRST = 1, 2, 3


class Listings:
    """Those that are open."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[list[int], list[bytes]]] = {}
        self._next = secrets.randbits(62)
        """A successor knows nothing of the listings of before, and must not give one's number to another."""

    def open(self) -> int:
        """Return the number of a new one."""
        self._next += 1
        return self._next

    def close(self, number: int) -> None:
        self._open.pop(number, None)

    def read(self, number: int, state: State, directory: int, after: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, inode, cookie) of what is in a directory behind the cookie `after`, 0: from the beginning, which looks anew. `.` and `..` come first."""
        found = self._open.get(number)
        if found is None or not after:
            found = self._open[number] = _listed(state, directory)
        if after < _DOT:
            yield b".", directory, _DOT
        if after < _DOTS:
            yield b"..", state.inodes[directory].parent, _DOTS
        cookies, names = found
        entries = state.entries(directory)
        for at in range(bisect.bisect_right(cookies, after), len(cookies)):
            ino = entries.get(names[at])
            if ino is not None:  # else it is gone meanwhile; what is in its place now is shown
                yield names[at], ino, cookies[at]


def _listed(state: State, directory: int) -> tuple[list[int], list[bytes]]:
    cookies, names = list[int](), list[bytes]()
    last, count = 0, 0
    for ino, name in sorted((ino, name) for name, ino in state.entries(directory).items()):
        count = count + 1 if ino == last else 0
        last = ino
        cookies.append((ino + _FIRST) * _NAMES + count)
        names.append(name)
    return cookies, names
