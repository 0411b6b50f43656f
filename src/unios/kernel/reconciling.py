"""Reconciling: keeps this node's trees and the store's records in step, as core/reconcile.py says. At each registration, and now and then.

Inits are told all at once, and waited for only briefly: one that does not answer (it was stopped) must not hold up the others' deadline. It is told on
and on beside that. It does no harm to tell it late: a confirmation names the lease under which it was asked, and counts under no other.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unios.core import claims, reconcile
from unios.core.processes import LIVE, ProcessRecord, process_key
from unios.errors import CallerError, NoRoom, NotFound, UniosError
from unios.kernel import spawning
from unios.kernel.clocks import boot_ms
from unios.kernel.records import decode
from unios.limits import CONFIRM_TIMEOUT_MS, CONFIRM_WAIT_MS, OUTPUT_KEPT_BYTES, SPAWN_GRACE_MS
from unios.store.pages import every
from unios.wire.ticks import tick

if TYPE_CHECKING:
    from unios.kernel.node import Node

EVERY_S = 1.0
DOUBT_S = 0.2
"""A kernel's mirror of the processes is behind by its calm and a message; what is in doubt for so long is no mere delay."""
AGAIN_S = 0.5
"""Between two attempts to tell an init something."""


class Reconciling:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._pending_since: dict[tuple[int, int], int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._telling: dict[tuple[int, int], tuple[reconcile.Order, asyncio.Task[None]]] = {}
        """What inits are being told; one thing each at a time."""
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Compare again and again; ends only by cancellation."""
        rounds = 0
        await self._node.leasing.wait_held()
        while True:
            await tick(EVERY_S)
            if self._node.leasing.left_ms() > 0 and not self._node.stopping.under_way:
                with contextlib.suppress(UniosError):
                    await self._glance()
            rounds += 1
            if rounds % 30 == 0:
                await self._bound_output()

    async def _glance(self) -> None:
        """Compare with the mirrors; if something seems to be wrong, and still does when the mirror has had time to hear of it, ask the store."""
        await self._node.trees.look_again()
        doubts = self._doubts()
        if doubts:
            await asyncio.sleep(DOUBT_S)
            if doubts & self._doubts():
                await self._compare()

    def _doubts(self) -> frozenset[reconcile.Order]:
        """Return what would have to be done if the mirror were right."""
        node = self._node
        values = node.processes.values
        trees = self._trees()
        here = (values.get(process_key(tree.pid)) for tree in trees)
        records = {record.pid: record for record in here if record is not None}
        records.update((record.pid, record) for record in values.values() if record.node == node.name and record.state in LIVE)
        ripe = self._ripe(records)
        return reconcile.doubtful(reconcile.plan(node.name, trees, records, ripe), ripe)

    def _trees(self) -> list[reconcile.Tree]:
        node = self._node
        known = [reconcile.Tree(tree.pid, tree.incarnation, tree.state) for tree in node.trees.trees.values()]  # type: ignore[arg-type]
        return reconcile.present(known, node.trees.begun | node.starts.tasks.keys())

    def _may_live(self, key: tuple[int, int]) -> bool:
        node = self._node
        tree = node.trees.trees.get(key)
        return key in node.starts.tasks or key in node.trees.begun or (tree is not None and tree.state in ("starting", "running"))

    async def check_claims(self, incarnation: int) -> None:
        """Compare every tree with its record as the store has it now; when this returns the node may trust its lease again."""
        await self._node.trees.wait_up()
        await self._compare(confirm_under=incarnation)

    async def _read(self) -> dict[int, ProcessRecord]:
        records, _revision = await every(self._node.store, "/processes/")
        return {record.pid: record for record in map(decode, records)}

    async def _compare(self, *, confirm_under: int = 0) -> None:
        """`confirm_under`: the number of the lease under which this is asked; claims that stand are then confirmed."""
        async with self._lock:
            trees = self._trees()  # before the records: a tree that is started meanwhile is not judged by what was true before
            records = await self._read()
            orders = reconcile.plan(self._node.name, trees, records, self._ripe(records))
            told = [order for order in orders if isinstance(order, reconcile.Supersede) or (confirm_under and isinstance(order, reconcile.Confirm))]
            await self._tell_all(told, confirm_under)
            for order in orders:
                if isinstance(order, reconcile.Confirm):
                    if confirm_under and _was_kept(records[order.pid]):
                        await self._found_again(order)
                elif not isinstance(order, reconcile.Supersede):
                    await self._carry_out(order)

    async def _tell_all(self, orders: list[reconcile.Confirm | reconcile.Supersede], lease: int) -> None:
        """Tell inits that their claims stand, or do not; return when all have heard it, or CONFIRM_WAIT_MS have passed."""
        tasks = [self._tell(order, lease) for order in orders]
        if tasks:
            await asyncio.wait(tasks, timeout=CONFIRM_WAIT_MS / 1000)

    def _tell(self, order: reconcile.Confirm | reconcile.Supersede, lease: int) -> asyncio.Task[None]:
        key = (order.pid, order.incarnation)
        told = self._telling.get(key)
        if told is not None:
            if isinstance(order, reconcile.Supersede) and told[0] == order:
                return told[1]
            told[1].cancel()  # a confirmation is made anew: what was sent before the deadline moved counted for nothing
        task = asyncio.get_running_loop().create_task(self._tell_on_and_on(order, lease))
        self._telling[key] = (order, task)
        task.add_done_callback(lambda done: self._told(key, done))
        return task

    def _told(self, key: tuple[int, int], done: asyncio.Task[None]) -> None:
        if key in self._telling and self._telling[key][1] is done:
            del self._telling[key]

    async def _tell_on_and_on(self, order: reconcile.Confirm | reconcile.Supersede, lease: int) -> None:
        """Tell it until it has heard it, has ended, or the claim would have to be looked at again."""
        node = self._node
        while self._may_live((order.pid, order.incarnation)):
            try:
                init = node.trees.init(order.pid, order.incarnation)
                if isinstance(order, reconcile.Supersede):
                    await init.ask("supersede", timeout_ms=CONFIRM_TIMEOUT_MS, incarnation=order.by)
                elif node.leasing.incarnation == lease:
                    await init.ask("confirm", timeout_ms=CONFIRM_TIMEOUT_MS, incarnation=order.incarnation, lease=lease)
                return
            except UniosError:
                await asyncio.sleep(AGAIN_S)

    async def _found_again(self, order: reconcile.Confirm) -> None:
        node = self._node
        await node.records.change_own(
            node.name, order.pid, order.incarnation, lambda record: claims.found_again(record) if _was_kept(record) else None
        )

    def _ripe(self, records: dict[int, ProcessRecord]) -> frozenset[int]:
        now = boot_ms()
        pending = {(r.pid, r.incarnation) for r in records.values() if r.node == self._node.name and r.state == "pending"}
        pending -= self._node.starts.tasks.keys()  # a start that is under way is looked at when it has ended, however long it takes
        self._pending_since = {key: self._pending_since.get(key, now) for key in pending}
        return frozenset(pid for (pid, _incarnation), since in self._pending_since.items() if now - since >= SPAWN_GRACE_MS)

    async def _carry_out(self, order: reconcile.Order) -> None:
        node = self._node
        match order:
            case reconcile.Report(pid, incarnation):
                fields = node.trees.trees[pid, incarnation].exit
                if fields.get("fenced"):  # by its own leash: nobody has taken its place, so it is as lost as its node would be
                    await self.gone(pid, incarnation, f"{node.name} was cut off", claims.on_loss)
                else:
                    node.recorder.ended(pid, incarnation, fields)
            case reconcile.Adopt(pid, incarnation):
                node.recorder.running(pid, incarnation)
            case reconcile.Gone(pid, incarnation):
                if (pid, incarnation) not in node.starts.tasks and (pid, incarnation) not in node.trees.trees:
                    await self.gone(pid, incarnation, f"{node.name} stopped and came back without it")
            case reconcile.StartNow(pid, incarnation):
                self._start(pid, incarnation)
            case reconcile.Drop(pid, incarnation):
                with contextlib.suppress(UniosError):
                    await node.trees.forget(pid, incarnation)

    async def gone(self, pid: int, incarnation: int, why: str, judge: Callable[[ProcessRecord], claims.Loss] = claims.on_gone) -> None:
        """It was lost with an earlier life of this node, or with its init: as its policy says, again or not."""
        node = self._node

        def change(record: ProcessRecord) -> ProcessRecord:
            if judge(record) == "again":
                return claims.claimed(record, "", why)
            return claims.lost(record, why, node.wall_ms())

        event = node.events.put("loss", f"process {pid}: {why}", pid)
        with contextlib.suppress(NotFound):
            await node.records.change_own(node.name, pid, incarnation, change, event=event)

    def _start(self, pid: int, incarnation: int) -> None:
        async def give_back(why: str) -> None:
            with contextlib.suppress(NotFound):
                await self._node.records.change_own(self._node.name, pid, incarnation, lambda record: claims.placed(record, "", why))

        async def start() -> None:
            try:
                await spawning.start(self._node, pid, incarnation)
            except NoRoom as error:
                await give_back(f"waits: {error}")
            except CallerError as error:  # a service tries the others, or says that none can
                await give_back(f"{self._node.name}: {error}")
            except UniosError:
                pass  # looked at again in a second

        task = asyncio.get_running_loop().create_task(start())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bound_output(self) -> None:
        """Let the oldest output of ended processes go when all of it together is more than the bound."""
        ended = sorted((tree.exit.get("at_ms", 0), key) for key, tree in self._node.trees.trees.items() if tree.state == "ended")
        sizes = {key: _size(f"{self._node.folder.trees}/{key[0]}.{key[1]}") for _at, key in ended}
        total = sum(sizes.values())
        for _at, key in ended:
            if total <= OUTPUT_KEPT_BYTES:
                return
            record = self._node.processes.values.get(process_key(key[0]))
            if record is None or record.state not in LIVE or record.incarnation != key[1]:
                total -= sizes[key]
                with contextlib.suppress(UniosError, NotFound):
                    await self._node.trees.forget(*key)


def _was_kept(record: ProcessRecord) -> bool:
    return record.on_partition == "keep" and bool(record.reason)


def _size(folder: str) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0
