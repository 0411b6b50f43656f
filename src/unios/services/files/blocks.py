"""Blocks: makes blocks of what lies in slots, keeps them on the promised number of disks, and brings those that are not on hand. In threads of its own."""

import errno
import itertools
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from unios.client import blocks
from unios.client.connection import Connection
from unios.core.files.staging import Staged
from unios.errors import NoRoom, UniosError
from unios.services.files.replicating import Then
from unios.services.files.volume import Volume
from unios.wire.home import NodeFolder

USER: Final = "files."
"""Whose the blocks of files are: nobody's who can log in."""
THREADS: Final = 4
BATCH_BYTES: Final = 16 << 20
BATCH_BLOCKS: Final = 512
IDLE_S: Final = 5.0
"""So long after it was begun a block in the making becomes one, unasked."""
STAGED_MAX: Final = 4_096
"""Blocks in the making; over it what changes something waits."""
Item = tuple[int, int, Staged, int, bytes]
"""(file, index, block in the making, its version, its bytes)"""


def connect(folder: NodeFolder) -> Connection:
    """Return a connection to the node's kernel, for one thread."""
    return Connection(folder.path.parent.parent, folder.name, role="files")


class Blocks:
    """Those of one volume."""

    def __init__(self, folder: NodeFolder, volume: Volume, when: Callable[[int, Then], None]) -> None:
        self._folder, self._volume, self._when = folder, volume, when
        self._pool = ThreadPoolExecutor(THREADS, "blocks")
        self._mine = threading.local()
        self._busy: dict[int, list[Then]] = {}
        """Files of which blocks are being made, and who waits for it to be over."""
        self._naming = threading.Condition()
        self._named: set[bytes] = set()
        """Blocks that were made since `watch`, or were just being made then."""
        self._flying: Counter[bytes] = Counter()
        """Blocks that are being made."""
        self._doomed: set[bytes] = set()
        """Blocks that are let go of just now: one of such a name is made anew afterwards."""

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _connection(self) -> Connection:
        found: Connection | None = getattr(self._mine, "connection", None)
        if found is None:
            found = self._mine.connection = connect(self._folder)
        return found

    def _submit(self, work: Callable[[], None], failed: Then) -> None:
        def run() -> None:
            try:
                work()
            except UniosError as error:
                failed(OSError(errno.ENOSPC if isinstance(error, NoRoom) else errno.EIO, str(error)))
            except OSError as error:
                failed(error)
            except Exception as error:  # noqa: BLE001 a defect: who waits is told
                traceback.print_exc()
                failed(OSError(errno.EIO, str(error)))

        self._pool.submit(run)

    # bringing

    def fetch(self, names: tuple[bytes, ...], then: Then) -> None:
        """Bring blocks to the stage."""

        def work() -> None:
            unique = list(dict.fromkeys(names))
            for name, data in zip(unique, blocks.fetch(self._connection(), unique, user=USER), strict=True):
                with self._volume.lock:
                    self._volume.stage.put(name, data)
            then(None)

        self._submit(work, then)

    # making

    def sync(self, ino: int, then: Then) -> None:
        """Have what a file has, and what was done before, in the log and on the disks."""
        volume = self._volume
        with volume.lock:
            if ino in self._busy:
                self._busy[ino].append(lambda error: then(error) if error else self.sync(ino, then))
                return
            try:
                at = volume.patch(ino)
            except OSError as error:
                then(error)
                return
            if at is None:
                self._busy[ino] = []
        if at is not None:
            self._when(at, then)
            return
        self._submit(lambda: self._seal_file(ino, then), lambda error: self._over((ino,), error, then))

    def _seal_file(self, ino: int, then: Then) -> None:
        volume = self._volume
        with volume.lock:
            inode = volume.state.inodes.get(ino)
            upto = inode.size if inode is not None else 0
            wanted = [(ino, index, staged) for index, staged in sorted(volume.staging.of(ino).items()) if staged.is_dirty]
        at = self._seal(wanted, {ino: upto})
        self._over((ino,), None, lambda _error: self._when(at, then))

    def _over(self, inos: tuple[int, ...], error: OSError | None, then: Then) -> None:
        with self._volume.lock:
            waiting = [one for ino in inos for one in self._busy.pop(ino, [])]
        then(error)
        for one in waiting:
            one(None)

    def _seal(self, wanted: list[tuple[int, int, Staged]], upto: dict[int, int]) -> int:
        """Make blocks of these; return the entry after which they are in the journal."""
        at = self._volume.journal.at
        while wanted:
            batch, size = list[Item](), 0
            try:
                while wanted and size < BATCH_BYTES and len(batch) < BATCH_BLOCKS:
                    ino, index, staged = wanted.pop(0)
                    with self._volume.lock:
                        if self._volume.staging.get(ino, index) is staged:
                            version, data = staged.version, self._volume.take(ino, index, staged)
                            batch.append((ino, index, staged, version, data))
                            size += len(data)
                left = {ino for ino, _index, _staged in wanted}
                at = max(at, self._seal_batch(batch, {ino: 0 if ino in left else length for ino, length in upto.items()}))
            except BaseException:
                with self._volume.lock:
                    for _ino, _index, staged, _version, data in batch:
                        self._volume.not_sealed(staged, len(data))
                raise
        return at

    def _seal_batch(self, batch: list[Item], upto: dict[int, int]) -> int:
        data, files = dict[bytes, bytes](), dict[int, dict[int, tuple[Staged, int, bytes, int]]]()
        for ino, index, staged, version, bytes_ in batch:
            name = blocks.name_of(bytes_)
            data[name] = bytes_
            files.setdefault(ino, {})[index] = (staged, version, name, len(bytes_))
        self._name(data.keys())
        try:
            if data:
                content = blocks.Content(data.__getitem__, lambda name: len(data[name]))
                blocks.keep(self._connection(), list(data), content, user=USER, sent=lambda _count: None)
            with self._volume.lock:
                at = self._volume.journal.at
                for ino, made in files.items():
                    at = self._volume.sealed(ino, made, upto.get(ino, 0))
                return at
        finally:
            self._landed(data.keys())

    # letting go

    def watch(self) -> None:
        """Take note, from now on, of which blocks are made."""
        with self._naming:
            self._named = set(self._flying)

    def _name(self, names: Iterable[bytes]) -> None:
        with self._naming:
            self._naming.wait_for(lambda: self._doomed.isdisjoint(names))
            self._named.update(names)
            self._flying.update(names)

    def _landed(self, names: Iterable[bytes]) -> None:
        with self._naming:
            self._flying -= Counter(names)

    def doom(self, names: set[bytes]) -> list[bytes]:
        """Return which of these blocks may go, not what was made since `watch`, and let none of their names be made until `spare`."""
        with self._naming:
            self._doomed = names - self._named
            return sorted(self._doomed)

    def spare(self) -> None:
        """They are gone: blocks of any name may be made."""
        with self._naming:
            self._doomed = set()
            self._naming.notify_all()

    def tidy(self, *, idle_s: float = IDLE_S) -> bool:
        """Make blocks of what was begun so long ago; blocking. Return whether there was anything."""
        volume, before_s = self._volume, time.monotonic() - idle_s
        with volume.lock:
            old = dict.fromkeys(ino for ino, _index, staged in volume.staging.all() if staged.since_s <= before_s and ino not in self._busy)
            blocks_of = ((ino, index, staged) for ino in old for index, staged in sorted(volume.staging.of(ino).items()))
            wanted = list(itertools.islice(blocks_of, BATCH_BLOCKS))  # from the first on: the log has a file as long as its bytes go
            inos = tuple(dict.fromkeys(ino for ino, _index, _staged in wanted))
            self._busy.update((ino, []) for ino in inos)
            whole = {ino: len(volume.staging.of(ino)) for ino in inos}
            for ino, _index, _staged in wanted:
                whole[ino] -= 1
            upto = {ino: volume.state.inodes[ino].size if not whole[ino] else 0 for ino in inos if ino in volume.state.inodes}
        if not wanted:
            return False
        try:
            self._seal(wanted, upto)
        finally:
            self._over(inos, None, lambda _error: None)
        return True

    @property
    def is_full(self) -> bool:
        """Whether so much is in the making that what changes something has to wait."""
        return self._volume.staging.count > STAGED_MAX
