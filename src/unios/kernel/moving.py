"""Moving the store's process to another engine, in place: who is connected stays so, leases go on with their numbers, and a new generation begins.

The target is made ready first, and has nothing. Then what is asked is held, but renewals; all that the source has goes over; the source's file says that it was
left, in one transaction with one sync: before that the source is the store, after it the target is, whoever dies. A process that begins with the file looks
at that before anything else. Only then is what was held asked of the target.
"""

import asyncio
import contextlib
import importlib
import os
import sqlite3
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from unios.core import moving
from unios.errors import CallerError, Unavailable, UniosError
from unios.kernel import cluster, owner, system
from unios.kernel.system import ETCD, SQLITE, SystemFile
from unios.store import everything
from unios.store.host import StoreHost
from unios.store.server import Requests
from unios.store.switch import Switch
from unios.wire.home import Home

if TYPE_CHECKING:
    from unios.store.etcd.gateway import Gateway

READY_S: Final = 20.0
"""So long a cluster is waited for that has just begun."""
PAUSE_S: Final = 3.0
"""The longest that everything is held: who asks the store waits for five seconds."""
NOTE_S: Final = 1.0
DIES: Final = 70


class Mover:
    """That of one machine's process of the store."""

    def __init__(self, home: Home, engine: str = SQLITE) -> None:
        """`engine`: which it begins with."""
        self._home = home
        self._engine = engine
        self._noting: asyncio.Task[None] | None = None

    async def __call__(self, switch: Switch, to: str) -> str:
        """Move it; return which engine it has then. Raises CallerError, Unavailable: nothing has changed."""
        if to in ("", self._engine):
            return self._engine
        if to != ETCD:
            raise CallerError(f"the store cannot be moved from {self._engine} to {to[:80]}")
        try:
            await self._to_etcd(switch)
        except (TimeoutError, OSError, sqlite3.Error) as error:
            raise Unavailable(f"the store stays where it is: {error or 'etcd took too long'}") from error
        return self._engine

    async def _to_etcd(self, switch: Switch) -> None:
        source = switch.side.requests
        found = cluster.read(self._home)
        if not isinstance(source, Requests) or found is None or not found.members or owner.is_owned(self._home):
            raise CallerError("this machine has no etcd that the store could be moved to: `unios store move etcd` makes one ready first")
        address = await asyncio.to_thread(cluster.address_of, self._home, found)
        server: Any = await asyncio.to_thread(importlib.import_module, "unios.store.etcd.server")
        gateway: Gateway = server.gateway_to(address, following(self._home, found) if found.managed else None, found.quota_bytes)
        running = asyncio.get_running_loop().create_task(gateway.run())
        try:
            await gateway.begun(READY_S)
            async with asyncio.timeout(PAUSE_S), switch.held():  # once it is decided nothing is waited for, so that this does not end it
                await self._carry(source.host, gateway)
                switch.put(server.side_of(gateway, source.restores), running)
        except BaseException:
            running.cancel()
            await gateway.close()
            raise

    async def _carry(self, host: StoreHost, gateway: "Gateway") -> None:
        """Take all over and decide it."""
        try:
            await host.freeze()
            found = await asyncio.to_thread(everything.read, host.path)
            machine = system.read(self._home.system_file, SystemFile).machine
            moving.check(((record.key, record.value) for record in found.records), machine)
            await gateway.adopt(found._replace(records=tuple(record for record in found.records if moving.goes_along(record.key))))
        except BaseException:
            host.thaw()
            raise
        try:
            host.leave(ETCD)
        except sqlite3.Error as error:  # what the disk has of it decides, and it is this process's successor that reads it
            print(f"the store's file could not be left: {error}", file=sys.stderr, flush=True)
            os._exit(DIES)
        self._engine = ETCD
        if not self._note():
            self._noting = asyncio.get_running_loop().create_task(self._keep_noting())

    def _note(self) -> bool:
        with contextlib.suppress(OSError, UniosError):
            system.note_engine(self._home.system_file, self._engine)
            return True
        return False

    async def _keep_noting(self) -> None:
        while not self._note():
            await asyncio.sleep(NOTE_S)


def following(home: Home, found: cluster.Cluster) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Return what a gateway to our own cluster tells of its members: they are kept for the next one."""
    kept = found

    def moved(members: tuple[str, ...]) -> tuple[str, ...]:
        nonlocal kept
        kept = msgspec.structs.replace(kept, members=members)
        with contextlib.suppress(OSError):  # a full disk: the next change is written, and one member that is known leads to all
            cluster.write(home, kept)
        return cluster.nearest_first(members)

    return moved
