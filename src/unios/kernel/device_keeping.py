"""Device keeping: which devices this node has, and which of its trees has which. Each is one tree's alone, and free again when that has ended.

Nothing of it is remembered: what is taken is read from the `tree.json` of every tree that lives, of this node and of the others of the machine. A lock of
the machine's folder is held from the choice until the tree is written down, so that two starts never choose the same.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from unios.core.device_kinds import environment
from unios.core.devices import matches, missing, mistake
from unios.core.nodes import NodeRecord, node_key
from unios.core.processes import ProcessRecord
from unios.demands import Device
from unios.errors import CallerError, NoRoom, NotFound, Unavailable, UniosError
from unios.kernel.devices import Roots
from unios.kernel.runfiles import start_of
from unios.limits import DEVICES_LOCK_S, DEVICES_LOOK_S
from unios.store.model import Compare, Put, Transaction
from unios.wire.ticks import tick

if TYPE_CHECKING:
    from unios.kernel.node import Node


class DeviceKeeping:
    """That of one node. `present`: what there is, as of the last look."""

    def __init__(self, node: "Node", roots: Roots | None = None) -> None:
        self._node = node
        self._roots = roots or Roots()
        self._names = self._roots.names()
        self.present = self._roots.look()

    async def run(self) -> None:
        """See what is plugged in and out, and say so in the node's record."""
        told: tuple[Device, ...] | None = None
        while True:
            await tick(DEVICES_LOOK_S)
            names = self._roots.names()
            if names != self._names:
                self._names, self.present = names, self._roots.look()
            if told != self.present:
                with contextlib.suppress(UniosError):
                    await self._tell(self.present)
                    told = self.present

    async def _tell(self, devices: tuple[Device, ...]) -> None:
        node = self._node
        result, _revision = await node.store.range(node_key(node.name))
        if not result.records:
            raise Unavailable("the node has no record yet")
        record = msgspec.msgpack.decode(result.records[0].value, type=NodeRecord)
        if record.devices != devices and record.state == "joined":
            now = {device.path for device in devices}
            before = {device.path for device in record.devices}
            text = f"devices of {node.name}: {_listed('gone', before - now)}{_listed('there', now - before)}".rstrip("; ")
            put = Put(node_key(node.name), msgspec.msgpack.encode(msgspec.structs.replace(record, devices=devices)))
            compare = Compare(put.key, "modified", "==", result.records[0].modified)
            done = await node.store.transact(Transaction((compare,), (put, node.events.put("device", text))))
            if not done.succeeded:
                raise Unavailable("the node's record has changed meanwhile")

    @contextlib.asynccontextmanager
    async def given(self, record: ProcessRecord) -> AsyncIterator[tuple[Device, ...]]:
        """Choose free devices for a process; they are its own once its tree is written down within. Raises NotFound, NoRoom, Unavailable, CallerError."""
        if not record.resources.devices:
            yield ()
            return
        async with self._locked():
            yield await self._choose(record)

    async def check(self, record: ProcessRecord) -> None:
        """Raise as `given` would now; nothing is given."""
        if record.resources.devices:
            await self._choose(record)

    async def _choose(self, record: ProcessRecord) -> tuple[Device, ...]:
        requests = record.resources.devices
        if mistake(requests):
            raise CallerError(mistake(requests))
        taken = await asyncio.to_thread(lambda: frozenset(self._taken(record.pid)))  # all trees of the machine: thousands of files
        found = matches(requests, self.present, taken)
        if found is None:
            raise (NotFound if matches(requests, self.present) is None else NoRoom)(missing(requests, self.present, taken))
        return found

    async def of(self, pid: int, incarnation: int) -> tuple[Device, ...]:
        """Return the devices that a process which runs here was given."""
        paths = await asyncio.to_thread(_devices_in, self._node.folder.trees / f"{pid}.{incarnation}" / "tree.json")
        known = {device.path: device for device in self.present}
        return tuple(known.get(path) or Device("", path) for path in paths)

    def denied(self, given: tuple[Device, ...]) -> list[tuple[int, int]]:
        """Return (major, minor) of what a process with these devices may not open: what belongs to others of this machine's, and to none of its own."""
        own = {path for device in given for path in (device.path, *device.more)}
        found = {path for device in self.present for path in (device.path, *device.more)} - own
        return sorted(numbers for path in found if (numbers := _numbers(path)) is not None)

    def environment(self, given: tuple[Device, ...]) -> dict[bytes, bytes]:
        """Return the variables that tell a program of its devices."""
        return {name.encode(): os.fsencode(value) for name, value in environment(given, self.present).items()}

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        lock = os.open(self._node.home.path / "devices.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                async with asyncio.timeout(DEVICES_LOCK_S):
                    while not _try_lock(lock):
                        await asyncio.sleep(0.01)
            except TimeoutError:
                raise Unavailable("another start on this machine is choosing devices and does not come to an end") from None
            yield
        finally:
            os.close(lock)

    def _taken(self, pid: int) -> Iterator[str]:
        """Return the devices of all trees that live on this machine, but of an earlier start of the same process here, which is told by the guard.
        Blocking."""
        for folder in self._node.home.nodes():
            for name in os.listdir(folder.trees) if folder.trees.exists() else ():
                if folder.name != self._node.name or name.partition(".")[0] != str(pid):
                    yield from _devices_in(folder.trees / name / "tree.json", living=True)


def _devices_in(tree: Path, *, living: bool = False) -> tuple[str, ...]:
    """Return the devices that a tree was given; with `living` only if it lives."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        text = tree.read_bytes()
        if b'"devices"' in text:  # most have none, and need not be looked at further
            fields = json.loads(text)
            lives = start_of(int(fields["init_pid"])) == int(fields["init_start"]) and not (tree.parent / "exit.json").exists()
            if lives or not living:  # an init may have another tree by now
                return tuple(map(str, fields["devices"]))
    return ()


def _numbers(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        seen = os.stat(path)
        if stat.S_ISCHR(seen.st_mode):
            return os.major(seen.st_rdev), os.minor(seen.st_rdev)
    return None


def _try_lock(lock: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _listed(what: str, paths: set[str]) -> str:
    return f"{what} {', '.join(sorted(paths)[:8])}; " if paths else ""
