"""Rooting: makes snapshots of the tree from time to time, says in the store where they are, and lets go of what is before them in the log."""

import asyncio
import bisect
from typing import Final

import msgspec

from unios.client.aio import Kernel
from unios.client.log import LogWriter
from unios.errors import DataLost, Unavailable, UniosError
from unios.services.files import snapshots
from unios.services.files.blocks import USER
from unios.services.files.claiming import Claim
from unios.services.files.owning import Owning
from unios.services.files.snapshots import ENTRIES, NAME_BYTES, ROOT, RootRecord
from unios.store.client import StoreClient
from unios.store.model import Put, Transaction
from unios.undecodable import UNDECODABLE
from unios.wire.carries import OfBlocks

REST_S: Final = 1.0
RETRY_S: Final = 0.05


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
        """Again and again: keep a snapshot, say so, and let go of what is before it in the log."""
        while True:
            await asyncio.sleep(REST_S)
            if self.places.entries < ENTRIES:
                continue
            try:
                await self._now()
            except UniosError as error:  # the log grows on meanwhile
                print(f"no snapshot of the tree of files could be made: {error}", flush=True)

    async def _now(self) -> None:
        def take() -> tuple[int, int, bytes]:
            with self._owning.volume.lock:
                at, parts = self._owning.volume.snapshot()
                patched = self._owning.volume.staging.first_patch()
            with self._owning.connection() as connection:
                return at, patched, snapshots.keep(connection, parts)

        before = await root_of(self._store)
        at, patched, names = await asyncio.to_thread(take)
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def there(_error: OSError | None) -> None:
            loop.call_soon_threadsafe(arrived.set_result, None)

        self._owning.replicating.when(at, there)
        await arrived
        offset = self.places.after(min(at, patched - 1) if patched else at)
        record = RootRecord(names, offset, at, self._owning.volume.journal.token)
        mine = self._claim.compare()
        if not (await self._store.transact(Transaction((mine,), (Put(ROOT, msgspec.msgpack.encode(record)),)))).succeeded:
            raise Unavailable("this node does not own the tree any more")
        self.places.forget(offset)
        await self._writer.trim(offset)
        gone = {before.blocks[at : at + NAME_BYTES] for at in range(0, len(before.blocks), NAME_BYTES)}
        gone -= {names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)}
        if gone:
            await self._kernel.call("blocks.drop", OfBlocks(b"".join(gone), USER))
