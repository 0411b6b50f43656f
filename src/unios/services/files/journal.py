"""Journal: what the file service of a node has done, in files of that node, before anybody is told. It outlives the process; its machine it need not: the log does.

files/<token>/journal-<number of the first entry>
"""

import itertools
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unios.core import log_frames
from unios.core.files.entry import Entry, decode, encode
from unios.undecodable import UNDECODABLE

FILE_BYTES: Final = 16 << 20
"""A file that has reached so much is followed by another one."""
PREFIX: Final = "journal-"


def boot_id() -> str:
    """Return what names this life of this Linux: what was not synced in an earlier one may be gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Journal:
    """That of one token; `at` is the last entry's number. Raises OSError, as of a full disk: then the entry is not there."""

    def __init__(self, folder: Path, token: str, at: int) -> None:
        self.folder, self.token, self.at = folder, token, at
        self._salt = zlib.crc32(token.encode())
        self._descriptor, self._size = -1, 0

    @classmethod
    def begin(cls, folder: Path, at: int) -> "Journal":
        """Make one that goes on after the entry `at`."""
        token = f"{boot_id()}.{secrets.token_hex(8)}"
        made = cls(folder / token, token, at)
        made.folder.mkdir(mode=0o700, parents=True)
        return made

    @classmethod
    def find(cls, folder: Path, token: str, at: int) -> "Journal | None":
        """Return the one of that token, if it is here and of this life of this Linux. `at`: the last entry that the log has."""
        if not token.startswith(boot_id()) or "/" in token or not (folder / token).is_dir():
            return None
        return cls(folder / token, token, at)

    def append(self, entry: Entry) -> None:
        """Write the entry after the last one."""
        if entry.at != self.at + 1:
            raise ValueError(f"entry {entry.at} does not follow {self.at}")
        if self._descriptor < 0 or self._size >= FILE_BYTES:
            self._turn(entry.at)
        frame = log_frames.encode(self._salt, 0, entry.at, (encode(entry),))
        try:
            count = os.write(self._descriptor, frame)
            if count < len(frame):
                count += os.write(self._descriptor, memoryview(frame)[count:])
            if count < len(frame):
                raise OSError(28, "No space left on device")
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:  # what was begun stays: what comes next begins another file
                self._size = FILE_BYTES
            raise
        self._size += len(frame)
        self.at = entry.at

    def _turn(self, first: int) -> None:
        path = self.folder / f"{PREFIX}{first:020}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._size = descriptor, 0

    def read(self) -> Iterator[Entry]:
        """Yield what is there, once, before anything is appended: up to what was broken off, or does not follow."""
        paths = self._paths()
        expected = _first_of(paths[0]) if paths else 0
        for path in paths:
            if _first_of(path) != expected:
                break  # what is behind a gap has lost what it stands on
            for entry in self._entries(path.read_bytes(), expected):
                expected = entry.at + 1
                yield entry
        self.at = max(self.at, expected - 1)
        for path in paths:
            if _first_of(path) >= expected:
                path.unlink()

    def _entries(self, data: bytes, expected: int) -> Iterator[Entry]:
        """Yield what is in a file, up to what is none or does not follow."""
        for place in log_frames.scan(self._salt, 0, data, expected).places:
            found = log_frames.decode(self._salt, 0, data, place.position)
            try:
                entry = decode(found[1][0]) if found is not None else None
            except UNDECODABLE:
                entry = None
            if not isinstance(entry, Entry) or not entry.at == place.first == expected:
                return
            expected += 1
            yield entry

    def trim(self, upto: int) -> None:
        """Let go of files all of whose entries are before `upto`."""
        paths = self._paths()
        for path, following in itertools.pairwise(paths):
            if _first_of(following) <= upto:
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{PREFIX}*"))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _first_of(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))
