"""Carrying a folder: from this machine's disk into blocks. Reads the folder with the caller's rights; changes nothing in it.

Every file is read and hashed each time: sizes and times alone would miss a change. What the kernel has already does not go over the wire.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from unios.client import blocks
from unios.client.connection import Connection
from unios.errors import CallerError
from unios.limits import BLOCK_BYTES, CARRY_BYTES_DEFAULT, CARRY_FILES_MAX
from unios.wire import folders, manifests
from unios.wire.manifests import Entry

ATTEMPTS_MAX = 3
"""So often a folder is read anew when its files change while they are sent."""
SHOWN_MAX = 3

Progress = Callable[[int, int], None]
"""(files, bytes): so much more has been read; or (0, bytes): has been sent."""


class Folder(NamedTuple):
    """One to be carried: `path` here, `name` in the working folder, empty for the working folder itself."""

    name: bytes
    path: bytes


class Packed(NamedTuple):
    """What was carried. `manifest`: names of its blocks. `bytes`: of all files; `sent`: over the wire. `warnings`: sentences."""

    manifest: bytes
    files: int
    bytes: int
    sent: int
    nodes: frozenset[str]
    warnings: list[str]


class _Changed(Exception):
    """A file is not what it was when it was hashed."""


class Scan:
    """What is in the folders, and where each block is to be read."""

    def __init__(self, exclude: tuple[bytes, ...], bytes_max: int, read: Progress) -> None:
        self.entries: list[Entry] = []
        self.places: dict[bytes, tuple[bytes, int]] = {}
        self.sizes: dict[bytes, int] = {}
        self.warnings: list[str] = []
        self.bytes = 0
        self._exclude, self._bytes_max, self._read = exclude, bytes_max, read
        self._unreadable: list[tuple[bytes, OSError]] = []
        self._special: list[bytes] = []

    def take(self, folder: Folder) -> None:
        """Read one folder. Raises CallerError: it is none, too large, or cannot be read."""
        try:
            here = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CallerError(f"{shown(folder.path)} cannot be carried: {error.strerror}") from error
        try:
            found: list[Entry] = []
            for met in folders.walk(here, skip=lambda path: manifests.matches(path, self._exclude), failed=self._failed):
                try:
                    entry = self._look_at(folder, met)
                except OSError as error:
                    self._failed(met.path, error)
                    continue
                if entry is not None:
                    found.append(entry)
                if len(self.entries) + len(found) > CARRY_FILES_MAX:
                    raise CallerError(f"{shown(folder.path)} has more than {CARRY_FILES_MAX} files, the most that is carried: --exclude some")
        finally:
            os.close(here)
        if folder.name:
            self.entries.append(Entry(folder.name, "d", 0o700))
        self.entries.extend(manifests.under(found, folder.name))

    def _failed(self, path: bytes, error: OSError) -> None:
        self._unreadable.append((path, error))

    def _look_at(self, folder: Folder, met: folders.Met) -> Entry | None:
        time_ns = met.status.st_mtime_ns
        if met.kind == "d":
            return Entry(met.path, "d", met.mode, time_ns)
        if met.kind == "l":
            return self._link(folder, met, time_ns)
        if met.kind == "":
            self._special.append(met.path)
            return None
        if self.bytes + met.status.st_size > self._bytes_max:
            raise CallerError(
                f"{shown(folder.path)} has more than {self._bytes_max} bytes: --exclude some of it, or say how much with --carry-max (as in 10G)"
            )
        names, size = [], 0
        for block in folders.read_blocks(met.parent, met.name):
            name = manifests.name_of(block)
            self.places.setdefault(name, (folder.path + b"/" + met.path, size))
            self.sizes[name] = len(block)
            names.append(name)
            size += len(block)
        self.bytes += size
        self._read(1, size)
        return Entry(met.path, "f", met.mode, time_ns, size, b"".join(names))

    def _link(self, folder: Folder, met: folders.Met, time_ns: int) -> Entry:
        target = folders.link_target(met.parent, met.name)
        if leads_outside(met.path, target):
            self.warnings.append(f"the link {shown(met.path)} leads out of {shown(folder.path)}, to {shown(target)}: that is not carried")
        return Entry(met.path, "l", 0o777, time_ns, target=target)

    def check(self) -> None:
        """Raise CallerError if something could not be taken along: who carries half a folder wants to know before it runs."""
        if self._unreadable:
            _path, error = self._unreadable[0]
            names = _some([path for path, _error in self._unreadable])
            raise CallerError(f"cannot read {names}: {error.strerror or error}; leave out with --exclude what is not needed")
        if self._special:
            raise CallerError(f"{_some(self._special)}: neither file, folder nor link, which cannot be carried; leave it out with --exclude")

    def block(self, name: bytes) -> bytes:
        """Return the content of a block. Raises _Changed."""
        path, offset = self.places[name]
        try:
            file = os.open(path, folders.FLAGS)
        except OSError as error:
            raise _Changed(path) from error
        try:
            data = os.pread(file, BLOCK_BYTES, offset)
        finally:
            os.close(file)
        if manifests.name_of(data) != name:
            raise _Changed(path)
        return data


def leads_outside(path: bytes, target: bytes) -> bool:
    """Return whether a link at `path` in a folder leads out of it, by its own words."""
    if target.startswith(b"/"):
        return True
    depth = path.count(b"/")
    for part in target.split(b"/"):
        depth += -1 if part == b".." else 0 if part in (b"", b".") else 1
        if depth < 0:
            return True
    return False


def pack(
    connection: Connection,
    wanted: list[Folder],
    *,
    exclude: tuple[bytes, ...] = (),
    bytes_max: int = CARRY_BYTES_DEFAULT,
    user: str = "",
    prefer: str = "",
    read: Progress = lambda _files, _bytes: None,
    sent: Callable[[int], None] = lambda _bytes: None,
) -> Packed:
    """Bring the folders into the system: on the disks of two nodes when this returns, of one where there is one. Idempotent.

    `prefer`: the node that it runs on, if that is known.
    """
    for _attempt in range(ATTEMPTS_MAX):
        scan = Scan(exclude, bytes_max, read)
        for folder in wanted:
            scan.take(folder)
        scan.check()
        data = manifests.encode(scan.entries)
        manifests.decode(data)  # two folders that claim one name are found here
        pieces = {manifests.name_of(piece): piece for piece in manifests.cut(data)}
        names = [manifests.name_of(piece) for piece in manifests.cut(data)]
        everything = list(dict.fromkeys([*names, *manifests.blocks_of(scan.entries)]))

        def read_block(name: bytes, pieces: dict[bytes, bytes] = pieces, scan: Scan = scan) -> bytes:
            return pieces[name] if name in pieces else scan.block(name)

        def size_of(name: bytes, pieces: dict[bytes, bytes] = pieces, scan: Scan = scan) -> int:
            return len(pieces[name]) if name in pieces else scan.sizes[name]

        try:
            kept = blocks.keep(connection, everything, blocks.Content(read_block, size_of), user=user, prefer=prefer, sent=sent)
        except _Changed as changed:
            busy = changed.args[0]
            continue
        files = sum(entry.kind != "d" for entry in scan.entries)
        warnings = [*scan.warnings, *(f"fewer nodes keep what is carried than should: {text}" for text in sorted(kept.refused))]
        return Packed(b"".join(names), files, scan.bytes, kept.bytes, kept.nodes, warnings)
    raise CallerError(f"{shown(busy)} changes while it is read: --exclude it, or carry a copy of the folder")


def _some(paths: list[bytes]) -> str:
    more = f" and {len(paths) - SHOWN_MAX} more" if len(paths) > SHOWN_MAX else ""
    return ", ".join(map(shown, paths[:SHOWN_MAX])) + more


def shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
