"""The file service: a node's part in the tree of files. One per node, there while the node has mounts.

Whoever takes /files/owner in the store, under its node's lease, owns the tree: its journal goes to the log `files`, which another machine has too, and who owns it
next goes on from there. What it is after a crash of the process alone is in the journal on the node's disk (journal.py).
"""

import asyncio
import bisect
import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from unios.client.aio import Kernel, serve
from unios.client.connection import Connection
from unios.client.log import LogReader, LogWriter
from unios.core.files.changes import Changes, DropInode
from unios.core.files.entry import Began, Entry, decode, encode
from unios.core.files.inode import Owner
from unios.core.nodes import Alive, alive_key
from unios.errors import DataLost, NotFound, Unavailable, UniosError
from unios.fuse import session
from unios.fuse.abi import Feature
from unios.fuse.channel import Channel, Unmounted
from unios.fuse.session import Session
from unios.limits import BEAT_MS
from unios.services.files import snapshots
from unios.services.files.blocks import USER, Blocks
from unios.services.files.journal import Journal
from unios.services.files.mounts import LocalMount
from unios.services.files.replicating import Replicating
from unios.services.files.serving import Mount, Serving
from unios.services.files.snapshots import ENTRIES, NAME_BYTES, ROOT, RootRecord
from unios.services.files.stage import Stage
from unios.services.files.volume import NeedBlocks, Volume
from unios.services.lease_seen import LeaseSeen
from unios.store.client import StoreClient
from unios.store.model import Compare, Put, Range, RangeResult, Record, Transaction
from unios.undecodable import UNDECODABLE
from unios.wire.carries import OfBlocks
from unios.wire.home import NodeFolder
from unios.wire.mounts import GiveMount, ListMounts, MountsView, MountView, NoteMount, OpenMount
from unios.wire.operations import Empty

OWNER: Final = "/files/owner"
LOG: Final = "files"
MODE: Final = 0o1777
"""Of the uppermost directory: everybody may make files there, as in /tmp."""
RETRY_S: Final = 0.05
REST_S: Final = 1.0
TIDY_S: Final = 1.0
WAIT_MS: Final = 20_000
Then = Callable[[OSError | None], None]


class OwnerRecord(msgspec.Struct, frozen=True):
    """At /files/owner, attached to the node's lease."""

    node: str
    incarnation: int


class Owning:
    """The tree, owned here: what is around the volume."""

    def __init__(self, kernel: Kernel, replicating: Replicating, volume: Volume) -> None:
        self._kernel, self.volume = kernel, volume
        self.replicating = replicating
        self.blocks = Blocks(kernel.folder, volume, replicating.when)
        self.serving = Serving(volume, self)
        self.mounts: dict[int, LocalMount] = {}
        self.read = 0
        """So many entries of the log were read at the beginning."""
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
        if len(self.mounts) < 2:
            return
        for other in list(self.mounts.values()):
            if other is not mount:
                other.tell(*other.names(names, inodes))

    def connection(self) -> Connection:
        """Return a connection for one thread, which closes it."""
        return Connection(self._kernel.folder.path.parent.parent, self._kernel.folder.name, role="files")

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


class Told:
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


class Files:
    """The service."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._me = kernel.folder.name
        self._store = StoreClient(lambda: kernel.connect("store"))
        self._lease = LeaseSeen(str(kernel.folder.lease))
        self._number = 0
        self._folder = kernel.folder.path / "files"

    async def run(self) -> bool:
        """Serve until cancelled."""
        await self._own()
        writer = await LogWriter.open(self._kernel, LOG, least=1)
        replicating = Replicating()
        owning = await self._load(writer, replicating)
        threading.Thread(target=owning.look, name="look", daemon=True).start()
        told = Told(owning.read)
        async with asyncio.TaskGroup() as group:
            group.create_task(replicating.run(writer, told.add))
            group.create_task(self._snapshots(owning, writer, told))
            group.create_task(self._look_after_mounts(owning))
            group.create_task(self._watch_lease())
        return False

    # owning

    async def _own(self) -> None:
        """Become the owner, or wait until that can be."""
        while True:
            with contextlib.suppress(UniosError):
                keys = (OWNER, alive_key(self._me))
                result = await self._store.transact(Transaction(then=tuple(Range(key) for key in keys)))
                found = {record.key: record for one in result.results if isinstance(one, RangeResult) for record in one.records}
                owner, alive = found.get(OWNER), found.get(alive_key(self._me))
                if alive is not None and await self._take(owner, alive):
                    return
            await asyncio.sleep(RETRY_S)

    async def _take(self, owner: Record | None, alive: Record) -> bool:
        self._number = msgspec.msgpack.decode(alive.value, type=Alive).incarnation
        if self._number != self._lease.number:
            return False
        if owner is not None:
            try:
                return msgspec.msgpack.decode(owner.value, type=OwnerRecord) == OwnerRecord(self._me, self._number)
            except UNDECODABLE as error:
                raise DataLost(f"the record {OWNER} makes no sense: {error}") from error
        compares = (Compare(OWNER, "modified", "==", 0), Compare(alive.key, "modified", "==", alive.modified))
        put = Put(OWNER, msgspec.msgpack.encode(OwnerRecord(self._me, self._number)), alive.lease)
        return (await self._store.transact(Transaction(compares, (put,)))).succeeded

    async def _watch_lease(self) -> None:
        while self._lease.number == self._number:
            await asyncio.sleep(RETRY_S)
        raise UniosError("the node's lease has ended: somebody else may own the tree of files by now")

    # what was there before

    async def _load(self, writer: LogWriter, replicating: Replicating) -> Owning:
        root = await self._root()
        entries, token = await self._logged(root)
        parts = await asyncio.to_thread(self._snapshot, root)
        return await asyncio.to_thread(self._build, writer, replicating, (root.at, parts, entries, token), asyncio.get_running_loop())

    def _build(
        self, writer: LogWriter, replicating: Replicating, found: tuple[int, list[Changes], list[Entry], str], loop: asyncio.AbstractEventLoop
    ) -> Owning:
        at, parts, entries, token = found
        last = max((entry.at for entry in entries), default=0)
        last = max(last, at)
        journal = Journal.find(self._folder, token, last)
        stage = Stage(self._stage(), fresh=journal is None)
        volume = Volume(stage, journal or Journal.begin(self._folder, last), replicating.tell)
        owning = Owning(self._kernel, replicating, volume)
        owning.read = len(entries)
        for part in parts:
            volume.state.apply(part)
        for entry in entries:
            self._replay(owning, entry, patches=journal is None)
        if journal is not None:
            volume.recall(journal.read(), last)
            used = {staged.slot for _ino, _index, staged in volume.staging.all()}
            stage.keep_only(used)
        else:
            asyncio.run_coroutine_threadsafe(writer.append(encode(Began(volume.journal.token, self._me))), loop).result()
            volume.begin()
            self._tidy_others(volume.journal.token)
        if not volume.state.inodes:
            volume.commit(volume.tree.found(Owner(os.geteuid(), os.getegid()), MODE, time.time_ns()))
        return owning

    def _stage(self) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._folder / "stage"

    async def _root(self) -> RootRecord:
        while True:
            try:
                found = (await self._store.range(ROOT))[0].records
                return msgspec.msgpack.decode(found[0].value, type=RootRecord) if found else RootRecord(b"", 0, 0, "")
            except UNDECODABLE as error:
                raise DataLost(f"the record {ROOT} makes no sense: {error}") from error
            except UniosError:
                await asyncio.sleep(RETRY_S)

    def _snapshot(self, root: RootRecord) -> list[Changes]:
        with Connection(self._kernel.folder.path.parent.parent, self._me, role="files") as connection:
            return list(snapshots.read(connection, root.blocks))

    async def _logged(self, root: RootRecord) -> tuple[list[Entry], str]:
        entries, token = list[Entry](), root.token
        reader = LogReader(self._kernel, LOG)
        with contextlib.suppress(NotFound):
            reader.offset = max(root.offset, (await reader.calls.present()).first)
            while found := await reader.read():
                for data in found:
                    try:
                        written = decode(data)
                    except UNDECODABLE as error:
                        raise DataLost(f"an entry of the log of files makes no sense: {error}") from error
                    if isinstance(written, Began):
                        token = written.token
                    else:
                        entries.append(written)
        return entries, token

    def _replay(self, owning: Owning, entry: Entry, *, patches: bool) -> None:
        while True:
            try:
                owning.volume.replay(entry, patches=patches)
            except NeedBlocks as needed:
                owning.fetched(needed.blocks)
                continue
            return

    async def _snapshots(self, owning: Owning, writer: LogWriter, told: "Told") -> None:
        """Again and again: keep a snapshot, say so, and let go of what is before it in the log."""
        while True:
            await asyncio.sleep(REST_S)
            if told.entries < ENTRIES:
                continue
            try:
                await self._snapshot_now(owning, writer, told)
            except UniosError as error:  # the log grows on meanwhile
                print(f"no snapshot of the tree of files could be made: {error}", flush=True)

    async def _snapshot_now(self, owning: Owning, writer: LogWriter, told: "Told") -> None:
        def take() -> tuple[int, int, bytes]:
            with owning.volume.lock:
                at, parts = owning.volume.snapshot()
                patched = owning.volume.staging.first_patch()
            with owning.connection() as connection:
                return at, patched, snapshots.keep(connection, parts)

        before = await self._root()
        at, patched, names = await asyncio.to_thread(take)
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def there(_error: OSError | None) -> None:
            loop.call_soon_threadsafe(arrived.set_result, None)

        owning.replicating.when(at, there)
        await arrived
        offset = told.after(min(at, patched - 1) if patched else at)
        record = RootRecord(names, offset, at, owning.volume.journal.token)
        mine = Compare(OWNER, "value", "==", msgspec.msgpack.encode(OwnerRecord(self._me, self._number)))
        if not (await self._store.transact(Transaction((mine,), (Put(ROOT, msgspec.msgpack.encode(record)),)))).succeeded:
            raise Unavailable("this node does not own the tree any more")
        told.forget(offset)
        await writer.trim(offset)
        gone = {before.blocks[at : at + NAME_BYTES] for at in range(0, len(before.blocks), NAME_BYTES)}
        gone -= {names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)}
        if gone:
            await self._kernel.call("blocks.drop", OfBlocks(b"".join(gone), USER))

    def _tidy_others(self, token: str) -> None:
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name != token:
                for file in folder.iterdir():
                    file.unlink(missing_ok=True)
                folder.rmdir()

    # mounts

    async def _look_after_mounts(self, owning: Owning) -> None:
        """Serve what is mounted here, and what will be."""
        version, is_first = 0, True
        while True:
            try:
                view = await self._kernel.call("mounts.list", ListMounts(version, WAIT_MS), MountsView, timeout_ms=WAIT_MS + 5_000)
            except UniosError:
                await asyncio.sleep(RETRY_S)
                continue
            version = view.version
            for mount in view.mounts:
                served = owning.mounts.get(mount.number)
                with contextlib.suppress(UniosError):  # the kernel has gone, or the mount: there is another view soon
                    if served is None and mount.held:
                        await self._serve(owning, mount)
                    elif served is not None and not mount.held:
                        await self._give(served, mount)
            if is_first:
                is_first = False
                _drop_orphans(owning.volume)

    async def _give(self, served: LocalMount, mount: MountView) -> None:
        """Give a kernel that has begun anew what it lacks."""
        agreed = msgspec.msgpack.encode(served.channel.session)
        await self._kernel.call_with(served.channel.descriptor, "mounts.give", GiveMount(mount.folder, mount.number, agreed))

    async def _serve(self, owning: Owning, mount: MountView) -> None:
        raw, descriptors = await self._kernel.call_for_descriptors("mounts.open", OpenMount(mount.folder, mount.number))
        seen = msgspec.msgpack.decode(raw, type=MountView)
        loop = asyncio.get_running_loop()

        def keep(agreed: Session) -> None:
            note = self._kernel.call("mounts.note", NoteMount(mount.folder, mount.number, msgspec.msgpack.encode(agreed)), Empty)
            asyncio.run_coroutine_threadsafe(note, loop).result(10)

        def begin() -> None:
            try:
                if seen.agreed:
                    channel = Channel.adopt(descriptors[0], msgspec.msgpack.decode(seen.agreed, type=Session))
                else:
                    channel = Channel.begin(descriptors[0], wanted=session.WANTED | Feature.WRITEBACK_CACHE, keep=keep, again=True)
            except (UniosError, OSError):
                traceback.print_exc()
                os.close(descriptors[0])
                return
            made = LocalMount(mount.number, channel, owning.serving, lambda: self._lease.holds_as(self._number), gone)
            with owning.volume.lock:
                if seen.agreed:
                    made.adopted()
                owning.mounts[mount.number] = made
            made.start()

        def gone(served: LocalMount) -> None:
            owning.mounts.pop(served.number, None)

        await asyncio.to_thread(begin)


def _drop_orphans(volume: Volume) -> None:
    """What has no name, and is known to nobody, is gone."""
    with volume.lock:
        for ino in volume.tree.orphans():
            if not volume.tree.held(ino):
                volume._commit((DropInode(ino),))


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the service of one node."""
    return serve(folder, beat, BEAT_MS / 1000, lambda kernel: Files(kernel).run(), "files")
