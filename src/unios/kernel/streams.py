"""Streams: what a program says on stdout or stderr, as segment files `out.<16-digit start>` of a bounded size, the oldest dropped.

An offset counts the stream's bytes from 0 and never changes. One writer (the tree's init), any number of readers. What is written is in the page
cache: it survives every process, not a power cut.
"""

import contextlib
import os
from typing import Final, Literal

from unios.limits import STREAM_KEPT_BYTES, STREAM_SEGMENT_BYTES

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


class StreamWriter:
    """The one writer of a stream; begins at 0."""

    def __init__(self, folder: int, name: Name, *, segment_bytes: int = STREAM_SEGMENT_BYTES, kept_bytes: int = STREAM_KEPT_BYTES) -> None:
        self._folder, self._name = folder, name
        self._segment_bytes, self._kept_bytes = segment_bytes, kept_bytes
        self._starts: list[int] = []
        self._file = -1
        self.end = 0

    @property
    def start(self) -> int:
        """The offset of the oldest byte that is kept."""
        return self._starts[0] if self._starts else 0

    def write(self, data: bytes | memoryview) -> int:
        """Append as much of `data` as the current segment takes; return how many bytes. Raises OSError on a full disk."""
        file, room = self._room()
        written = os.write(file, data[:room])
        self.end += written
        return written

    def splice(self, pipe: int, bytes_max: int) -> int:
        """Append what waits in a pipe, as much as the current segment takes and at most so much, uncopied; return how many bytes, 0 at its end.

        Raises BlockingIOError if nothing waits, and OSError with nothing moved if the disk is full or Linux cannot do it with such files.
        """
        file, room = self._room()
        moved = os.splice(pipe, file, min(room, bytes_max), flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        self.end += moved
        return moved

    def _room(self) -> tuple[int, int]:
        """Return the file to write to, and how many bytes it still takes."""
        if self._file < 0 or self.end - self._starts[-1] >= self._segment_bytes:
            self._roll()
        return self._file, self._segment_bytes - (self.end - self._starts[-1])

    def _roll(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC  # not for appending: splice refuses that, and there is one writer
        file = os.open(file_name(self._name, self.end), flags, 0o600, dir_fd=self._folder)
        self.close()
        self._file = file
        if not self._starts or self._starts[-1] != self.end:
            self._starts.append(self.end)
        # The new segment counts as full, so that the bound holds while it grows.
        while len(self._starts) > 1 and self.end + self._segment_bytes - self._starts[0] > self._kept_bytes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file_name(self._name, self._starts[0]), dir_fd=self._folder)
            del self._starts[0]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


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
