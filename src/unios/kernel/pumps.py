"""Pumps: carry the program's stdout and stderr from their pipes into the stream files, and the system's stdin into its pipe.

A pump never reads what it could not keep: while `allowed` says no (the lease has ended), while a holder's window is full, or while the disk is, the pipe
fills and the program waits. What a pump has read and could not write yet it keeps: it was never acknowledged and is not lost.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import Final

from unios.kernel.poller import WRITE, Poller
from unios.kernel.streams import StreamWriter
from unios.limits import DISK_RETRY_S, STDIN_BUFFER_BYTES

_CHUNK: Final = 64 * 1024
_FLOOD_BYTES: Final = 1024 * 1024
"""A program that fills its pipe gets one of this size: fewer turns for the same bytes. Linux counts pipes' sizes per user, so others keep theirs.
Its bytes then go from the pipe into the file without passing through here, where Linux can do that."""
_REST_S: Final = 0.0002
"""So long a pump rests that has spliced less than half of what the pipe holds: what a program writes meanwhile costs one turn and not many."""
_SET_PIPE_SIZE: Final = 1031
_buffer: Final = memoryview(bytearray(256 * 1024))
"""What is read goes here; to allocate that much for each read would cost a mapping and its page faults."""
_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


class OutputPump:
    """That of one stream. `allowed()` is asked before each read and again before each write; `limit()` is the offset it may reach."""

    def __init__(
        self,
        poller: Poller,
        pipe: int,
        writer: StreamWriter,
        allowed: Callable[[], bool],
        limit: Callable[[], int],
    ) -> None:
        self._poller, self._pipe, self._writer = poller, pipe, writer
        self._allowed, self._limit = allowed, limit
        self._kept = memoryview(b"")
        self._watched = False
        self._chunk = _CHUNK
        self._splices = False
        self.eof = False
        self.disk_full = ""
        """What the disk said last time; empty while it takes what comes."""

    @property
    def end(self) -> int:
        return self._writer.end

    def give_up(self) -> tuple[StreamWriter, Callable[[], bool], Callable[[], int]]:
        """Close the pipe and return what another pump needs to take this one's place: writer, `allowed` and `limit`."""
        self.unwatch()
        os.close(self._pipe)
        return self._writer, self._allowed, self._limit

    def update(self) -> None:
        """Watch the pipe if and only if there is room for what it may hold. To be called when anything that `allowed` or `limit` know has changed."""
        wanted = not self.eof and not self._kept and self._allowed() and self._room() > 0
        if wanted and not self._watched:
            self._poller.add(self._pipe, lambda _mask: self._pump())
        elif self._watched and not wanted:
            self._poller.remove(self._pipe)
        self._watched = wanted

    def _room(self) -> int:
        return min(self._chunk, self._limit() - self._writer.end)

    def _pump(self) -> None:
        if not self.step() or self._kept or self._room() <= 0:
            self.update()

    def step(self) -> bool:
        """Move one chunk; return whether any byte was moved."""
        if self._kept:
            return self._write()
        if self.eof or not self._allowed() or self._room() <= 0:
            return False
        room = self._room()
        try:
            if self._splices and (moved := self._splice(room)) is not None:
                return moved
            count = self.take(_buffer[:room])
        except BlockingIOError:
            return False
        if not count:
            self.eof = True
            return False
        if count == _CHUNK == self._chunk:
            self._widen()
        self._kept = _buffer[:count]
        moved = self._write()
        self._kept = memoryview(bytes(self._kept))  # what could not be written outlives the next read
        return moved

    def _splice(self, room: int) -> bool | None:
        """Move bytes straight into the file; None where that is not possible: then they are read and written."""
        try:
            moved = self._writer.splice(self._pipe, room)
        except BlockingIOError:
            raise
        except OSError:
            self._splices = False  # also on a full disk, for which there is a way when they are read and written
            return None
        self.eof = not moved
        if _CHUNK // 4 <= moved < _FLOOD_BYTES // 2:
            time.sleep(_REST_S)
        return bool(moved)

    def _widen(self) -> None:
        """Let a program that floods write more between two looks of ours; what Linux refuses stays as it is."""
        self._chunk = _FLOOD_BYTES
        self._splices = True
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, _SET_PIPE_SIZE, _FLOOD_BYTES)

    def take(self, into: memoryview) -> int:
        """Read what is there and return how many bytes that was; raises BlockingIOError if that is nothing now."""
        return os.readv(self._pipe, [into])

    def _write(self) -> bool:
        moved = False
        while self._kept and self._allowed():
            try:
                written = self._writer.write(self._kept)
            except OSError as error:
                self._full(error)
                return moved
            self._kept = self._kept[written:]
            moved = True
        self.disk_full = ""
        return moved

    def _full(self, error: OSError) -> None:
        if error.errno not in _DISK:
            raise error
        if not self.disk_full:
            self._poller.after(DISK_RETRY_S, self._retry)
        self.disk_full = error.strerror or "disk full"

    def _retry(self) -> None:
        self.disk_full = ""
        self._write()
        self.update()

    def drain(self) -> bool:
        """Move what is in the pipe; return whether nothing is left that could be moved, now or later. For the end of a tree."""
        while self.step():
            pass
        if self._kept or not self._allowed():
            return False
        return self.eof or self._room() > 0  # with room, the last step found the pipe empty

    def unwatch(self) -> None:
        if self._watched:
            self._poller.remove(self._pipe)
            self._watched = False

    def close(self) -> None:
        self.unwatch()
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        self._writer.close()


class InputPump:
    """That of stdin; `progress(written, closed)` is called when bytes have reached the pipe or it is closed."""

    def __init__(self, poller: Poller, pipe: int, progress: Callable[[], None]) -> None:
        self._poller, self._pipe, self._progress = poller, pipe, progress
        self._waiting = bytearray()
        self._eof = False
        self._watched = False
        self.written = 0
        self.closed = False

    @property
    def full(self) -> bool:
        return len(self._waiting) >= STDIN_BUFFER_BYTES

    def feed(self, data: bytes) -> None:
        """Take in bytes for the program; those that come after the end, or when it has closed its stdin, are dropped."""
        if not self.closed and not self._eof:
            self._waiting += data
            self._flush()

    def end(self) -> None:
        """Close the pipe once everything has been written."""
        self._eof = True
        self._flush()

    def _flush(self) -> None:
        before = self.written
        while self._waiting and not self.closed:
            try:
                with memoryview(self._waiting) as view:
                    sent = os.write(self._pipe, view[:_CHUNK])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self.written += sent
            del self._waiting[:sent]
        if self._eof and not self._waiting:
            self.close()
            return
        self._watch()
        if self.written != before:
            self._progress()

    def _watch(self) -> None:
        wanted = bool(self._waiting) and not self.closed
        if wanted and not self._watched:
            self._poller.add(self._pipe, lambda _mask: self._flush(), WRITE)
        elif self._watched and not wanted:
            self._poller.remove(self._pipe)
        self._watched = wanted

    def close(self) -> None:
        """Close the pipe; idempotent."""
        if not self.closed:
            self.closed = True
            self._waiting.clear()
            self._watch()
            os.close(self._pipe)
            self._progress()
