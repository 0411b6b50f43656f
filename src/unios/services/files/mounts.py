"""Mounts: one mount of this node, served by a thread of its own; a second one tells its Linux what it may not keep any more."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from unios.core.files.inode import ROOT
from unios.fuse import abi, replies
from unios.fuse.abi import Notice
from unios.fuse.channel import Channel, Unmounted
from unios.fuse.replies import Kept
from unios.fuse.requests import Request
from unios.services.files.serving import Serving

KEPT: Final = Kept(3_600_000, 3_600_000)
"""Whoever else changes something has that told here first."""
FROZEN_S: Final = 0.02
Told = tuple[Notice, bytes]


class LocalMount:
    """A mount. `holds`: whether this node's lease does; while it does not nothing is answered. `gone` is called when it is mounted no more."""

    kept = KEPT
    open_flags = int(abi.Opened.KEEP_CACHE)

    def __init__(self, number: int, channel: Channel, serving: Serving, holds: Callable[[], bool], gone: Callable[["LocalMount"], None]) -> None:
        self.number, self.channel = number, channel
        self._serving, self._holds, self._gone = serving, holds, gone
        self._known: dict[int, int] = {}
        self._unknown: set[int] = set()
        """What its Linux may know from a predecessor, how often is not known."""
        self._news: queue.SimpleQueue[Told | Callable[[], None]] = queue.SimpleQueue()
        self._telling: threading.Thread | None = None

    def adopted(self) -> None:
        """Its Linux was served by a predecessor: it may know everything."""
        tree = self._serving.volume.tree
        for ino in tree.state.inodes:
            tree.opened(ino)
            self._unknown.add(ino)

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"mount-{self.number}", daemon=True).start()

    def _run(self) -> None:
        read, one, holds = self.channel.read, self._serving.one, self._holds
        try:
            while (request := read()) is not None:
                while not holds():
                    time.sleep(FROZEN_S)
                one(self, request)
        except Unmounted:
            self._leave()

    def _leave(self) -> None:
        volume = self._serving.volume
        with volume.lock:
            self._serving.locking.gone(self.number)
            for ino in {*self._known, *self._unknown}:
                volume.released(ino)
            self._known.clear()
            self._unknown.clear()
        self._gone(self)

    # as Serving's Mount

    def answer(self, request: Request, *parts: bytes | memoryview) -> None:
        self.channel.answer(request, *parts)

    def refuse(self, request: Request, number: int) -> None:
        self.channel.refuse(request, number)

    def knows(self, ino: int) -> None:
        count = self._known.get(ino, 0)
        if not count and ino not in self._unknown:
            self._serving.volume.tree.opened(ino)
        self._known[ino] = count + 1

    def forgets(self, ino: int, count: int) -> bool:
        if ino == ROOT:
            return False
        if ino in self._unknown:
            self._unknown.discard(ino)
            self._known.pop(ino, None)
            return True
        left = self._known.get(ino, 0) - count
        if left > 0:
            self._known[ino] = left
            return False
        return self._known.pop(ino, None) is not None

    # what it is told

    def tell(self, *told: Told, then: Callable[[], None] = lambda: None) -> None:
        """Have its Linux forget something, and call `then` when that is so."""
        if self._telling is None:
            self._telling = threading.Thread(target=self._tell, name=f"news-{self.number}", daemon=True)
            self._telling.start()
        for one in told:
            self._news.put(one)
        self._news.put(then)

    def _tell(self) -> None:
        while True:
            one = self._news.get()
            if callable(one):
                one()
                continue
            try:
                self.channel.tell(*one)
            except (Unmounted, OSError):
                continue

    def names(self, names: tuple[tuple[int, bytes], ...], inodes: tuple[int, ...]) -> tuple[Told, ...]:
        """Return what is to be told of changed names and inodes."""
        directories = {directory for directory, _name in names}
        return (
            *(replies.invalidate_entry(directory, name) for directory, name in names),
            *(replies.invalidate_inode(ino, -1) for ino in directories),
            *(replies.invalidate_inode(ino) for ino in inodes),
        )
