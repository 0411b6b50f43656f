"""Owning: the tree of files where it is owned: the volume, and all that is around it."""

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from unios.client.aio import Kernel
from unios.client.connection import Connection
from unios.errors import DataLost
from unios.fuse import replies
from unios.fuse.channel import Unmounted
from unios.services.files.blocks import Blocks, connect
from unios.services.files.mounts import LocalMount, Told
from unios.services.files.replicating import Replicating, Then
from unios.services.files.serving import Mount, Serving
from unios.services.files.volume import Volume

TIDY_S: Final = 1.0
RETRY_S: Final = 0.05


class News:
    """What some mounts are being told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = 0
        self._then: Callable[[], None] | None = None

    def tell(self, mount: LocalMount, told: tuple[Told, ...]) -> None:
        """Tell one more."""
        with self._lock:
            self._left += 1
        mount.tell(*told, then=self._told)

    def _told(self) -> None:
        with self._lock:
            self._left -= 1
            then = self._then if not self._left else None
        if then is not None:
            self._do(then)

    def when_told(self, then: Callable[[], None]) -> None:
        """Call `then`, once, when all have been told."""
        with self._lock:
            self._then = then
            is_over = not self._left
        if is_over:
            self._do(then)

    def _do(self, then: Callable[[], None]) -> None:
        with contextlib.suppress(Unmounted):
            then()


class Owning:
    """The tree, owned here: what is around the volume."""

    def __init__(self, kernel: Kernel, replicating: Replicating, volume: Volume) -> None:
        self._kernel, self.volume = kernel, volume
        self.loop = replicating.loop
        self.replicating = replicating
        self.blocks = Blocks(kernel.folder, volume, replicating.when)
        self.serving = Serving(volume, self)
        self.mounts: dict[int, LocalMount] = {}
        self.is_continuous = False
        """Whether this node's journal goes on: nobody else has owned the tree since."""
        self.read = 0
        """So many entries of the log were read at the beginning."""
        self._news: News | None = None
        """What the operation that is under way has told; the volume's lock guards it."""
        self._held: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    # as Serving's Around

    def fetch(self, blocks: tuple[bytes, ...], then: Then) -> None:
        self.blocks.fetch(blocks, then)

    def sync(self, ino: int, then: Then) -> None:
        self.blocks.sync(ino, then)

    def is_full(self) -> bool:
        return self.replicating.is_full or self.blocks.is_full

    def when_room(self, then: Callable[[], None]) -> None:
        with self._lock:
            self._held.append(then)

    def changed(self, mount: Mount, names: tuple[tuple[int, bytes], ...], inodes: tuple[int, ...]) -> None:
        for ino in inodes:
            inode = self.volume.state.inodes.get(ino)
            if inode is not None and not inode.nlink:
                for each in list(self.mounts.values()):
                    each.look_for(ino)
        others = [other for other in list(self.mounts.values()) if other.keeps and other is not mount]
        if others and (names or inodes):
            self._news = self._news or News()
            for other in others:
                self._news.tell(other, other.names(names, inodes))

    def news(self) -> "News | None":
        found, self._news = self._news, None
        return found

    def recall(self, inodes: tuple[int, ...], then: Callable[[], None]) -> None:
        """Have written what mounts of this node may have changed of these, in memory that is mapped, and call `then`."""
        news = None
        for mount in list(self.mounts.values()):
            if held := [ino for ino in inodes if mount.may_hold(ino)]:
                news = news or News()
                news.tell(mount, tuple(replies.invalidate_inode(ino) for ino in held))
        if news is None:
            then()
        else:
            news.when_told(then)

    def connection(self) -> Connection:
        """Return a connection for one thread, which closes it."""
        return connect(self._kernel.folder)

    def free_bytes(self) -> tuple[int, int, int]:
        found = os.statvfs(self._kernel.folder.path)
        return found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize, found.f_bavail * found.f_frsize

    def fetched(self, blocks: tuple[bytes, ...]) -> None:
        """As `fetch`, and wait for it."""
        done, failed = threading.Event(), list[OSError]()

        def then(error: OSError | None) -> None:
            if error is not None:
                failed.append(error)
            done.set()

        self.fetch(blocks, then)
        done.wait()
        if failed:
            raise DataLost(f"a block of a file is not to be had: {failed[0]}")

    def look(self) -> None:
        """Make blocks of what has been in the making for long, and go on with what has waited; in a thread, again and again."""
        while True:
            time.sleep(TIDY_S if not self.is_full() else RETRY_S)
            try:
                while self.blocks.tidy() or (self.blocks.is_full and self.blocks.tidy(idle_s=0)):
                    self._go_on()
            except Exception:  # noqa: BLE001 the disk, or the other nodes: it is tried again
                traceback.print_exc()
            with self.volume.lock, contextlib.suppress(OSError):
                first = self.volume.staging.first() or self.volume.journal.at + 1
                self.volume.journal.trim(min(first, self.replicating.confirmed + 1))
            self._go_on()

    def _go_on(self) -> None:
        while self._held and not self.is_full():
            with self._lock:
                held, self._held = self._held[:1], self._held[1:]
            for one in held:
                with contextlib.suppress(Unmounted):
                    one()
