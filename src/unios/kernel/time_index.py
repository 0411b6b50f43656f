"""Time index: when the bytes of a tree's streams came, coarsely, in the file `times` of its folder: one entry for each TIME_INDEX_MS with output in it.

An entry (wall clock ms, out, err) says: from these offsets on, what is there came at that time or later, and what lies before came earlier than
TIME_INDEX_MS after the entry before. One writer (the tree's init), any number of readers; bounded by dropping every second entry. On a full disk, or
when the clock is set back, the index is coarser, and nothing else.
"""

import contextlib
import os
import struct
import time
from bisect import bisect_right
from typing import Final

from unios.limits import TIME_INDEX_ENTRIES_MAX, TIME_INDEX_MS

_ENTRY: Final = struct.Struct("<QQQ")
_NAME: Final = "times"

Entry = tuple[int, int, int]


class TimeWriter:
    """The one writer; `note` is called after each turn of the init's loop, so it does next to nothing."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._file = -1
        self._entries = 0
        self._ends: dict[str, int] = {}
        self._next_at = 0.0
        self._next_wall_ms = 0

    def note(self, ends: dict[str, int]) -> None:
        """The streams end there now."""
        if ends == self._ends:
            return
        before, self._ends = self._ends, ends
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + TIME_INDEX_MS / 1000
            with contextlib.suppress(OSError):
                self._write(max(time.time_ns() // 1_000_000, self._next_wall_ms), before)

    def _write(self, wall_ms: int, offsets: dict[str, int]) -> None:
        self._next_wall_ms = wall_ms
        if self._file < 0:
            self._file = os.open(_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        os.write(self._file, _ENTRY.pack(wall_ms, offsets.get("out", 0), offsets.get("err", 0)))
        self._entries += 1
        if self._entries >= TIME_INDEX_ENTRIES_MAX:
            self._thin_out()

    def _thin_out(self) -> None:
        data = os.pread(self._file, self._entries * _ENTRY.size, 0)
        kept = b"".join(data[at : at + _ENTRY.size] for at in range(0, len(data), 2 * _ENTRY.size))
        os.ftruncate(self._file, 0)
        os.write(self._file, kept)
        self._entries = len(kept) // _ENTRY.size


def read(folder: str) -> list[Entry]:
    """Return the entries, oldest first; none if there was no output yet. What a full disk has cut off in the middle ends the list."""
    try:
        with open(f"{folder}/{_NAME}", "rb") as file:
            data = file.read(TIME_INDEX_ENTRIES_MAX * _ENTRY.size)
    except OSError:
        return []
    return list(_ENTRY.iter_unpack(data[: len(data) - len(data) % _ENTRY.size]))


def offsets_since(entries: list[Entry], since_ms: int) -> tuple[int, int] | None:
    """Return where the output of `since_ms` and later begins, TIME_INDEX_MS early at most; None if nothing has come since then."""
    at = bisect_right(entries, since_ms, key=lambda entry: entry[0])
    if at and since_ms - entries[at - 1][0] < TIME_INDEX_MS:
        at -= 1  # what came with that entry may have come at that time
    return entries[at][1:] if at < len(entries) else None
