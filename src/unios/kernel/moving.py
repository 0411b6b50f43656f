"""Moving the store's process to another engine, in place: who is connected stays so, leases go on with their numbers, and a new generation begins.

The target is made ready first, and has nothing. Then what is asked is held, but renewals; all that the source has goes over; the embedded store's file says that
it was left, or that it is the store again, in one transaction with one sync: before that the source is the store, after it the target is, whoever dies. A process
that begins looks at the file before anything else. Only then is what was held asked of the target.
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
from unios.errors import CallerError, OutcomeUnknown, Unavailable, UniosError
from unios.ids import Generation
from unios.kernel import cluster, owner, system
from unios.kernel.system import ETCD, SQLITE, SystemFile
from unios.store import everything
from unios.store.host import StoreHost
from unios.store.requests import MoveRequest
from unios.store.returned import NoRoom, Return
from unios.store.server import FILE, Requests, Restores, side_of
from unios.store.sqlite import SqliteEngine
from unios.store.switch import Side, Switch
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
        self._tidying: asyncio.Task[None] | None = None
        self._staying: asyncio.Task[None] | None = None

    async def __call__(self, switch: Switch, request: MoveRequest) -> str:
        """Move it; return which engine it has then. Raises CallerError, Unavailable: nothing has changed."""
        to = request.to
        if to in ("", self._engine):
            return self._engine
        if to not in (SQLITE, ETCD):
            raise CallerError(f"the store cannot be moved from {self._engine} to {to[:80]}")
        try:
            await (self._to_etcd(switch) if to == ETCD else self._to_sqlite(switch, request))
        except TimeoutError as error:
            raise Unavailable(f"the store stays where it is: {str(error) or 'it took too long'}") from error
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"the store stays where it is: {error}") from error
        return self._engine

    async def _to_etcd(self, switch: Switch) -> None:
        source = switch.side.requests
        found = cluster.read(self._home)
        if not isinstance(source, Requests) or found is None or not found.members or owner.is_owned(self._home):
            raise CallerError("this machine has no etcd that the store could be moved to: `unios store move etcd` makes one ready first")
        address = await asyncio.to_thread(cluster.address_of, self._home, found)
        server: Any = await asyncio.to_thread(importlib.import_module, "unios.store.etcd.server")
        gateway: Gateway = server.gateway_to(address, following(self._home) if found.managed else None, found.quota_bytes)
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
            await gateway.adopt(found._replace(records=tuple(record for record in found.records if moving.goes_along(record.key))))
        except BaseException:
            host.thaw()
            raise
        try:
            host.leave(ETCD)
        except sqlite3.Error as error:  # what the disk has of it decides, and it is this process's successor that reads it
            print(f"the store's file could not be left: {error}", file=sys.stderr, flush=True)
            os._exit(DIES)
        self._now_in(ETCD)

    async def _to_sqlite(self, switch: Switch, request: MoveRequest) -> None:
        source: Any = switch.side.requests
        gateway: Gateway = source.gateway
        known = system.read(self._home.system_file, SystemFile)
        back = Return(str(self._home.store / FILE), ETCD, known.moves)
        if self._staying is not None:  # what it takes back must not be what this attempt writes
            await asyncio.wait_for(asyncio.shield(self._staying), READY_S)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(PAUSE_S):
                    await stack.enter_async_context(switch.held())
                    await gateway.freeze()
                    found = await gateway.everything()
                    moving.check(((record.key, record.value) for record in found.records), {known.machine, *request.machines})
                    kept = found._replace(records=tuple(record for record in found.records if moving.goes_along(record.key)))
                    await _to_its_end(lambda: back.prepare(kept, Generation(os.urandom(8).hex())))
                    await self._announce(gateway, request.attempt)
                side = await self._decide_return(back, source.restores)
            except BaseException:
                gateway.thaw()
                back.close()
                if request.attempt:
                    self._staying = asyncio.get_running_loop().create_task(stay(gateway, known.machine))
                raise
            switch.put(side, asyncio.get_running_loop().create_task(side.run()))
            gateway.leave()
        self._now_in(SQLITE)
        found_cluster = cluster.read(self._home)
        if found_cluster is not None and not found_cluster.managed:
            self._tidying = asyncio.get_running_loop().create_task(self._tidy(found_cluster, tuple(found.leases)))

    async def _decide_return(self, back: Return, restores: Restores) -> Side:
        """Have the file be the store, and return it as what stands behind the socket. What fails here ends this process: its successor reads what the disk has.
        Raises NoRoom: nothing has happened."""
        try:
            await asyncio.to_thread(back.decide)  # renewals are answered meanwhile, and a slow disk is no reason to be killed
            await asyncio.to_thread(back.close)
            return side_of(await asyncio.to_thread(SqliteEngine, self._home.store / FILE, Generation("")), restores)
        except NoRoom:
            raise
        except BaseException as error:  # noqa: BLE001 whatever it is
            print(f"the store's file could not be opened again: {error}", file=sys.stderr, flush=True)
            os._exit(DIES)

    async def _announce(self, gateway: "Gateway", attempt: str) -> None:
        """Have etcd say that the store is about to go, if others may ask it. Whether a lost answer has done so is for the one who takes it back."""
        if attempt:
            try:
                await gateway.about_to_leave(attempt)
            except OutcomeUnknown as error:
                raise Unavailable(f"the store stays where it is: {error}") from error

    async def _tidy(self, found: cluster.Cluster, leases: tuple[int, ...]) -> None:
        """Take what the system had away from an etcd that others have too; if that cannot be, it does no harm there."""
        server: Any = await asyncio.to_thread(importlib.import_module, "unios.store.etcd.server")
        gateway: Gateway = server.gateway_to(cluster.address_of(self._home, found))
        with contextlib.suppress(UniosError):
            await gateway.forget(leases)
        await gateway.close()

    def _now_in(self, engine: str) -> None:
        self._engine = engine
        if not self._note():
            self._noting = asyncio.get_running_loop().create_task(self._keep_noting())

    def _note(self) -> bool:
        with contextlib.suppress(OSError, UniosError):
            return system.note_engine(self._home.system_file, self._engine)
        return False

    async def _keep_noting(self) -> None:
        while not self._note():
            await asyncio.sleep(NOTE_S)


async def stay(gateway: "Gateway", machine: str) -> None:
    """Have etcd say that the store has not gone by an attempt of this machine, however long that takes."""
    while True:
        with contextlib.suppress(UniosError):
            return await gateway.stay(machine)
        await asyncio.sleep(NOTE_S)


async def _to_its_end(work: Callable[[], None]) -> None:
    """Do it in a thread, and return or raise when it has ended, also if it is not wanted any more by then."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def following(home: Home) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Return what a gateway to our own cluster tells of its members: they are kept for the next one."""

    def moved(members: tuple[str, ...]) -> tuple[str, ...]:
        with contextlib.suppress(OSError, Unavailable):  # a full disk: the next change is written, and one member that is known leads to all
            cluster.change(home, lambda kept: msgspec.structs.replace(kept, members=members))
        return cluster.nearest_first(members)

    return moved
