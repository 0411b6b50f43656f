"""Stopping: how a node ends in order. What can run elsewhere is handed over, what cannot is ended only if that was asked for; then the supervisor ends."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any

import msgspec

from unios.core import claims
from unios.core.nodes import alive_key, may_speak_for
from unios.core.processes import LIVE, ProcessRecord
from unios.errors import CallerError, Denied, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.kernel import runfiles
from unios.kernel.carrying import NOTHING
from unios.kernel.node_records import change_node
from unios.kernel.records import decode
from unios.kernel.system import SQLITE
from unios.store.model import Delete
from unios.store.pages import every
from unios.wire.operations import Leave
from unios.wire.peer import Peer

if TYPE_CHECKING:
    from unios.kernel.node import Node

TERM_S = 2.0
"""How long programs have after SIGTERM."""
KILL_S = 5.0
COLLECT_S = 10.0
"""So long the results of what this node ends may take; then they stay in the working folder, and the record says so."""
STORE_S = 3.0
"""How long the store is waited for; one that is away is waited for once, and must not keep a forced stop from stopping."""


class Stopping:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.under_way = False
        self._store_away = False
        self._task: asyncio.Task[None] | None = None

    async def stop(self, body: Leave) -> None:
        """Hand over or end what runs here and give the lease back. Idempotent."""
        async with self._or_go_on():
            await self._empty(body, "was stopped")
            await self._at_store(self._sign_off("joined"))

    @contextlib.asynccontextmanager
    async def _or_go_on(self) -> AsyncIterator[None]:
        """If it cannot be done to the end, the node takes up again what it still has: records without a tree are dealt with as lost."""
        try:
            yield
        except BaseException:
            if self.under_way:
                self._node.leasing.take_up()
                self._node.start(self._take_up_again())
            self.under_way = self._store_away = False
            raise

    async def _take_up_again(self) -> None:
        while True:
            with contextlib.suppress(UniosError):
                await self._mark(stopped=False)
                return
            await asyncio.sleep(STORE_S)

    async def leave(self, body: Leave) -> None:
        """The same for good."""
        node = self._node
        if node.system.store_machine == node.system.machine and not self._others_on_machine(body):
            what = "keeps the system's store" if node.system.engine == SQLITE else "has the key of its authority, without which no machine can join"
            raise CallerError(f"{node.name} is the last node of the machine that {what}, and cannot leave it; `unios down` stops the system")
        try:
            await node.quorum.check_leave(body.together)
            async with self._or_go_on():
                await self._empty(body, "left")
                await self._sign_off("left")
        except BaseException:
            node.start(node.quorum.stay())
            raise
        await node.quorum.let_go()
        node.folder.node_file.rename(node.folder.path / "node.json.left")

    async def removed(self, why: str) -> None:
        """The system has removed this node: what it still runs counts for nothing. Kill that, say so, and end; the folder stays for a person to look at."""
        if self.under_way:
            return
        self.under_way = True
        node = self._node
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._kill_rest(), KILL_S)
        text = f"{node.name} was taken out of the system ({why}): to come back it has to join anew, with a token (`unios join` on a member)"
        runfiles.complain(text)
        with contextlib.suppress(OSError):
            runfiles.place(node.folder.run / "failed", json.dumps({"error": Denied.code, "text": text}))
            node.folder.node_file.rename(node.folder.path / "node.json.left")
        self._end()

    def _others_on_machine(self, body: Leave) -> bool:
        node = self._node
        return any(
            record.machine == node.system.machine and record.name != node.name and record.state == "joined" and record.name not in body.together
            for record in node.nodes.values.values()
        )

    async def _empty(self, body: Leave, how: str) -> None:
        mine = await self._records(force=body.force)
        elsewhere = [name for name in self._node.membership.names("ready", "suspect") if name not in (self._node.name, *body.together)]
        stay = [record for record in mine if not self._can_move(record, elsewhere)]
        if stay and not body.force:
            pids = ", ".join(str(record.pid) for record in stay[:8]) + (", ..." if len(stay) > 8 else "")
            raise CallerError(
                f"{self._node.name} runs what cannot run elsewhere ({pids}): wait for it or end it, or say that it shall end (down --all, leave --force)"
            )
        self.under_way = True
        await self._at_store(self._mark(stopped=True))
        await asyncio.gather(*(self._let_go(record, elsewhere, how, body.force) for record in mine))
        await self._kill_rest()
        await self._at_store(self._node.recorder.drain())

    async def _at_store(self, work: Awaitable[object]) -> None:
        """Do what needs the store, unless that is away."""
        if self._store_away:
            asyncio.ensure_future(work).cancel()
            return
        try:
            async with asyncio.timeout(STORE_S):
                await work
        except NotFound:
            pass
        except (UniosError, TimeoutError):
            self._store_away = True

    async def _mark(self, *, stopped: bool) -> None:
        """Say that this node stops, so that nothing is placed on it any more; or that it does not after all."""
        await change_node(self._node.store, self._node.name, lambda record: msgspec.structs.replace(record, stopped=stopped))

    async def _records(self, *, force: bool) -> list[ProcessRecord]:
        try:
            async with asyncio.timeout(STORE_S):
                records, _revision = await every(self._node.store, "/processes/")
        except (Unavailable, OutcomeUnknown, TimeoutError):
            if not force:
                raise Unavailable("the store cannot be reached, so nothing can be handed over; `unios down --all` stops all the same") from None
            self._store_away = True
            return [record for record in self._node.processes.values.values() if record.node == self._node.name and record.state in LIVE]
        return [record for record in map(decode, records) if record.node == self._node.name and record.state in LIVE]

    def _can_move(self, record: ProcessRecord, elsewhere: list[str]) -> bool:
        if claims.on_loss(record) != "again" or record.pinned == self._node.name:
            return False
        users = [known.users for known in self._node.nodes.values.values() if known.name in elsewhere]
        return any(may_speak_for(granted, record.user) for granted in users)

    async def _let_go(self, record: ProcessRecord, elsewhere: list[str], how: str, force: bool) -> None:
        node = self._node
        moves = self._can_move(record, elsewhere)
        ended = _why_ended(node.name, how)
        if not moves:  # before its end, which is written by whoever sees it first: it is to say why
            told = node.records.change_own(
                node.name, record.pid, record.incarnation, lambda seen: msgspec.structs.replace(claims.stopped(seen), reason=ended)
            )
            await self._at_store(told)
        await self._end_tree(record, term=not moves)  # first: what it does after it was handed over must not count
        why = f"{node.name} {how}"
        found = NOTHING if moves else await node.carrying.collect(record.pid, record.incarnation, timeout_s=COLLECT_S)

        def change(seen: ProcessRecord) -> ProcessRecord:
            if moves:
                return claims.claimed(seen, "", why)
            reason = "; ".join(filter(None, (ended, found.note)))
            over = claims.ended(claims.stopped(seen), 143, 15, reason, node.wall_ms())
            return msgspec.structs.replace(over, results=found.results)

        await self._at_store(node.records.change_own(node.name, record.pid, record.incarnation, change))
        if not moves:
            await node.carrying.done(record.pid, record.incarnation, found)

    async def _end_tree(self, record: ProcessRecord, *, term: bool) -> None:
        """Ask the program to end, then kill the tree; with `term` false another incarnation has the name already."""
        node = self._node
        with contextlib.suppress(UniosError):
            init = node.trees.init(record.pid, record.incarnation)
            if not term:
                await init.ask("supersede", incarnation=record.incarnation + 1)
                return
            await init.ask("thaw")
            await init.ask("signal", number=int(signal.SIGTERM))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(init.closed.wait(), TERM_S)
            await init.ask("kill", reason=f"{node.name} stops")

    async def _kill_rest(self) -> None:
        for (pid, incarnation), tree in list(self._node.trees.trees.items()):
            if tree.state in ("starting", "running"):
                with contextlib.suppress(UniosError):
                    await self._node.trees.init(pid, incarnation).ask("kill", reason=f"{self._node.name} stops")

    async def _sign_off(self, state: str) -> None:
        node = self._node
        word = "has left" if state == "left" else "has been stopped"
        await node.leasing.give_back()  # a registration after this would say that the node is there, and soon that it is lost
        await change_node(
            node.store,
            node.name,
            lambda record: msgspec.structs.replace(record, state=state, stopped=True),
            Delete(alive_key(node.name)),
            node.events.put("node", f"{node.name} {word}"),
        )
        if node.leasing.lease:
            await node.store.lease_revoke(node.leasing.lease)

    def end_after(self, peer: Peer) -> None:
        """End once the asker has gone: its answer, and those of the nodes that it stops with this one, come first."""

        async def end() -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_gone(peer), 5.0)
            self._end()

        self._task = asyncio.get_running_loop().create_task(end())

    def _end(self) -> None:
        running = runfiles.read(self._node.folder.run / "supervisor.json")
        if running is not None:
            runfiles.kill(running, signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)


def _why_ended(node: str, how: str) -> str:
    """Return why a process was ended with its node, what is lost, and where the rest is."""
    written = f"what it wrote is kept: `unios logs` shows it when {node} is up again" if how == "was stopped" else "so is what it wrote"
    return f"it was ended, since {node} {how} and it could not run elsewhere; what it had in memory is lost, {written}"


async def _gone(peer: Peer) -> Any:
    return await peer.closed()
