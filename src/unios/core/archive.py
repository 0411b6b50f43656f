"""Shelf: what a node's log of outputs has of what programs have said there, what it still lacks, and from where on the log is kept. Decides only.

Output is in files of its node; the log is the copy that survives that node (decision 0049). Of each stream the last bytes are wanted. What is trimmed from
the log and still wanted is lacking again, and so is written to it anew: the log stays within its bound, and who talks little is not pushed out by who talks much.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from unios.log_limits import ARCHIVE_KEPT_BYTES, ARCHIVE_PIECE_BYTES, ARCHIVE_STREAM_BYTES

PREFIX: Final = "output-"
"""The log of node n1 is output-n1, of the user who runs that node."""
ENTRY_COST: Final = 4096
"""What a piece counts for besides its bytes: many small ones are written anew as a few large ones."""
KEPT_AFTER_TRIM: Final = 0.75

Stream = tuple[int, int, Literal["out", "err"]]
"""(pid, incarnation, name)."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the log: bytes of a stream from `offset` on."""

    pid: int
    incarnation: int
    stream: Literal["out", "err"]
    offset: int
    data: bytes


class Want(NamedTuple):
    """So many bytes of a stream are to be written to the log."""

    stream: Stream
    offset: int
    size: int


class _Noted(NamedTuple):
    at: int
    stream: Stream
    offset: int
    size: int


class Ranges:
    """Disjoint, ascending [start, end)."""

    def __init__(self) -> None:
        self.all: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        if self.all and self.all[-1][1] == start < end:
            self.all[-1] = (self.all[-1][0], end)  # what usually happens
        elif start < end:
            self._cut(start, end)
            self.all.append((start, end))
            self.all.sort()
            self._join()

    def remove(self, start: int, end: int) -> None:
        if start < end:
            self._cut(start, end)

    def _cut(self, start: int, end: int) -> None:
        kept = []
        for a, b in self.all:
            kept += [part for part in ((a, min(b, start)), (max(a, end), b)) if part[0] < part[1]]
        self.all = kept

    def _join(self) -> None:
        joined: list[tuple[int, int]] = []
        for a, b in self.all:
            if joined and joined[-1][1] == a:
                joined[-1] = (joined[-1][0], b)
            else:
                joined.append((a, b))
        self.all = joined

    def missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what of [start, end) is not in here."""
        for a, b in self.all:
            if b <= start:
                continue
            if a >= end:
                break
            if start < a:
                yield start, a
            start = b
        if start < end:
            yield start, end


class Shelf:
    """That of one node."""

    def __init__(
        self, *, kept_bytes: int = ARCHIVE_KEPT_BYTES, stream_bytes: int = ARCHIVE_STREAM_BYTES, piece_bytes: int = ARCHIVE_PIECE_BYTES
    ) -> None:
        self._kept_bytes, self._stream_bytes, self._piece_bytes = kept_bytes, stream_bytes, piece_bytes
        self._files: dict[Stream, tuple[int, int]] = {}
        self._has: dict[Stream, Ranges] = {}
        self._noted: deque[_Noted] = deque()
        self._lacking: dict[Stream, None] = {}
        """Those that may lack something."""
        self._cost = 0

    @property
    def cost(self) -> int:
        """What the log's entries count for, in bytes."""
        return self._cost

    def saw(self, stream: Stream, start: int, end: int) -> None:
        """The files of the node have [start, end) of a stream."""
        if end > start and self._files.get(stream) != (start, end):
            self._files[stream] = (start, end)
            self._lacking[stream] = None

    def gone(self, pid: int, incarnation: int) -> None:
        """The files of a process are not kept any more; what the log has of it stays until it is trimmed."""
        for name in ("out", "err"):
            self._files.pop((pid, incarnation, name), None)
            self._lacking.pop((pid, incarnation, name), None)

    def added(self, at: int, stream: Stream, offset: int, size: int) -> None:
        """The log has this as its entry `at`."""
        self._noted.append(_Noted(at, stream, offset, size))
        self._cost += ENTRY_COST + size
        self._has.setdefault(stream, Ranges()).add(offset, offset + size)

    def plan(self, bytes_max: int) -> list[Want]:
        """Return what is to be written to the log now, `bytes_max` together: of those that lack little first, so that nobody is kept waiting by a flood."""
        lacks: list[tuple[int, Stream, list[tuple[int, int]]]] = []
        for stream in list(self._lacking):
            missing = self._missing(stream)
            if missing:
                lacks.append((sum(end - start for start, end in missing), stream, missing))
            else:
                del self._lacking[stream]
        wants: list[Want] = []
        for _lack, stream, missing in sorted(lacks):
            for start, end in missing:
                while start < end and bytes_max > 0:
                    size = min(end - start, self._piece_bytes, bytes_max)
                    wants.append(Want(stream, start, size))
                    start += size
                    bytes_max -= size
        return wants

    def _missing(self, stream: Stream) -> list[tuple[int, int]]:
        start, end = self._files[stream]
        return list(self._has.get(stream, Ranges()).missing(max(start, end - self.share), end))

    @property
    def share(self) -> int:
        """Of each stream so many bytes are wanted. All that is wanted fits into half of the bound: what is trimmed and written anew is less than what was new."""
        each = self._kept_bytes / 2 / max(1, len(self._files)) * self._piece_bytes / (self._piece_bytes + ENTRY_COST)
        return min(self._stream_bytes, max(1, int(each) - ENTRY_COST))

    def trim(self) -> int:
        """Return up to which entry the log is to be trimmed to be within its bound, 0 for not now; what is lost by that is lacking from now on."""
        if self._cost <= self._kept_bytes:
            return 0
        upto = 0
        while self._noted and self._cost > KEPT_AFTER_TRIM * self._kept_bytes:
            noted = self._noted.popleft()
            upto = noted.at + 1
            self._cost -= ENTRY_COST + noted.size
            ranges = self._has[noted.stream]
            ranges.remove(noted.offset, noted.offset + noted.size)
            if not ranges.all:
                del self._has[noted.stream]
            if noted.stream in self._files:
                self._lacking[noted.stream] = None
        return upto


class Gathering:
    """The bytes of one process that a log has, put in order: pieces may overlap, and come in any order."""

    def __init__(self, pid: int, incarnation: int, bytes_max: int) -> None:
        self._pid, self._incarnation, self._bytes_max = pid, incarnation, bytes_max
        self._parts: dict[str, dict[int, bytes]] = {"out": {}, "err": {}}
        self._sizes = {"out": 0, "err": 0}

    def add(self, piece: Piece) -> None:
        """Take in what is of that process; of each stream the last `bytes_max` are kept."""
        if (piece.pid, piece.incarnation) != (self._pid, self._incarnation):
            return
        parts = self._parts[piece.stream]
        if len(piece.data) <= len(parts.get(piece.offset, b"")):
            return
        self._sizes[piece.stream] += len(piece.data) - len(parts.get(piece.offset, b""))
        parts[piece.offset] = piece.data
        while self._sizes[piece.stream] > self._bytes_max and len(parts) > 1:
            self._sizes[piece.stream] -= len(parts.pop(min(parts)))

    @property
    def is_empty(self) -> bool:
        return not any(self._parts.values())

    def end(self, stream: str) -> int:
        """Return the offset after the last byte."""
        return max((offset + len(data) for offset, data in self._parts[stream].items()), default=0)

    def read(self, stream: str, offset: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield (offset, bytes, bytes lost before) from `offset` on, below 0 from the end, each byte once."""
        at = offset if offset >= 0 else max(0, self.end(stream) + offset)
        for start, data in sorted(self._parts[stream].items()):
            if start + len(data) > at:
                begin = max(start, at)
                yield begin, data[begin - start :], begin - at
                at = start + len(data)
