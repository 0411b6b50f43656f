"""What a program has said on stdout or stderr, as segment files `out.<16-digit start>` in its tree's folder: names, and how they are read.

An offset counts the stream's bytes from 0 and never changes. One writer (kernel/streams.py, in the tree's init), any number of readers.
"""

import contextlib
import os
from typing import Final, Literal

Name = Literal["out", "err"]
NAMES: Final[tuple[Name, Name]] = ("out", "err")


def segments(folder: int | str, name: Name) -> list[int]:
    """Return the start offsets of the segments that exist, ascending."""
    try:
        entries = os.listdir(folder)
    except FileNotFoundError:
        return []
    prefix = f"{name}."
    return sorted(int(entry[4:]) for entry in entries if entry.startswith(prefix) and len(entry) == 20 and entry[4:].isdigit())


def file_name(name: Name, start: int) -> str:
    return f"{name}.{start:016d}"


class StreamReader:
    """Reads a stream of a tree's folder, while it is written or after; keeps one file open. Opens lazily: the stream may not exist yet."""

    def __init__(self, folder: str | os.PathLike[str], name: Name) -> None:
        self._folder, self._name = os.fspath(folder), name
        self._file, self._start, self._next = -1, 0, 0

    def read(self, offset: int, into: memoryview) -> tuple[int, int]:
        """Read into a buffer; return (actual offset, bytes read): the offset is larger if older bytes are gone; no bytes mean that there are none yet.

        An answer never crosses a segment's end: ask again for more.
        """
        for _attempt in range(8):  # the segment may be dropped between looking and opening
            if self._file >= 0 and self._start <= offset:
                count = os.preadv(self._file, [into], offset - self._start)
                if count or not self._ended(offset):
                    return offset, count
                if self._open(offset):
                    continue  # the usual case costs no listing
            starts = segments(self._folder, self._name)
            if not starts:
                return offset, 0
            self._open(max((start for start in starts if start <= offset), default=starts[0]))
            offset = max(offset, self._start)
        return offset, 0

    def _ended(self, offset: int) -> bool:
        """Whether this segment ends at `offset` and another begins there or later: then what is to come is in that one."""
        if os.fstat(self._file).st_size + self._start > offset:
            return False  # it has just grown: the next read sees it
        if offset == self._start:
            return any(self._start < start for start in segments(self._folder, self._name))  # an empty segment: a disk was full
        return os.path.exists(f"{self._folder}/{file_name(self._name, offset)}") or any(
            self._start < start for start in segments(self._folder, self._name)
        )

    def _open(self, start: int) -> bool:
        """Go over to the segment that begins there; False if there is none."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._file = os.open(f"{self._folder}/{file_name(self._name, start)}", os.O_RDONLY | os.O_CLOEXEC)
        self._start = start
        return self._file >= 0

    def end(self) -> int:
        """Return the offset after the last byte written so far."""
        starts = segments(self._folder, self._name)
        if not starts:
            return 0
        try:
            return starts[-1] + os.stat(f"{self._folder}/{file_name(self._name, starts[-1])}").st_size
        except FileNotFoundError:
            return self.end()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
