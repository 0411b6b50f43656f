"""The kernel's operations on the system's store: status, backup, restore.

A restore is done while the nodes are up, and refused while processes are: the members of the system's own etcd are parts of its nodes, so with those down
there is nothing to restore into, and data folders put back under members could make a second cluster. It is one transaction and a new generation: whoever
watches reads everything anew, leases go on, so no node is lost by it.

Where the embedded store's file is lost, it is made from the backup, and the store's process, which did not begin without it, begins.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from unios import __version__, durable
from unios.core import restoring
from unios.errors import CallerError, Denied, OutcomeUnknown, Unavailable, UniosError
from unios.ids import Generation
from unios.kernel import backups, cluster
from unios.kernel.callers import Caller
from unios.kernel.system import SQLITE
from unios.store.client import StoreClient
from unios.store.model import Delete, Put, Traffic
from unios.store.requests import Health
from unios.store.sqlite import Restore as RestoreJob
from unios.store.sqlite import SqliteEngine
from unios.wire.keeping import BackedUp, BackUp, Restore, Restored, StoreMember, StoreView
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

TIMEOUT_MS: Final = 10_000
COPIES_MAX: Final = 3


def _rows(rows: dict[str, Traffic]) -> dict[str, tuple[int, int, int]]:
    return {name: (row.messages, row.bytes, row.events) for name, row in rows.items()}


class StoreOperations:
    """Serves `store.*`."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._restoring = asyncio.Lock()

    def _client(self) -> StoreClient:
        """Return a client of its own: what much data waits for must not stand in the way of the node's lease."""
        return StoreClient(self._node.store_way.peer, timeout_ms=TIMEOUT_MS)

    async def status(self, caller: Caller, call: Call) -> object:
        """How the store stands; of an etcd, each member as it says itself."""
        node = self._node
        kept = cluster.read(node.home) if node.system.gateway else None
        view = StoreView(node.system.engine, managed=node.quorum.offer is not None or bool(kept and kept.managed))
        client = self._client()
        trouble, health, figures = "", Health(), None
        try:
            health = await client.health()
            figures = await client.statistics()
        except UniosError as error:
            trouble = str(error)
        finally:
            await client.close()
        names = {record.etcd.peer: record.name for record in node.nodes.values.values() if record.etcd is not None}
        members = tuple(
            StoreMember(
                names.get(one.peer, one.name or one.peer),
                one.id,
                one.answers,
                one.leader,
                one.learner,
                one.version,
                one.bytes,
                one.used_bytes,
                one.alarm,
                one.trouble,
            )
            for one in health.members
        )
        if figures is None:
            return StoreView(view.engine, view.managed, quota_bytes=health.quota_bytes, members=members, trouble=trouble)
        return StoreView(
            view.engine,
            view.managed,
            figures.revision.generation,
            figures.revision.number,
            figures.compacted,
            figures.keys,
            figures.leases,
            figures.bytes,
            health.quota_bytes,
            members,
            trouble,
            *(_rows(rows) for rows in (figures.asked, figures.told, figures.etcd)),
        )

    async def backup(self, caller: Caller, call: Call) -> object:
        """Write all records, as they are at one revision, into a file here."""
        path = _path(caller, call.decode(BackUp).path)
        node = self._node
        client = self._client()
        try:
            for left in reversed(range(COPIES_MAX)):
                try:
                    made = backups.Header(node.system.id, node.system.engine, __version__, node.wall_ms(), "", 0)
                    written = await backups.write(path, client.dump(), made)
                    break
                except (Unavailable, OutcomeUnknown):  # the store goes to another engine, or is asked another way from now on
                    if not left:
                        raise
                    await client.statistics()
        finally:
            await client.close()
        return BackedUp(str(path), written.number, written.records, written.bytes)

    async def restore(self, caller: Caller, call: Call) -> object:
        """Have the store return to a backup. Raises CallerError while processes live, or for a file that is none of this system."""
        path = _path(caller, call.decode(Restore).path)
        if self._restoring.locked():
            raise Unavailable("a restore is under way: wait for it")
        async with self._restoring:
            header, records = await asyncio.to_thread(backups.read, path)
            if header.system != self._node.system.id:
                raise CallerError(
                    f"{path} is a backup of another system ({header.system}); this one is {self._node.system.id}: its nodes have other names and keys"
                )
            made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(header.made_ms / 1000))
            if self._is_lost():
                return await self._make_anew(records, header.made_ms, made)
            return await self._return(records, header.made_ms, made)

    async def _return(self, records: dict[str, bytes], made_ms: int, made: str) -> Restored:
        node, client = self._node, self._client()
        try:
            present = {record.key: record.value async for page in client.dump() for record in page.records if not record.lease}
            plan = await asyncio.to_thread(restoring.plan, records, present, made=made, now_ms=node.wall_ms())
            await client.restore(_operations(plan))
            event = node.events.put("store", f"the store was restored to the backup of {made}{_lost(plan.lost)}")
            await client.put(event.key, event.value)
        finally:
            await client.close()
        return Restored(made_ms, len(records), len(plan.puts) + len(plan.deletes), plan.lost)

    def _is_lost(self) -> bool:
        """Whether this machine's embedded store had a file and has none any more."""
        system, folder = self._node.system, self._node.home.store
        here = system.engine == SQLITE and system.store_machine == system.machine
        return here and bool(system.generation) and not (folder / "store.db").exists()

    async def _make_anew(self, records: dict[str, bytes], made_ms: int, made: str) -> Restored:
        node = self._node
        plan = restoring.plan(records, {}, made=made, now_ms=node.wall_ms(), is_lost=True)
        event = node.events.put("store", f"the store's file was made anew from the backup of {made}{_lost(plan.lost)}")
        await asyncio.to_thread(make_file, node.home.store, (*_operations(plan), event))
        return Restored(made_ms, len(records), len(plan.puts), plan.lost)


def make_file(folder: Path, operations: tuple[Put | Delete, ...]) -> None:
    """Make the store's file with these records; it is there whole or not at all. Blocks. Raises CallerError if one is there."""
    part, path = folder / "restored.db", folder / "store.db"
    for left in ("restored.db", "restored.db-wal", "restored.db-shm"):  # of one that was broken off
        (folder / left).unlink(missing_ok=True)
    engine = SqliteEngine(part, Generation(os.urandom(8).hex()))
    try:
        outcome = engine.run([RestoreJob(operations, engine.generation)])[0]
        engine.checkpoint()
    finally:
        engine.close()
    if isinstance(outcome.result, UniosError):
        raise outcome.result
    for left in ("store.db-wal", "store.db-shm"):  # of the file that is gone: not to be taken for a part of this one
        (folder / left).unlink(missing_ok=True)
    durable.sync_folder(folder)  # those are gone before there is a file that they would be taken for a part of
    try:
        os.link(part, path)
        durable.sync_folder(folder)
    except FileExistsError as error:
        raise CallerError(f"{path} is there again: restore once more") from error
    finally:
        part.unlink(missing_ok=True)


def _operations(plan: restoring.Plan) -> tuple[Put | Delete, ...]:
    return (*(Put(key, value) for key, value in plan.puts.items()), *map(Delete, plan.deletes))


def _lost(pids: tuple[int, ...]) -> str:
    return f"; of {len(pids)} processes that ran or waited then it is not known what has become" if pids else ""


def _path(caller: Caller, path: str) -> Path:
    if not caller.privileged:
        raise Denied("only the system's owner may back up the store, or restore it")
    if not path.startswith("/"):
        raise CallerError(f"{path[:200]} is no absolute path")
    return Path(path)
