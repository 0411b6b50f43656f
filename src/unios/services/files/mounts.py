"""Mounts: one mount of this node, served by a thread of its own; a second one tells its Linux what it may not keep any more."""

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Final

from unios.errors import ProtocolError
from unios.fuse import abi, replies
from unios.fuse.abi import Notice
from unios.fuse.channel import Channel, Unmounted
from unios.fuse.replies import Kept
from unios.fuse.requests import Request
from unios.services.files.knowing import Knowing
from unios.services.files.serving import Serving

KEPT: Final = Kept(3_600_000, 3_600_000)
"""Whoever else changes something has that told here first."""
FROZEN_S: Final = 0.02
DEFECT: Final = 70
Told = tuple[Notice, bytes]


def give_up() -> None:
    """End this process at once, so that another takes its place; what was asked is asked again."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(DEFECT)


class LocalMount:
    """A mount. `keeps`: whether its Linux may keep what it is told. At most one mount of a node does: two that wait for each other to forget something, each
    with its directory locked, would wait for ever. `holds`: whether this node's lease does; while it does not nothing is answered. `gone` is called when it is
    mounted no more."""

    def __init__(
        self, number: int, channel: Channel, serving: Serving, holds: Callable[[], bool], gone: Callable[["LocalMount"], None], *, keeps: bool = True
    ) -> None:
        self.number, self.channel, self.keeps = number, channel, keeps
        self.kept = KEPT if keeps else replies.NOT_KEPT
        self.open_flags = int(abi.Opened.KEEP_CACHE if keeps else abi.Opened.DIRECT_IO)
        self._serving, self._holds, self._gone = serving, holds, gone
        self.knowing = Knowing(serving.volume)
        self._was_adopted = False
        self.writing: Counter[int] = Counter()
        """How often each file is open for writing here: pages of it may be changed that nobody else has seen."""
        self._news: queue.SimpleQueue[Told | Callable[[], None] | None] = queue.SimpleQueue()
        self._telling: threading.Thread | None = None

    def adopted(self) -> None:
        """Its Linux was served by a predecessor."""
        self.knowing.adopted()
        self._was_adopted = True

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
        except BaseException:  # noqa: BLE001 a defect: with nobody who reads, whoever is in the mount would wait for ever
            give_up()

    def _leave(self) -> None:
        volume = self._serving.volume
        with volume.lock:
            self._serving.locking.gone(self.number)
            self.knowing.leave()
        self._gone(self)
        if self._telling is not None:
            self._news.put(None)
            self._telling.join()
        self.channel.close()

    # as Serving's Mount

    def answer(self, request: Request, *parts: bytes | memoryview) -> None:
        try:
            self.channel.answer(request, *parts)
        except ProtocolError:  # a defect: whoever asked has been told EIO, the others go on
            traceback.print_exc()

    def refuse(self, request: Request, number: int) -> None:
        self.channel.refuse(request, number)

    def opens(self, ino: int, flags: int) -> None:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.writing[ino] += 1

    def closes(self, ino: int, flags: int) -> None:
        if flags & os.O_ACCMODE != os.O_RDONLY and self.writing[ino]:
            self.writing[ino] -= 1
            if not self.writing[ino]:
                del self.writing[ino]

    def may_hold(self, ino: int) -> bool:
        """Whether its Linux may have pages of a file that were changed and not written (mmap)."""
        return self._was_adopted or ino in self.writing

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
            if one is None:
                return
            with contextlib.suppress(Unmounted, OSError):
                if callable(one):
                    one()
                else:
                    self.channel.tell(*one)

    def look_for(self, ino: int) -> None:
        """A file has lost its last name: if its Linux does not know it, which is not known here after a predecessor, nobody does."""
        if ino in self.knowing.unknown:
            self.tell(then=lambda: self._look_for(ino))

    def _look_for(self, ino: int) -> None:
        if not self.channel.tell(*replies.invalidate_inode(ino, -1)):
            with self._serving.volume.lock:
                if self.knowing.never(ino):
                    self._serving.volume.released(ino)

    def names(self, names: tuple[tuple[int, bytes], ...], inodes: tuple[int, ...]) -> tuple[Told, ...]:
        """Return what is to be told of changed names and inodes."""
        directories = {directory for directory, _name in names}
        return (
            *(replies.invalidate_entry(directory, name) for directory, name in names),
            *(replies.invalidate_inode(ino, -1) for ino in directories),
            *(replies.invalidate_inode(ino) for ino in inodes),
        )
