"""What is around a volume, played: a mount that notes what it is answered, blocks in a dict, and requests without a Linux."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unios.core.files.entry import Entry
from unios.core.files.inode import ROOT, Owner
from unios.core.files.tree import FileError
from unios.fuse import abi, requests
from unios.fuse.abi import Op
from unios.fuse.channel import Unmounted
from unios.fuse.replies import NOT_KEPT
from unios.fuse.requests import Request
from unios.services.files.journal import Journal
from unios.services.files.knowing import Knowing
from unios.services.files.stage import Stage
from unios.services.files.volume import Volume

Then = Callable[[OSError | None], None]
WHOLE_MODE = 0o777


def volume_in(folder: Path, tell: Callable[[Entry], None] = lambda _entry: None) -> Volume:
    """Return one with nothing in it but its uppermost directory."""
    made = Volume(Stage(folder / "stage", fresh=True), Journal.begin(folder, 0), tell)
    made.commit(made.tree.found(Owner(0, 0), WHOLE_MODE, 1))
    return made


def request(op: int, body: Any, node: int = ROOT, *, unique: int = 2, resent: bool = False, uid: int = 0) -> Request:
    return Request(op, unique | (abi.RESENT if resent else 0), node, uid, 0, 1, body)


def create(name: bytes, *, unique: int = 2, resent: bool = False, flags: int = os.O_WRONLY | os.O_EXCL) -> Request:
    return request(Op.CREATE, requests.Create(name, flags, 0o644, 0, 0), unique=unique, resent=resent)


def write(node: int, offset: int, data: bytes | bytearray, *, unique: int = 2, flags: int = 0, resent: bool = False) -> Request:
    return request(Op.WRITE, requests.Write(0, offset, memoryview(data), 0, flags, False, False), node, unique=unique, resent=resent)


def lock(node: int, start: int, end: int, kind: int, *, owner: int = 7, op: int = Op.SETLKW, flock: bool = False, unique: int = 2) -> Request:
    return request(op, requests.Lock(0, owner, start, end, kind, 55, flock), node, unique=unique)


def ino_of(volume: Volume, name: bytes, directory: int = ROOT) -> int:
    """Return the inode of a name, 0 if there is none."""
    try:
        return volume.tree.lookup(directory, name).ino
    except FileError:
        return 0


class PlayedMount:
    """Notes (number, bytes) or (number, errno) of each request."""

    kept = NOT_KEPT
    open_flags = 0

    def __init__(self, number: int, volume: Volume) -> None:
        self.number, self.knowing = number, Knowing(volume)
        self.answers: list[tuple[int, bytes]] = []
        self.refusals: list[tuple[int, int]] = []
        self.opened = Counter[int]()
        self.is_gone = False

    def answer(self, request: Request, *parts: bytes | memoryview) -> None:
        if self.is_gone:
            raise Unmounted("it is mounted no more")
        self.answers.append((request.number, b"".join(parts)))

    def refuse(self, request: Request, number: int) -> None:
        if self.is_gone:
            raise Unmounted("it is mounted no more")
        self.refusals.append((request.number, number))

    def opens(self, ino: int, flags: int) -> None:
        self.opened[ino] += 1

    def closes(self, ino: int, flags: int) -> None:
        self.opened[ino] -= 1

    @property
    def told(self) -> list[int]:
        """The numbers of what was answered or refused."""
        return sorted([number for number, _ in self.answers] + [number for number, _ in self.refusals])


class PlayedAround:
    """What is beside a volume. Nothing happens by itself: `room` and `bring` make it."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.full = False
        self.held: list[Callable[[], None]] = []
        self.fetching: list[tuple[tuple[bytes, ...], Then]] = []
        self.syncing: list[tuple[int, Then]] = []
        self.changes: list[tuple[int, tuple[tuple[int, bytes], ...], tuple[int, ...]]] = []
        self.telling: list[Callable[[], None]] | None = None

    def fetch(self, blocks: tuple[bytes, ...], then: Then) -> None:
        self.fetching.append((blocks, then))

    def sync(self, ino: int, then: Then) -> None:
        self.syncing.append((ino, then))

    def is_full(self) -> bool:
        return self.full

    def when_room(self, then: Callable[[], None]) -> None:
        self.held.append(then)

    def changed(self, mount: Any, names: tuple[tuple[int, bytes], ...], inodes: tuple[int, ...]) -> None:
        self.changes.append((mount.number, names, inodes))

    def news(self) -> "PlayedAround | None":
        return self if self.telling is not None else None

    def when_told(self, then: Callable[[], None]) -> None:
        assert self.telling is not None
        self.telling.append(then)

    def free_bytes(self) -> tuple[int, int, int]:
        return 1 << 40, 1 << 39, 1 << 38

    def room(self) -> None:
        self.full = False
        held, self.held = self.held, []
        for one in held:
            one()


class Waiter:
    """Who waits to be told, in whatever thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.error: OSError | None = None
        self.count = 0

    def __call__(self, error: OSError | None) -> None:
        self.error, self.count = error, self.count + 1
        self._event.set()

    @property
    def is_told(self) -> bool:
        return self._event.is_set()

    def wait(self) -> OSError | None:
        assert self._event.wait(20), "nobody said anything"
        return self.error
