"""Rooting: makes snapshots of the tree from time to time, says in the store where they are, and lets go of what is before them in the log."""

import asyncio
import bisect
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import msgspec

from unios.client.aio import Kernel
from unios.client.log import LogWriter
from unios.errors import DataLost, Unavailable, UniosError
from unios.services.files import snapshots
from unios.services.files.claiming import Claim
from unios.services.files.owning import Owning
from unios.services.files.snapshots import ENTRIES, NAME_BYTES, ROOT, RootRecord
from unios.services.files.sweeping import Sweep
from unios.store.client import StoreClient
from unios.store.model import Put, Transaction
from unios.undecodable import UNDECODABLE

REST_S: Final = 1.0
RETRY_S: Final = 0.05
CALM_S: Final = 600.0
"""So long after the last snapshot there is another one, if anything has been done."""
CALM_EACH_S: Final = 0.01
"""For each inode as long, if that is more: a snapshot goes through all of them."""
T = TypeVar("T")


async def root_of(store: StoreClient) -> RootRecord:
    """Read where the last snapshot is, however long that takes. DataLost."""
    while True:
        try:
            found = (await store.range(ROOT))[0].records
            return msgspec.msgpack.decode(found[0].value, type=RootRecord) if found else RootRecord(b"", 0, 0, "")
        except UNDECODABLE as error:
            raise DataLost(f"the record {ROOT} makes no sense: {error}") from error
        except UniosError:
            await asyncio.sleep(RETRY_S)


class Places:
    """Where in the log what entries are, by the batches in which they came there."""

    def __init__(self, entries: int) -> None:
        self._batches: list[tuple[int, int]] = []
        """(last entry, its place in the log)"""
        self.entries = entries
        """Since the last snapshot."""

    def add(self, at: int, offset: int) -> None:
        """The last entry of a batch is there."""
        self.entries += offset - self._batches[-1][1] if self._batches else 1
        self._batches.append((at, offset))

    def after(self, at: int) -> int:
        """Return a place in the log before which there is nothing after that entry; 0 if none is known."""
        found = bisect.bisect_right(self._batches, (at, 1 << 62))
        return self._batches[found - 1][1] + 1 if found else 0

    def forget(self, offset: int) -> None:
        """There is a snapshot up to that place."""
        self._batches = [batch for batch in self._batches if batch[1] >= offset - 1]
        self.entries = self._batches[-1][1] - offset + 1 if self._batches else 0


class Rooting:
    """That of an owner."""

    def __init__(self, kernel: Kernel, store: StoreClient, claim: Claim, owning: Owning, writer: LogWriter) -> None:
        self._kernel, self._store, self._claim = kernel, store, claim
        self._owning, self._writer = owning, writer
        self.places = Places(owning.read)

    async def run(self) -> None:
        """Again and again: keep a snapshot, say so, and let go of what is before it in the log, and of blocks that no file has any more."""
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(REST_S)
            calm_s = max(CALM_S, len(self._owning.volume.state.inodes) * CALM_EACH_S)
            if self.places.entries < ENTRIES and (not self.places.entries or time.monotonic() - last_s < calm_s):
                continue
            last_s = time.monotonic()
            try:
                await self.now()
            except UniosError as error:  # the log grows on meanwhile
                print(f"no snapshot of the tree of files could be made: {error}", flush=True)

    async def now(self) -> int:
        """Do it once; return how many blocks were let go of. UniosError."""
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(self._work, loop)

    def _work(self, loop: asyncio.AbstractEventLoop) -> int:
        def wait(work: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(work, loop).result()

        volume = self._owning.volume
        with self._owning.connection() as connection:
            sweep = Sweep(connection, self._owning.blocks)
            with volume.lock:
                at, parts = volume.snapshot()
                patched = volume.staging.first_patch()
            names = snapshots.keep(connection, parts)
            arrived = threading.Event()
            self._owning.replicating.when(at, lambda _error: arrived.set())
            arrived.wait()
            offset = wait(self._place(min(at, patched - 1) if patched else at))
            wait(self._say(RootRecord(names, offset, at, volume.journal.token)))
            wait(self._writer.trim(offset))
            return sweep.run(parts, {names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)})

    async def _place(self, at: int) -> int:
        return self.places.after(at)

    async def _say(self, record: RootRecord) -> None:
        put = Put(ROOT, msgspec.msgpack.encode(record))
        if not (await self._store.transact(Transaction((self._claim.compare(),), (put,)))).succeeded:
            raise Unavailable("this node does not own the tree any more")
        self.places.forget(record.offset)
