"""Streams: what a program says on stdout or stderr, written to segment files (wire/segments.py) of a bounded size, the oldest dropped.

What is written is in the page cache: it survives every process, not a power cut.
"""

import contextlib
import os

from unios.limits import STREAM_KEPT_BYTES, STREAM_SEGMENT_BYTES
from unios.wire.segments import Name, file_name


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
