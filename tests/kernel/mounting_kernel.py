"""A kernel as far as it keeps mounts: its keeping and its operations, without a door."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from unios.kernel import mount_records
from unios.kernel.callers import Caller
from unios.kernel.mount_keeping import MountKeeping
from unios.kernel.mount_operations import MountOperations
from unios.wire.home import NodeFolder
from unios.wire.mounts import ListMounts, Mount, MountsView, MountView, OpenMount
from unios.wire.peer import Answer

ROOT = Caller("root", 0, True, "n1")
ANN = Caller("ann", 1_000, False, "n1")


class Kernel:
    """One life of a kernel. `wanted`: how often it had the service started."""

    def __init__(self, folder: NodeFolder, give_s: float = 0.0) -> None:
        self.wanted = 0
        self.keeping = MountKeeping(folder, self._want, home=folder.path.parent.parent, give_s=give_s, may_give=lambda: True)
        self.operations = MountOperations(self.keeping)

    def _want(self) -> None:
        self.wanted += 1

    async def do(self, op: str, body: object, *descriptors: int, caller: Caller = ROOT) -> Any:
        left = list(descriptors)
        call: Any = SimpleNamespace(decode=lambda _type: body, descriptors=left, take_descriptors=lambda: [left.pop() for _ in list(left)])
        return await getattr(self.operations, op)(caller, call)

    async def add(self, path: Path) -> MountView:
        return cast(MountView, await self.do("add", Mount(os.fsencode(path))))

    async def list(self, since: int = 0, wait_ms: int = 0) -> MountsView:
        return cast(MountsView, await self.do("list", ListMounts(since, wait_ms)))

    async def until(self, reached: Callable[[MountsView], bool]) -> MountsView:
        view = await self.list()
        while not reached(view):
            view = await self.list(view.version, 10_000)
        return view

    async def open(self, view: MountView) -> int:
        answer: Answer = await self.do("open", OpenMount(view.folder, view.number))
        return answer.descriptors[0]

    async def __aenter__(self) -> "Kernel":
        await self.keeping.run()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.keeping.close()


def on_disk(folder: NodeFolder) -> dict[bytes, int]:
    return {record.folder: record.number for record in mount_records.read(folder)}


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))


def all_held(view: MountsView) -> bool:
    return all(mount.held for mount in view.mounts)
