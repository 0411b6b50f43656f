"""Outputs: the files with what programs have said on this node, seen from beside: which streams there are, and how far each goes."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final, Literal

from unios.core.archive import Stream
from unios.limits import STREAM_SEGMENT_BYTES
from unios.wire.segments import NAMES, file_name, segments

JUST_NOW_NS: Final = 1_000_000_000
"""A folder that has changed so lately may change again without looking other than now: clocks of file systems tick in milliseconds."""


class _Output:
    """The files of one tree."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.over = False
        """The program has ended, and its output has been seen to its end."""
        self._starts: dict[str, list[int]] = {}

    def look(self) -> Iterator[tuple[Literal["out", "err"], int, int]]:
        """Yield (name, start, end) of each of its streams that has begun."""
        over = os.path.exists(f"{self.folder}/exit.json")  # first: what is written after that belongs to no program
        for name in NAMES:
            starts = self._starts.get(name)
            size = self._size(name, starts)
            if starts is None or size is None or size >= STREAM_SEGMENT_BYTES:
                starts = self._starts[name] = segments(self.folder, name)
                size = self._size(name, starts)
            if starts and size is not None:
                yield name, starts[0], starts[-1] + size
        self.over = over

    def _size(self, name: Literal["out", "err"], starts: list[int] | None) -> int | None:
        if starts:
            with contextlib.suppress(FileNotFoundError):
                return os.stat(f"{self.folder}/{file_name(name, starts[-1])}").st_size
        return None


class Outputs:
    """Those of one node."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen_ns = 0
        self._live: dict[tuple[int, int], _Output] = {}
        self._there: set[tuple[int, int]] = set()
        self._vanished: list[tuple[int, int]] = []
        self.all: dict[Stream, tuple[int, int]] = {}
        """What there is, by streams: (start, end)."""

    def look(self) -> Iterator[tuple[Stream, int, int]]:
        """Yield what the streams of programs that live, or have ended since the last look, are like now."""
        self._list()
        for (pid, incarnation), output in list(self._live.items()):
            for name, start, end in output.look():
                self.all[pid, incarnation, name] = (start, end)
                yield (pid, incarnation, name), start, end
            if output.over:
                del self._live[pid, incarnation]

    def vanished(self) -> list[tuple[int, int]]:
        """Return whose files have gone since this was asked last."""
        gone, self._vanished = self._vanished, []
        return gone

    def _list(self) -> None:
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
            if changed_ns == self._seen_ns:
                return
            entries = os.listdir(self._folder)
        except FileNotFoundError:
            return
        self._seen_ns = changed_ns if time.time_ns() - changed_ns > JUST_NOW_NS else 0
        now = {key for entry in entries if (key := _key(entry)) is not None}
        for key in now - self._there:
            self._live[key] = _Output(f"{self._folder}/{key[0]}.{key[1]}")
        for key in self._there - now:
            self._live.pop(key, None)
            self._vanished.append(key)
            for name in NAMES:
                self.all.pop((*key, name), None)
        self._there = now


def _key(entry: str) -> tuple[int, int] | None:
    pid, _dot, incarnation = entry.partition(".")
    return (int(pid), int(incarnation)) if pid.isdigit() and incarnation.isdigit() else None
