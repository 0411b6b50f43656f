"""Results: what a process has made of the folder that it took along, brought back into a folder of this machine.

A file is written aside and renamed, never opened in place. What was changed here since it was carried is never overwritten: the result is put beside it as
NAME.unios-PID. What the program deleted is not deleted here.
"""

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from unios.client import blocks
from unios.client.carry import Folder, shown
from unios.client.connection import Connection
from unios.errors import CallerError, DataLost, NotFound
from unios.wire import folders, manifests
from unios.wire.carries import OfResults, Results
from unios.wire.manifests import Entry


class Brought(NamedTuple):
    """`written`: paths that are new or changed here. `beside`: (path, what the result is called instead). `homeless`: those that belong nowhere here."""

    written: list[bytes]
    beside: list[tuple[bytes, bytes]]
    homeless: list[bytes]
    same: int
    bytes: int


def ask(connection: Connection, pid: int) -> Results:
    """Return what there is of a process's results. NotFound if it took nothing along."""
    found: Results = connection.ask("processes.results", OfResults(pid), Results)
    return found


def bring(connection: Connection, pid: int, places: list[Folder], found: Results, got: Callable[[int], None] = lambda _bytes: None) -> Brought:
    """Bring the results into the places. Idempotent. NotFound if there are none, DataLost if their content is nowhere, CallerError if a file cannot be
    written."""
    if not found.results:
        raise NotFound(f"process {pid} has no results: {found.reason or 'nothing that was asked for has changed'}")
    carried = manifests.by_path(blocks.read_manifest(connection, found.carry.manifest, user=found.user))
    entries = blocks.read_manifest(connection, found.results, user=found.user)
    work = _Bringing(pid, places, carried)
    todo = [(entry, place) for entry in entries if (place := work.place(entry)) is not None]
    content = blocks.fetch(connection, [name for entry, _place in todo for name in manifests.split(entry.blocks)], user=found.user)
    for entry, place in todo:
        mine = itertools.islice(content, len(entry.blocks) // manifests.NAME_BYTES)
        try:
            work.write(entry, place, mine)
        except DataLost as error:
            raise DataLost(f"{shown(entry.path)} cannot be brought back: {error}") from error
        except OSError as error:
            raise CallerError(f"{shown(place)} cannot be written: {error.strerror or error}") from error
        got(entry.size)
    return work.told()


class _Bringing:
    """Decides entry by entry where a result goes, and writes it there."""

    def __init__(self, pid: int, places: list[Folder], carried: Mapping[bytes, Entry]) -> None:
        self._pid, self._carried = pid, carried
        self._roots = {folder.name: folder.path for folder in places}
        self._renamed: dict[bytes, bytes] = {}
        """From where a folder belongs to what it is called: something else may be in its place."""
        self._seen: dict[bytes, tuple[int, int, int] | None] = {}
        self._written: list[bytes] = []
        self._beside: list[tuple[bytes, bytes]] = []
        self._homeless: list[bytes] = []
        self._same = 0
        self._bytes = 0

    def told(self) -> Brought:
        return Brought(self._written, self._beside, self._homeless, self._same, self._bytes)

    def _target(self, path: bytes) -> bytes | None:
        """Return where a path of the working folder is here; None: nowhere."""
        first, _slash, rest = path.partition(b"/")
        if first in self._roots and first:
            root, inside = self._roots[first], rest
        elif b"" in self._roots:
            root, inside = self._roots[b""], path
        else:
            return None
        return os.path.join(root, inside) if inside else root

    def place(self, entry: Entry) -> bytes | None:
        """Return where to write an entry; None if there is nothing to write. A folder is made at once."""
        wanted = self._target(entry.path)
        if wanted is None:
            self._homeless.append(entry.path)
            return None
        parent, _slash, name = wanted.rpartition(b"/")
        target = self._renamed.get(parent, parent) + b"/" + name
        if entry.kind == "d":
            self._renamed[wanted] = self._folder(entry, target)
            return None
        here = _look(target, entry.path)
        verdict = manifests.verdict(entry, self._carried.get(entry.path), here)
        if verdict == "same":
            self._same += 1
            return None
        if verdict == "beside":
            instead = target + b".unios-%d" % self._pid
            self._beside.append((target, instead))
            return instead
        self._seen[target] = _mark(target)
        return target

    def _folder(self, entry: Entry, target: bytes) -> bytes:
        """Make a folder; return what it is called here."""
        try:
            os.mkdir(target, entry.mode | 0o700)
            self._written.append(target)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(target).st_mode):
                instead = target + b".unios-%d" % self._pid
                os.makedirs(instead, mode=0o700, exist_ok=True)
                self._beside.append((target, instead))
                return instead
        except OSError as error:
            raise CallerError(f"{shown(target)} cannot be made: {error.strerror}") from error
        return target

    def write(self, entry: Entry, target: bytes, content: Iterator[bytes]) -> None:
        """Write a file or a link aside, then give it its name. Raises OSError, DataLost."""
        folder = target.rpartition(b"/")[0]
        aside = folder + b"/.unios-%d-%d" % (self._pid, os.getpid())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        try:
            if entry.kind == "l":
                os.symlink(entry.target, aside)
            else:
                _write_file(aside, entry, content)
            if target in self._seen and _mark(target) != self._seen[target]:  # it was changed while this was fetched
                instead = target + b".unios-%d" % self._pid
                self._beside.append((target, instead))
                target = instead
            os.rename(aside, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        self._written.append(target)
        self._bytes += entry.size


def _write_file(path: bytes, entry: Entry, content: Iterator[bytes]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for block in content:
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(file, rest) :]
        os.fchmod(file, entry.mode)
        os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(file)


def _mark(path: bytes) -> tuple[int, int, int] | None:
    """Return what tells whether a file was changed or replaced."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _look(target: bytes, path: bytes) -> Entry | None:
    """Return what is there now, None if nothing is."""
    try:
        status = os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        return None
    folder, _slash, name = target.rpartition(b"/")
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, "l", target=os.fsencode(os.readlink(target)))
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, "d")
    try:
        here = os.open(folder or b"/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = list(map(manifests.name_of, folders.read_blocks(here, name)))
        finally:
            os.close(here)
    except OSError:
        return Entry(path, "f", 0o777, 0, 1, b"?" * manifests.NAME_BYTES)  # whatever it is: it is not overwritten
    return Entry(path, "f", status.st_mode & folders.MODE_MASK, 0, status.st_size, b"".join(names))
