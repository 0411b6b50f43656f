"""Gathering: the parts of large buffers, put together as they come. Sans I/O; what is announced is bounded before there is room made for it."""

import contextlib
import mmap
from collections.abc import Callable
from typing import Final

from unios.errors import ProtocolError
from unios.wire.allowances import Allowance
from unios.wire.messages import Part

_GATHERED_MAX: Final = 16
_LARGE_BYTES: Final = 4 * 1024 * 1024


class Gathering:
    """Puts the parts of large buffers together, for one connection. `bytes_max`: of all that is announced and not taken; `allocate`: makes their room;
    `allowance`: of a stranger over all his connections."""

    def __init__(self, bytes_max: int, allocate: Callable[[int], memoryview] | None = None, allowance: Allowance | None = None) -> None:
        self._max, self._allocate, self._allowance = bytes_max, allocate or room_for, allowance
        self._begun: dict[int, tuple[memoryview, int]] = {}
        self._announced = 0

    def add(self, part: Part) -> None:
        """Take a piece in. ProtocolError if it does not fit what was announced, or that is over the bound."""
        self.place(part, len(part.data))[:] = part.data

    def place(self, part: Part, size: int) -> memoryview:
        """Return where the next so many bytes, those of `part`, belong: they count as come. ProtocolError as `add`."""
        room, filled = self._begun.get(part.id) or (None, 0)
        if room is None:
            if not 0 < part.total <= self._max - self._announced or len(self._begun) >= _GATHERED_MAX:
                raise ProtocolError(f"the peer announced {part.total} bytes; the limit is {self._max}")
            if self._allowance is not None and not self._allowance.take(part.total):
                raise ProtocolError("the peer's user has as much under way on other connections as he may")
            self._announced += part.total
            try:
                room = self._allocate(part.total)
            except (MemoryError, OSError):
                raise ProtocolError(f"there is no memory for {part.total} bytes that the peer announced") from None
        if part.total != len(room) or filled + size > part.total:
            raise ProtocolError("the peer sent more than it had announced")
        self._begun[part.id] = (room, filled + size)
        return room[filled : filled + size]

    def take(self, id_: int, total: int) -> memoryview:
        """Return what has come for a message; ProtocolError if that is not `total` bytes."""
        room, filled = self._begun.pop(id_, (memoryview(b""), 0))
        self._forget(len(room))
        if filled != total or len(room) != total:
            raise ProtocolError(f"the peer sent {filled} bytes of {total}")
        return room

    def clear(self) -> None:
        """Nothing more will come: let go of all that was begun."""
        self._begun.clear()
        self._forget(self._announced)

    def drop(self, id_: int) -> None:
        """What was begun for a message is not wanted: another kind of answer came instead."""
        room, _filled = self._begun.pop(id_, (memoryview(b""), 0))
        self._forget(len(room))

    def _forget(self, size: int) -> None:
        self._announced -= size
        if self._allowance is not None:
            self._allowance.give(size)


def room_for(size: int) -> memoryview:
    """Return memory that is taken when it is written to; a bytearray is taken when it is made, all of it. In large pages where there are some: small ones
    cost more than what is read into them."""
    if size < _LARGE_BYTES:
        return memoryview(bytearray(size))
    room = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared is the default, for which Linux has no large pages by default
    with contextlib.suppress(OSError):  # a Linux without
        room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)
