"""Mount keeping: the mounts of FUSE that this node has, whose descriptors this kernel holds beside the service that serves them (decision 0060).

- Who has the descriptor keeps the mount alive: kernel or service may die, and gets it from the other. When both are gone it is mounted anew.
- A mount is on disk as a record before anybody is told that it is there, and as none before it is taken away.
- An act is done by a thread, for itself, whoever has given up waiting for it: a descriptor that nobody knows of would be a mount that hangs for ever.
- Nothing here ever looks into a mount: who serves it may wait for this kernel.

Decides nothing about files. `MountTable` is the books, `MountKeeping` what is done.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from unios.errors import CallerError, NoRoom, NotFound, Unavailable, UniosError
from unios.fuse import mounting
from unios.kernel import mount_records, runfiles
from unios.kernel.disk_threads import DiskThreads
from unios.kernel.mount_records import MountRecord
from unios.kernel.runfiles import complain
from unios.mount_limits import MOUNT_GIVE_S, MOUNTS_MAX
from unios.wire.home import NodeFolder
from unios.wire.mounts import MountsView, MountView

T = TypeVar("T")
THREADS = 8


class MountTable:
    """What is shown of the mounts, by folder. `version` changes with each change."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._views: dict[bytes, MountView] = {}
        self._changed = asyncio.Event()

    def view(self) -> MountsView:
        return MountsView(self.version, tuple(self._views[folder] for folder in sorted(self._views)))

    def get(self, folder: bytes) -> MountView | None:
        return self._views.get(folder)

    def folders(self) -> list[bytes]:
        return list(self._views)

    def current(self, folder: bytes, number: int) -> MountView:
        """Return the mount with this number. Raises NotFound if there is none, or another is there by now."""
        found = self._views.get(folder)
        if found is None or found.number != number:
            raise NotFound(f"{os.fsdecode(folder)} is not mounted here" if found is None else f"{os.fsdecode(folder)} was mounted anew meanwhile")
        return found

    def put(self, view: MountView) -> None:
        if self._views.get(view.folder) != view:
            self._views[view.folder] = view
            self._tell()

    def remove(self, folder: bytes) -> None:
        if self._views.pop(folder, None) is not None:
            self._tell()

    def _tell(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_changed(self, since: int, seconds: float) -> None:
        """Return when the version is another one, or after `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        while self.version == since and (left := until - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return


class MountKeeping:
    """Those of one node. `want()` has the service started; `may_give()`: whether there is one that may have descriptors of before."""

    def __init__(
        self,
        folder: NodeFolder,
        want: Callable[[], None],
        *,
        home: Path | None = None,
        give_s: float = MOUNT_GIVE_S,
        may_give: Callable[[], bool] | None = None,
    ) -> None:
        self._may_give = may_give or (lambda: has_elder(folder))
        self._folder, self._want, self._give_s = folder, want, give_s
        self._home = (home or folder.path).resolve()
        self._threads, self._writer = DiskThreads(THREADS, "mounts"), DiskThreads(1, "mount-records")
        self.table = MountTable(secrets.randbits(61) + 1)
        self._numbers = {record.folder: record.number for record in mount_records.read(folder)}
        """The records, as they are on disk or about to be."""
        self._descriptors: dict[bytes, int] = {}
        self._locks: weakref.WeakValueDictionary[bytes, asyncio.Lock] = weakref.WeakValueDictionary()
        """Of each folder with which something is done."""
        self._writing = asyncio.Lock()
        self._given: dict[bytes, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        for each, number in self._numbers.items():
            self.table.put(MountView(each, number, held=False))

    async def run(self) -> None:
        """Have again what was mounted before: what is given back, and the rest anew."""
        if self._numbers:
            self._want()
        for folder in list(self._numbers):
            self._begin(self._revive(folder))

    def _begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it is told, and if nobody does it is no news

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it to its end, also if who asked for it has gone."""
        return await asyncio.shield(self._begin(work))

    def _lock(self, folder: bytes) -> asyncio.Lock:
        return self._locks.setdefault(folder, asyncio.Lock())

    # what is asked

    async def add(self, folder: bytes) -> MountView:
        """Mount on a folder, on disk before it is answered; what is mounted there already is only told. Raises what `mounting.mount` raises."""
        return await self._whole(self._add(await self._reached(folder)))

    async def remove(self, folder: bytes) -> bool:
        """Take a mount away for good; return whether there was one. Idempotent."""
        place = folder if folder in self._numbers else await self._reached(folder)
        return place in self._numbers and await self._whole(self._remove(place))

    def open(self, folder: bytes, number: int) -> tuple[MountView, int]:
        """Return the mount and a duplicate of its descriptor, the caller's to close. Raises NotFound, Unavailable."""
        view = self.table.current(folder, number)
        if folder not in self._descriptors:
            raise Unavailable(f"{os.fsdecode(folder)} is not mounted just now")
        try:
            return view, os.dup(self._descriptors[folder])
        except OSError as error:
            raise Unavailable(f"the descriptor of {os.fsdecode(folder)} cannot be given: {error.strerror}") from error

    def note(self, folder: bytes, number: int, agreed: bytes) -> None:
        """Keep what the service says of INIT. Raises NotFound."""
        self.table.put(msgspec.structs.replace(self.table.current(folder, number), agreed=agreed))

    def give(self, folder: bytes, number: int, agreed: bytes, descriptor: int) -> None:
        """Take the descriptor of a mount of before, the keeping's from now on; closed if there is one already. Raises NotFound, and then it is closed too."""
        try:
            view = self.table.current(folder, number)
        except NotFound:
            os.close(descriptor)
            raise
        if folder in self._descriptors:
            os.close(descriptor)
        else:
            self._descriptors[folder] = descriptor
        self.table.put(msgspec.structs.replace(view, held=True, agreed=agreed or view.agreed))
        if given := self._given.get(folder):
            given.set()

    # what is done

    async def _reached(self, folder: bytes) -> bytes:
        return os.fsencode(await self._threads.do(mounting.reached, Path(os.fsdecode(folder))))

    def _check(self, folder: bytes) -> None:
        """Raise for where nothing may be mounted, or for one mount too many."""
        path = Path(os.fsdecode(folder))
        if path.is_relative_to(self._home) or self._home.is_relative_to(path):
            raise CallerError(f"{path} and {self._home}, where the system keeps what is its own, may not be one in the other")
        for other in map(Path, map(os.fsdecode, self._numbers)):
            if other != path and (other.is_relative_to(path) or path.is_relative_to(other)):
                raise CallerError(f"{path} and {other}, which is to be mounted too, may not be one in the other")
        if folder not in self._numbers and len(self._numbers) >= MOUNTS_MAX:
            raise Unavailable(f"{self._folder.name} has {MOUNTS_MAX} mounts, which is the limit: remove one first")

    async def _add(self, folder: bytes) -> MountView:
        async with self._lock(folder):
            self._check(folder)
            if folder in self._descriptors and await self._is_there(folder):
                self._want()
                return self.table.current(folder, self._numbers[folder])
            is_new = folder not in self._numbers
            try:
                view = await self._mount(folder)
            except Exception:
                if is_new:
                    del self._numbers[folder]
                    self.table.remove(folder)
                    with contextlib.suppress(UniosError):  # what was never acknowledged is tried again by the next kernel then
                        await self._write()
                raise
            self._want()
            return view

    async def _remove(self, folder: bytes) -> bool:
        async with self._lock(folder):
            number = self._numbers.pop(folder, 0)
            if not number:
                return False
            try:
                await self._write()
            except UniosError:
                self._numbers[folder] = number
                raise
            self.table.remove(folder)
            try:
                await self._unmount(folder, number)
            finally:
                self._close(folder)
        return True

    async def _revive(self, folder: bytes) -> None:
        """Wait for the descriptor of a mount of before, which its service may have; mount anew what is not given."""
        given = self._given[folder] = asyncio.Event()
        async with self._lock(folder):
            try:
                if self._may_give() and await self._is_there(folder):
                    if folder not in self._descriptors:
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(given.wait(), self._give_s)
                    if folder in self._descriptors:
                        return
                await self._mount(folder)
            except (UniosError, OSError) as error:
                complain(f"{os.fsdecode(folder)} cannot be mounted again: {error}")
            finally:
                del self._given[folder]

    async def _mount(self, folder: bytes) -> MountView:
        """Mount under a new number, in the place of what was there of ours. The folder's lock is held."""
        before, number = self._numbers.get(folder, 0), secrets.randbits(62) + 1
        self._numbers[folder] = number
        self.table.put(MountView(folder, number, held=False))  # from now on nobody gives what was there before
        self._close(folder)
        if before:
            await self._unmount(folder, before)
        await self._write()
        source = mount_records.source_of(number)
        self._descriptors[folder] = await self._threads.do(lambda: mounting.mount(Path(os.fsdecode(folder)), source=source))
        view = MountView(folder, number)
        self.table.put(view)
        return view

    async def _unmount(self, folder: bytes, number: int) -> None:
        await self._threads.do(lambda: mounting.unmount(Path(os.fsdecode(folder)), source=mount_records.source_of(number)))

    async def _is_there(self, folder: bytes) -> bool:
        """Whether what is mounted there is what the record says, alive or dead."""
        there = await self._threads.do(mounting.source_of, Path(os.fsdecode(folder)))
        return there == mount_records.source_of(self._numbers[folder])

    def _close(self, folder: bytes) -> None:
        if (descriptor := self._descriptors.pop(folder, -1)) >= 0:
            os.close(descriptor)

    async def _write(self) -> None:
        """Return when the records are on disk as they are now. Raises NoRoom, Unavailable."""
        async with self._writing:
            records = [MountRecord(folder, number) for folder, number in self._numbers.items()]
            try:
                await self._writer.do(mount_records.write, self._folder, records)
            except OSError as error:
                refusal = NoRoom if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
                raise refusal(f"the mounts of {self._folder.name} cannot be written down: {error.strerror}") from error

    def close(self) -> None:
        """Give back the descriptors: who else has them keeps the mounts alive."""
        for task in self._tasks:
            task.cancel()
        for folder in list(self._descriptors):
            self._close(folder)
        self._threads.close()
        self._writer.close()


def has_elder(folder: NodeFolder) -> bool:
    """Return whether a node's file service lives that began before this process: one that began later has nothing of before."""
    service = runfiles.read(folder.run / "files.json")
    return service is not None and service.start < runfiles.start_of(os.getpid())
