"""Starter: brings a pending process to run on one of the eligible nodes, one after the other; shared by the services that place processes.

Each step is safe to be cut off: the record says where the process is assigned, and that node starts it by itself after a while.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from unios.client.aio import Kernel
from unios.core import claims
from unios.core.nodes import alive_key, node_key
from unios.core.outlook import nowhere
from unios.core.processes import ProcessRecord, ProcessSpec, process_key
from unios.errors import (
    CallerError,
    Denied,
    NoRoom,
    NotFound,
    OutcomeUnknown,
    PeerRestarted,
    ProgramNotFound,
    ProgramNotRunnable,
    ProtocolError,
    Unavailable,
    UniosError,
)
from unios.limits import QUEUE_REST_MS, REFUSALS_KEPT, SPAWN_TIMEOUT_MS
from unios.services.policies import Policies
from unios.services.strangers import Strangers, may_be_elsewhere
from unios.services.view import View
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.wire.operations import Spawn, Spawned

REFUSED = (ProgramNotFound, ProgramNotRunnable, NotFound, Denied, CallerError)
"""This node cannot run it; another might."""
AWAY = (Unavailable, OutcomeUnknown, ProtocolError)


class Tried(NamedTuple):
    """How the attempts ended. `record` is the latest that this side wrote or knows; pending without a node, it waits in the queue."""

    record: ProcessRecord
    running: bool
    failure: UniosError | None = None


class Starter:
    """That of one service."""

    def __init__(self, kernel: Kernel, view: View, policies: Policies, wall_ms: Callable[[], int]) -> None:
        self._kernel = kernel
        self._view = view
        self._policies = policies
        self._wall_ms = wall_ms
        self.strangers = Strangers(view.lease_of)
        self._estranged: dict[tuple[int, int], None] = {}
        """Those that wait for a machine that is away and may know their user; the oldest go."""
        self._resting: dict[str, float] = {}
        """Nodes that refused for lack of room, and until when they are left alone."""
        self.refused: dict[tuple[int, int], dict[str, UniosError]] = {}
        """What nodes said of processes that they cannot run, while those wait for another; the oldest go."""

    def ready(self) -> list[str]:
        """Return the nodes that take processes now."""
        now = time.monotonic()
        self._resting = {name: until for name, until in self._resting.items() if until > now}
        return [name for name in self._view.ready() if name not in self._resting]

    def _refusals(self, record: ProcessRecord) -> dict[str, UniosError]:
        """Return what nodes have said that cannot run it; of one that waits for its user's machine also those that do not know him."""
        key = (record.pid, record.incarnation)
        told = self.refused.get(key, {})
        return {**self.strangers.of(record.user), **told} if key in self._estranged else told

    def able(self, record: ProcessRecord) -> list[str]:
        """Return the ready nodes that could run it, were they empty, and that have not said that they cannot."""
        books, refused = self._view.books, self._refusals(record)
        return [
            name for name in self._view.ready() if name not in refused and books.may_run(name, record) and books.could_hold(name, record.resources)
        ]

    def choose(self, record: ProcessRecord, names: list[str]) -> tuple[str, str]:
        """Return the node of `names` that it gets, and why; ("", "") if all have said that they cannot run it."""
        refused = self._refusals(record)
        willing = [name for name in names if name not in refused] if refused else names
        return self._policies.choose(record, [name for name in willing if self._view.is_steady(name)] or willing)

    def best(self, record: ProcessRecord) -> tuple[str, str]:
        """Return the node that has room for it now, and why that one; ("", "") for none, or if others assign: then it waits in the queue."""
        if not self._view.assigns():
            return "", ""
        resting = set(self._view.ready()) - set(self.ready())
        books = self._view.books
        return self.choose(record, [name for name in self.able(record) if name not in resting and books.has_room(name, record.resources)])

    def nowhere(self, record: ProcessRecord) -> str:
        """Return why there is no node that could run it."""
        tried = self._refusals(record)
        if tried:
            return _summary(tried)
        if record.pinned:
            state, reason = self._view.membership.view(record.pinned)
            node = self._view.nodes.values.get(node_key(record.pinned))
            if node is not None and node.stopped and state != "left":
                return f"{record.pinned} has been stopped"
            if node is not None and state != "ready":
                return f"{record.pinned} is {state}: {reason}"
        return nowhere(self._view.books, self._view.ready(), record)

    async def start(self, record: ProcessRecord, modified: int, spec: ProcessSpec | None = None, lease: int = 0) -> Tried:
        """Start a pending record on its node, then on others until one takes it. The record is moved before each attempt.

        `spec` and `lease`: sent along, if the record was written while the node held that lease. If a node that could run it has no room, it waits
        in the queue again.
        """
        body = Spawn(record.pid, record.incarnation)
        if spec is not None and lease:
            body = Spawn(record.pid, record.incarnation, lease, modified, msgspec.msgpack.encode(record), msgspec.msgpack.encode(spec))
        key = (record.pid, record.incarnation)
        while True:
            try:
                await self._kernel.call("processes.spawn", body, Spawned, node=record.node, timeout_ms=SPAWN_TIMEOUT_MS + 1_000)
                self.refused.pop(key, None)
                return Tried(record, True)
            except PeerRestarted:  # somebody else has changed it: what it has come to is in the record
                found = await self.read(record.pid)
                return Tried(found[0] if found is not None else record, False)
            except NoRoom as error:
                self._resting[record.node] = time.monotonic() + QUEUE_REST_MS / 1_000
                why = f"waits: {error}"
            except AWAY as error:
                # It may have started there, or may yet: only the end of that node's lease can move it (the recovery service sees to that).
                slow = "has not begun it yet, perhaps since it lays out what is carried" if isinstance(error, OutcomeUnknown) else "does not answer"
                then = f"it starts there, or elsewhere if {record.node} is lost"
                return Tried(record, False, Unavailable(f"{record.node} {slow} ({error}): {then}"))
            except REFUSED as error:
                self._remember(key, record.node, error)
                if not self.able(record):
                    return await self._give_up(record, modified, self.refused.pop(key))
                why = _summary(self.refused[key])
            node, chosen = self.best(record)
            moved = claims.placed(record, node, why, chosen, self._refusals(record))
            number = await self.replace(moved, modified)
            if not number or not node:
                return Tried(moved if number else record, False)
            record, modified = moved, number
            body = Spawn(record.pid, record.incarnation)

    def _remember(self, key: tuple[int, int], node: str, error: UniosError) -> None:
        self.refused.setdefault(key, {})[node] = error
        if len(self.refused) > REFUSALS_KEPT:
            del self.refused[next(iter(self.refused))]

    async def give_up_refused(self, record: ProcessRecord, modified: int) -> bool:
        """End a process that waits in the queue if every node that could run it has said that it cannot."""
        tried = self.refused.get((record.pid, record.incarnation))
        if not tried or self.able(record):
            return False
        await self._give_up(record, modified, tried)
        self.refused.pop((record.pid, record.incarnation), None)
        return True

    async def _give_up(self, record: ProcessRecord, modified: int, told: dict[str, UniosError]) -> Tried:
        """No node can run it: say why, with the exit code that a shell would give. One whose user may be on a machine that is away waits for that.

        `told`: what was said now; of one that has waited so before, others may have said it lately.
        """
        self.strangers.told(record.user, told)
        tried = {**told, **{name: error for name, error in self._refusals(record).items() if name not in told}}
        if may_be_elsewhere(record.incarnation, tried, list(self._view.nodes.values.values()), set(self._view.ready())):
            self._estranged[record.pid, record.incarnation] = None
            if len(self._estranged) > REFUSALS_KEPT:
                del self._estranged[next(iter(self._estranged))]
            waits = claims.placed(record, "", _summary(tried), refused=tried)
            await self.replace(waits, modified)
            return Tried(waits, False)
        runnable = [error for error in tried.values() if isinstance(error, ProgramNotRunnable)]
        worst = runnable[0] if runnable else next(iter(tried.values()))
        text = _summary(tried)
        code = worst.exit_code if isinstance(worst, (ProgramNotFound, ProgramNotRunnable)) else claims.NO_START
        failed = claims.not_started(record, code, text, self._wall_ms())
        await self.replace(failed, modified)
        return Tried(failed, False, type(worst)(text))

    async def replace(self, record: ProcessRecord, modified: int, event: Put | None = None, *, lost: str = "") -> int:
        """Write the record if nobody else has changed it since; return its new revision number, 0 if somebody has.

        `lost`: only while that node's lease is ended. A node that has come back has compared its trees with their records and runs them again.
        """
        put = Put(process_key(record.pid), msgspec.msgpack.encode(record))
        compare = Compare(put.key, "modified", "==", modified)
        compares = (compare, Compare(alive_key(lost), "version", "==", 0)) if lost else (compare,)
        result = await self._view.store.transact(Transaction(compares, (put, *((event,) if event else ()))))
        if result.succeeded:
            self._view.books.put(record)
        return result.revision.number if result.succeeded else 0

    async def read(self, pid: int) -> tuple[ProcessRecord, int] | None:
        """Return the latest record and its revision number."""
        result = await self._view.store.transact(Transaction(then=(Range(process_key(pid)),)))
        found = result.results[0]
        if not isinstance(found, RangeResult) or not found.records:
            return None
        return msgspec.msgpack.decode(found.records[0].value, type=ProcessRecord), found.records[0].modified


def _summary(tried: dict[str, UniosError]) -> str:
    """Return the reasons, those that are the same once."""
    by_text: dict[str, list[str]] = {}
    for name, error in tried.items():
        by_text.setdefault(str(error), []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in by_text.items())
