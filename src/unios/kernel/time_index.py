"""Time index: when the bytes of a tree's streams came, coarsely, in the file `times` of its folder: at most one entry for each span of time.

The file begins with the span in ms; an entry (wall clock ms, out, err) says: what lies from these offsets to those of the next entry came at that time or
at most a span later. One writer (the tree's init), any number of readers. At the bound entries that are near each other are joined, and the span grows. On
a full disk, or when the clock is set back, the index is coarser, and nothing else.
"""

import contextlib
import os
import struct
import time
from bisect import bisect_right
from typing import Final, NamedTuple

from unios.limits import TIME_INDEX_ENTRIES_MAX, TIME_INDEX_MS
from unios.wire.segments import NAMES

_HEAD: Final = struct.Struct("<Q")
_ENTRY: Final = struct.Struct("<QQQ")
_NAME: Final = "times"

Entry = tuple[int, int, int]


class TimeWriter:
    """The one writer; `note` is called after each turn of the init's loop, so it does next to nothing."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._file = -1
        self._span_ms = TIME_INDEX_MS
        self._entries = 0
        self._ends: dict[str, int] = dict.fromkeys(NAMES, 0)
        self._next_at = 0.0
        self._last_ms = 0

    def note(self, ends: dict[str, int]) -> None:
        """The streams end there now."""
        if ends == self._ends:
            return
        before, self._ends = self._ends, ends
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + self._span_ms / 1000
            with contextlib.suppress(OSError):
                self._write(max(time.time_ns() // 1_000_000, self._last_ms), before)

    def _write(self, wall_ms: int, offsets: dict[str, int]) -> None:
        if self._file < 0:
            self._file = os.open(_NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
            os.write(self._file, _HEAD.pack(self._span_ms))
        os.write(self._file, _ENTRY.pack(wall_ms, offsets.get("out", 0), offsets.get("err", 0)))
        self._last_ms = wall_ms
        self._entries += 1
        if self._entries >= TIME_INDEX_ENTRIES_MAX:
            self._join(_index(os.pread(self._file, _HEAD.size + self._entries * _ENTRY.size, 0)))

    def _join(self, index: "TimeIndex") -> None:
        while len(index.entries) > TIME_INDEX_ENTRIES_MAX // 2:
            index = index.joined()
        self._span_ms, self._entries = index.span_ms, len(index.entries)
        os.ftruncate(self._file, 0)
        os.write(self._file, _HEAD.pack(index.span_ms) + b"".join(_ENTRY.pack(*entry) for entry in index.entries))


class TimeIndex(NamedTuple):
    """What is known; `entries` oldest first."""

    span_ms: int
    entries: list[Entry]

    def since(self, ms: int) -> tuple[int, int] | None:
        """Return offsets from where on the output of that time and later lies, a span early at most; None if none has come since."""
        at = bisect_right(self.entries, ms, key=lambda entry: entry[0])
        if at and ms - self.entries[at - 1][0] <= self.span_ms:
            at -= 1  # what came with that entry may have come at that time
        return self.entries[at][1:] if at < len(self.entries) else None

    def joined(self) -> "TimeIndex":
        """Return one in which no two entries are nearer to each other than twice the span; its own span is three times that."""
        kept = self.entries[:1]
        for entry in self.entries[1:]:
            if entry[0] - kept[-1][0] > 2 * self.span_ms:
                kept.append(entry)
        return TimeIndex(3 * self.span_ms, kept)


def _index(data: bytes) -> TimeIndex:
    if len(data) < _HEAD.size:
        return TimeIndex(TIME_INDEX_MS, [])
    (span_ms,) = _HEAD.unpack_from(data)
    return TimeIndex(span_ms, list(_ENTRY.iter_unpack(data[_HEAD.size : len(data) - (len(data) - _HEAD.size) % _ENTRY.size])))


def read(folder: str) -> TimeIndex:
    """Return the index in a tree's folder, an empty one if there was no output yet. What a full disk has cut off in the middle ends it."""
    try:
        with open(f"{folder}/{_NAME}", "rb") as file:
            return _index(file.read(_HEAD.size + TIME_INDEX_ENTRIES_MAX * _ENTRY.size))
    except OSError:
        return TimeIndex(TIME_INDEX_MS, [])
