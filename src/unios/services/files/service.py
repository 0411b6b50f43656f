"""The file service: a node's part in the tree of files. One per node, there while the node has mounts.

Whoever takes /files/owner in the store, under its node's lease, owns the tree: its journal goes to the log `files`, which another machine has too, and who owns it
next goes on from there. The others pass on to it what their mounts are asked. What the tree is after a crash of the owner's process alone is in the journal on
its node's disk (journal.py).
"""

import asyncio
import contextlib
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

import msgspec

from unios.client.aio import Kernel, serve
from unios.client.log import LogWriter
from unios.core.files.changes import DropInode
from unios.errors import UniosError
from unios.fuse import session
from unios.fuse.channel import Channel
from unios.fuse.session import Session
from unios.limits import BEAT_MS
from unios.services.files.claiming import OWNER, Claim, OwnerRecord
from unios.services.files.loading import LOG, load
from unios.services.files.mounts import LocalMount
from unios.services.files.owning import Owning
from unios.services.files.replicating import Replicating
from unios.services.files.rooting import Rooting, root_of
from unios.services.files.visiting import Visiting, VisitingMount
from unios.services.files.visitors import GRACE_S, Visitors
from unios.store.client import StoreClient
from unios.store.mirror import Mirror
from unios.wire.filing import PORT
from unios.wire.home import NodeFolder
from unios.wire.mounts import GiveMount, ListMounts, Mount, MountsView, MountView, NoteMount, OfMount, OpenMount, Unmounted
from unios.wire.operations import Empty

RETRY_S: Final = 0.05
AGAIN_S: Final = 0.25
"""After a tree without an owner could not be taken, since somebody else was first or this node's lease is not there: what is known of that is on its way."""
WAIT_MS: Final = 20_000


class Agreed(msgspec.Struct, frozen=True):
    """What the kernel keeps of a mount for the next service: what was agreed at INIT, and whether its Linux keeps what it was told, as the owner's does."""

    session: Session
    keeps: bool


class Files:
    """The service."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._store = StoreClient(lambda: kernel.connect("store"))
        self._claim = Claim(kernel, self._store)
        self._serving: dict[int, Any] = {}
        """The mounts that are served here, by their numbers."""
        self._keeps, self._is_continuous = False, False
        """Whether mounts are served here as the owner's; and whether nobody else has owned the tree since they were so last."""

    async def run(self) -> bool:
        """Serve until cancelled, or until this node's part changes: the next life begins with the other part."""
        won = await self._won()
        if won:
            await self._own()
        else:
            await self._visit()
        return False

    async def _won(self) -> bool:
        """Return whether this node owns the tree, once that is known."""
        while True:
            with contextlib.suppress(UniosError):
                found = await self._claim.win()
                if found is not None:
                    return found
            await asyncio.sleep(RETRY_S)

    async def _own(self) -> None:
        self._keeps = True
        writer = await LogWriter.open(self._kernel, LOG, least=1)
        replicating = Replicating()
        owning = await load(self._kernel, await root_of(self._store), writer, replicating)
        self._serving, self._is_continuous = owning.mounts, owning.is_continuous
        threading.Thread(target=owning.look, name="look", daemon=True).start()
        rooting = Rooting(self._kernel, self._store, self._claim, owning, writer)
        visitors = Visitors(owning, lambda: self._claim.holds)
        await self._kernel.listen(PORT, 0o600, visitors.serve)
        async with asyncio.TaskGroup() as group:
            group.create_task(replicating.run(writer, rooting.places.add))
            group.create_task(rooting.run())
            group.create_task(self._look_after_mounts(lambda view, descriptor: self._local(owning, view, descriptor)))
            group.create_task(self._tidy_later(owning, visitors))
            group.create_task(self._watch_lease())

    async def _tidy_later(self, owning: Owning, visitors: Visitors) -> None:
        await asyncio.sleep(GRACE_S)
        await asyncio.to_thread(tidy, owning, visitors)

    async def _watch_lease(self) -> None:
        while self._claim.stands:
            await asyncio.sleep(RETRY_S)
        raise UniosError("the node's lease has ended: somebody else may own the tree of files by now")

    async def _visit(self) -> None:
        visiting = Visiting(self._kernel)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            mounts = group.create_task(self._look_after_mounts(lambda view, descriptor: self._visitor(visiting, view, descriptor, loop)))
            owner = Mirror(self._store, OWNER, OwnerRecord)
            watching = group.create_task(owner.run())
            await owner.wait_complete()
            while await owner.wait_for(OWNER, lambda found: found is None) or not await self._may_own():
                await asyncio.sleep(AGAIN_S)
            watching.cancel()
            mounts.cancel()

    async def _may_own(self) -> bool:
        with contextlib.suppress(UniosError):
            return bool(await self._claim.win())
        return False

    # mounts

    async def _look_after_mounts(self, begin: Callable[[MountView, int], None]) -> None:
        """Serve what is mounted here, and what will be."""
        version = 0
        while True:
            try:
                view = await self._kernel.call("mounts.list", ListMounts(version, WAIT_MS), MountsView, timeout_ms=WAIT_MS + 5_000)
            except UniosError:
                await asyncio.sleep(RETRY_S)
                continue
            version = view.version
            for mount in sorted(view.mounts, key=lambda mount: not _kept(mount)):
                served = self._serving.get(mount.number)
                with contextlib.suppress(UniosError):  # the kernel has gone, or the mount: there is another view soon
                    if served is None and mount.held:
                        await self._serve(mount, begin)
                    elif served is not None and not mount.held:
                        await self._give(served.channel, mount)

    async def _give(self, channel: Channel, mount: MountView) -> None:
        """Give a kernel that has begun anew what it lacks."""
        agreed = msgspec.msgpack.encode(Agreed(channel.session, self._serving[mount.number].keeps))
        await self._kernel.call_with(channel.descriptor, "mounts.give", GiveMount(mount.folder, mount.number, agreed))

    async def _serve(self, mount: MountView, begin: Callable[[MountView, int], None]) -> None:
        raw, descriptors = await self._kernel.call_for_descriptors("mounts.open", OpenMount(mount.folder, mount.number))
        view = msgspec.msgpack.decode(raw, type=MountView)
        agreed = msgspec.msgpack.decode(view.agreed, type=Agreed) if view.agreed else None
        if agreed is not None and agreed.keeps and not self._is_continuous:
            os.close(descriptors[0])
            await self._anew(view)
            return
        keeps = self._may_keep(view)
        if agreed is not None and agreed.keeps != keeps:
            await self._note(view, Agreed(agreed.session, keeps))

        def work() -> None:
            try:
                begin(view, descriptors[0])
            except (UniosError, OSError):
                traceback.print_exc()
                os.close(descriptors[0])

        await asyncio.to_thread(work)

    def _may_keep(self, view: MountView) -> bool:
        """Return whether a mount's Linux may keep what it is told: of the owner's mounts one's may, that of which a predecessor's did."""
        return self._keeps and not any(served.keeps for served in self._serving.values())

    async def _anew(self, view: MountView) -> None:
        """What its Linux keeps may be old: somebody else has owned the tree since. Who has something open there gets an error."""
        print(f"{os.fsdecode(view.folder)} is mounted anew: another node has owned the tree of files meanwhile", flush=True)
        await self._kernel.call("mounts.remove", OfMount(view.folder), Unmounted)
        await self._kernel.call("mounts.add", Mount(view.folder), MountView)

    async def _note(self, view: MountView, agreed: Agreed) -> None:
        await self._kernel.call("mounts.note", NoteMount(view.folder, view.number, msgspec.msgpack.encode(agreed)), Empty)

    def _channel(self, view: MountView, descriptor: int, loop: asyncio.AbstractEventLoop) -> Channel:
        """Go on where a predecessor was, or begin; in a thread."""
        if view.agreed:
            return Channel.adopt(descriptor, msgspec.msgpack.decode(view.agreed, type=Agreed).session)

        def keep(agreed: Session) -> None:
            asyncio.run_coroutine_threadsafe(self._note(view, Agreed(agreed, self._may_keep(view))), loop).result(10)

        return Channel.begin(descriptor, wanted=session.WANTED, keep=keep, again=True)

    def _gone(self, mount: LocalMount | VisitingMount) -> None:
        self._serving.pop(mount.number, None)

    def _local(self, owning: Owning, view: MountView, descriptor: int) -> None:
        keeps = self._may_keep(view)
        channel = self._channel(view, descriptor, owning.loop)
        made = LocalMount(view.number, channel, owning.serving, lambda: self._claim.holds, self._gone, keeps=keeps)
        with owning.volume.lock:
            if view.agreed:
                made.adopted()
            owning.mounts[view.number] = made
        made.start()

    def _visitor(self, visiting: Visiting, view: MountView, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        channel = self._channel(view, descriptor, loop)
        made = VisitingMount(view.number, channel, visiting, loop, lambda: self._claim.lease.holds, self._gone, known=bool(view.agreed))
        self._serving[view.number] = made
        made.start()


def _kept(mount: MountView) -> bool:
    return bool(mount.agreed) and msgspec.msgpack.decode(mount.agreed, type=Agreed).keeps


def tidy(owning: Owning, visitors: Visitors) -> None:
    """After a while in which all mounts have come back: what has no name and is known to nobody is gone, and so are the locks of mounts that are no more."""
    with owning.volume.lock:
        there = {*owning.mounts, *visitors.numbers}
        for number in {lock.mount for locks in owning.volume.state.locks.values() for lock in locks} - there:
            owning.serving.locking.gone(number)
        for ino in owning.volume.tree.orphans():
            if not owning.volume.tree.held(ino):
                owning.volume.drop(DropInode(ino))


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the service of one node."""
    return serve(folder, beat, BEAT_MS / 1000, lambda kernel: Files(kernel).run(), "files")
