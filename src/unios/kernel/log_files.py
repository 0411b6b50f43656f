"""Files of a log's replica on this node: frames in append-only files, and a small file for what else must be remembered.

- `commit` brings everything that it is given to disk with one fdatasync for each file it touches, or nothing of it counts and it raises.
- Opening cuts torn tails (core/log_frames.py says what is one) and lists damage. Nothing is repaired here. What it finds counts from then on as what is on
  the disk, and is brought there.
- Every read checks the frames that it returns.
- A file is lengthened by zeros ahead of small writes: then a sync has no length to bring to the disk, and takes half as long. Zeros at the end are no torn tail.

Blocking, and called from threads: one commit at a time, reads beside it. Decides nothing: core/log_replica.py does.

    state                                          fence and first offset that is kept; placed whole
    <number>.<epoch>.<first offset>.<salt>.log     part of a span; an empty one says that the span was made
"""

import contextlib
import os
import re
import secrets
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from unios import durable
from unios.core import log_frames
from unios.core.log_frames import HEAD_BYTES, Place
from unios.core.log_replica import Commit, Kept, Replica, Write
from unios.log_limits import LOG_COMMIT_BYTES, LOG_ENTRY_BYTES_MAX, LOG_FILE_BYTES, LOG_READ_BYTES, LOG_ZEROS_BYTES
from unios.undecodable import UNDECODABLE

_NAME: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)\.([0-9a-f]{8})\.log")
_INDEX_BYTES: Final = 16 * 1024
"""One frame is found at once for so many bytes of a file; the others are found from there."""
_LEVELS: Final = 3
"""A log's folder, its user's, and that of all logs: their names are the disk's too before anything is acknowledged."""
_ANEW_BYTES: Final = 1024 * 1024
_AHEAD_BYTES: Final = 256 * 1024
_FRAME_BYTES_MAX: Final = HEAD_BYTES + 2 * (LOG_COMMIT_BYTES + LOG_ENTRY_BYTES_MAX)


class Damaged(Exception):
    """What should be there is not what was written."""


class _State(msgspec.Struct):
    fence: int = 0
    first: int = 0


class Found(NamedTuple):
    """What opening came upon. `torn`: bytes that were cut. `damage`: (number of the span, from, to)."""

    torn: int
    damage: list[tuple[int, int, int]]


class _File:
    """One file. `size` and `end` are what is durable."""

    __slots__ = ("allocated", "end", "epoch", "first", "index", "last", "number", "path", "salt", "size")

    def __init__(self, path: str, number: int, epoch: int, first: int, salt: int) -> None:
        self.path, self.number, self.epoch, self.first, self.salt = path, number, epoch, first, salt
        self.size, self.end = 0, first
        self.allocated = 0
        """Where the file ends: behind `size` it has zeros, if anything."""
        self.last = 0
        """Where the last frame begins."""
        self.index: list[tuple[int, int]] = []
        """(first offset, position) of some frames."""

    def add(self, place: Place, *, always: bool = False) -> None:
        """There is one more frame."""
        if always or not self.index or place.position >= self.index[-1][1] + _INDEX_BYTES:
            self.index.append((place.first, place.position))
        self.last, self.size, self.end = place.position, place.position + place.size, place.end
        self.allocated = max(self.allocated, self.size)


class LogFiles:
    """Those of one log, in a folder of their own."""

    def __init__(self, folder: str, *, file_bytes: int = LOG_FILE_BYTES) -> None:
        self._folder, self._file_bytes = folder, file_bytes
        self._made = False
        self._files: dict[int, list[_File]] = {}
        self._state = _State()
        self._writing: tuple[_File, int] | None = None
        """The file that was written last, and its descriptor."""
        self._broken = ""
        """Why nothing more may be written: the files are not as is thought here."""
        self.found = Found(0, [])

    def open(self) -> Replica:
        """Read what is there; return the decider for it. Raises OSError, Damaged if the small file makes no sense."""
        self._made = os.path.isdir(self._folder)
        if not self._made:
            return Replica()
        with contextlib.suppress(FileNotFoundError):
            try:
                self._state = msgspec.json.decode(Path(self._folder, "state").read_bytes(), type=_State)
            except UNDECODABLE as error:
                raise Damaged(f"{self._folder}/state makes no sense: {error}") from error
        torn = 0
        damage: list[tuple[int, int, int]] = []
        matches = filter(None, map(_NAME.fullmatch, os.listdir(self._folder)))
        files = [_File(f"{self._folder}/{m[0]}", int(m[1]), int(m[2]), int(m[3]), int(m[4], 16)) for m in matches]
        for file in sorted(files, key=lambda file: (file.number, file.epoch, file.first)):
            torn += self._load(file, damage)
            mine = self._files.setdefault(file.number, [])
            if mine and mine[0].epoch != file.epoch:  # one that was begun and never recorded
                for old in mine:
                    _remove(old.path)
                mine.clear()
            if mine and mine[-1].end < file.first:
                damage.append((file.number, mine[-1].end, file.first))
            mine.append(file)
        self._make_sure()
        self.found = Found(torn, damage)
        kept = [Kept(number, mine[0].epoch, mine[0].first, mine[-1].end) for number, mine in self._files.items()]
        return Replica(fence=max((self._state.fence, *(each.epoch for each in kept))), first=self._state.first, kept=kept)

    def _load(self, file: _File, damage: list[tuple[int, int, int]]) -> int:
        data = Path(file.path).read_bytes()
        found = log_frames.scan(file.salt, file.epoch, data, file.first)
        after = {end for _first, end in found.damage}
        for place in found.places:
            file.add(place, always=place.first in after)
        damage.extend((file.number, first, end) for first, end in found.damage)
        if data.count(0, found.good) == len(data) - found.good:
            file.allocated = len(data)
            return 0
        if found.good < len(data):
            descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, found.good)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        return len(data) - found.good

    def _make_sure(self) -> None:
        """Bring to the disk what was found: a writer that was killed had not synced its last frame, perhaps, and then only the page cache has it.

        Written again, and not just synced: if its sync had failed Linux would take it for written. All before that frame was synced before it was begun.
        A short file is even made anew: ext4 leaves blocks that were new when a write failed unwritten, whatever is written over them later.
        """
        for mine in self._files.values():
            file = mine[-1]
            if file.size <= _ANEW_BYTES:
                durable.place(file.path, Path(file.path).read_bytes()[: file.size])
                file.allocated = file.size
                continue
            descriptor = os.open(file.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if file.last < file.size:
                    _write_at(descriptor, os.pread(descriptor, file.size - file.last, file.last), file.last)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        durable.sync_folder(self._folder)
        durable.make_folders(self._folder, levels=_LEVELS)

    # writing

    def commit(self, commit: Commit) -> None:
        """Bring it to disk. Raises OSError: then nothing of it counts; Damaged: and that could not be undone."""
        if self._broken:
            raise Damaged(self._broken)
        made: list[_File] = []
        grown: list[_File] = []
        try:
            if not self._made:
                durable.make_folders(self._folder, levels=_LEVELS)
                self._made = True
            if commit.fence or commit.first:
                self._remember(commit)
            made += [self._make(each.number, each.epoch, each.first) for each in commit.created]
            places = [self._write(write, made, grown) for write in commit.writes]
            if made:
                durable.sync_folder(self._folder)
        except OSError:
            self._undo(made, grown)
            raise
        for file in made:
            mine = self._files.setdefault(file.number, [])
            if mine and mine[0].epoch != file.epoch:
                for old in mine:
                    _remove(old.path)
                mine.clear()
            mine.append(file)
        for file, place in places:
            file.add(place)

    def _remember(self, commit: Commit) -> None:
        state = _State(commit.fence or self._state.fence, commit.first or self._state.first)
        durable.place(f"{self._folder}/state", msgspec.json.encode(state))
        self._state = state

    def _make(self, number: int, epoch: int, first: int) -> _File:
        salt = secrets.randbits(32)
        file = _File(f"{self._folder}/{number}.{epoch}.{first}.{salt:08x}.log", number, epoch, first, salt)
        os.close(os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return file

    def _write(self, write: Write, made: list[_File], grown: list[_File]) -> tuple[_File, Place]:
        file = next((file for file in reversed(made) if file.number == write.number), None) or self._files[write.number][-1]
        if file.size >= self._file_bytes:
            file = self._make(file.number, file.epoch, write.first)
            made.append(file)
        grown.append(file)
        frame = log_frames.encode(file.salt, file.epoch, write.first, write.entries)
        descriptor = self._descriptor(file)
        end = file.size + len(frame)
        zeros = 0
        if end > file.allocated and len(frame) <= LOG_ZEROS_BYTES // 4:
            zeros = max(0, min(LOG_ZEROS_BYTES, self._file_bytes - end))
        _write_at(descriptor, frame + bytes(zeros), file.size)
        os.fdatasync(descriptor)
        file.allocated = max(file.allocated, end + zeros)
        return file, Place(write.first, len(write.entries), file.size, len(frame))

    def _descriptor(self, file: _File) -> int:
        if self._writing is not None and self._writing[0] is file:
            return self._writing[1]
        self._let_go()
        descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
        self._writing = (file, descriptor)
        return descriptor

    def _let_go(self) -> None:
        if self._writing is not None:
            os.close(self._writing[1])
            self._writing = None

    def _undo(self, made: list[_File], grown: list[_File]) -> None:
        """Take back what was written: what Linux says was not synced must not be read later as if it had been."""
        self._let_go()
        try:
            for file in grown:
                if file not in made:
                    descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
                    try:
                        os.ftruncate(descriptor, file.size)
                        os.fdatasync(descriptor)
                        file.allocated = file.size
                    finally:
                        os.close(descriptor)
            for file in made:
                _remove(file.path)
        except OSError as error:
            self._broken = f"a write failed and could not be taken back: {error}"
            raise Damaged(self._broken) from error

    def trim(self, first: int) -> list[int]:
        """Remove the files of which nothing from `first` on is needed; return the spans that are gone. The newest span keeps its last file."""
        gone = []
        newest = max(self._files, default=0)
        for number, mine in list(self._files.items()):
            while mine and mine[0].end <= first and (len(mine) > 1 or number != newest):
                _remove(mine.pop(0).path)
            if not mine:
                del self._files[number]
                gone.append(number)
        return gone

    # reading

    def read(self, number: int, offset: int, upto: int, *, bytes_max: int = LOG_READ_BYTES) -> list[bytes]:
        """Return entries from `offset` on, at least one, all before `upto`, which is durable; about `bytes_max` bytes. Raises Damaged."""
        file = next((file for file in reversed(self._files.get(number, [])) if file.first <= offset), None)
        if file is None or offset >= file.end:
            raise Damaged(f"{offset} is not in the files of span {number}")
        found: list[bytes] = []
        position = file.index[bisect_right(file.index, (offset, file.size)) - 1][1]
        try:
            for place, entries in _frames(file, position):
                if place.first > offset:
                    raise Damaged(f"{file.path} has a hole at {offset}")
                part = entries[offset - place.first : upto - place.first]
                found += part
                offset += len(part)
                if offset >= upto or sum(map(len, found)) >= bytes_max:
                    break
        except (Damaged, OSError) as error:
            if not found:
                raise Damaged(str(error)) from error
        return found

    def close(self) -> None:
        self._let_go()


def _frames(file: _File, position: int) -> Iterator[tuple[Place, list[bytes]]]:
    """Yield the frames of a file from that position on. Raises Damaged."""
    size = file.size
    with open(file.path, "rb", buffering=0) as stream:
        ahead = _AHEAD_BYTES
        while position < size:
            data = os.pread(stream.fileno(), min(ahead, size - position), position)
            at = 0
            while (frame := log_frames.decode(file.salt, file.epoch, data, at)) is not None:
                yield frame
                at += frame[0].size
            if not at and ahead == _FRAME_BYTES_MAX:
                raise Damaged(f"{file.path} is damaged at byte {position}")
            ahead = _AHEAD_BYTES if at else _FRAME_BYTES_MAX
            position += at


def _write_at(descriptor: int, data: bytes, position: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, memoryview(data)[written:], position + written)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
