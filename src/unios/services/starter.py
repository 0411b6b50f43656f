"""Starter: brings a pending process to run on one of the eligible nodes, one after the other; shared by the services that place processes.

Each step is safe to be cut off: the record says where the process is assigned, and that node starts it by itself after a while.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from unios.client.aio import Kernel
from unios.core import claims, placement
from unios.core.nodes import alive_key
from unios.core.processes import ProcessRecord, ProcessSpec, process_key
from unios.errors import (
    CallerError,
    Denied,
    NotFound,
    OutcomeUnknown,
    PeerRestarted,
    ProgramNotFound,
    ProgramNotRunnable,
    ProtocolError,
    Unavailable,
    UniosError,
)
from unios.limits import SPAWN_TIMEOUT_MS
from unios.services.strangers import Strangers, may_be_elsewhere
from unios.services.view import View
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.wire.operations import Spawn, Spawned

REFUSED = (ProgramNotFound, ProgramNotRunnable, NotFound, Denied, CallerError)
"""This node cannot run it; another might."""
AWAY = (Unavailable, OutcomeUnknown, ProtocolError)


CHOICE_S: Final = 0.25
"""So long the mirror may take to show where a process was placed."""


class Tried(NamedTuple):
    """How the attempts ended. `record` is the latest that this side wrote or knows."""

    record: ProcessRecord
    running: bool
    failure: UniosError | None = None


class Starter:
    """That of one service."""

    def __init__(self, kernel: Kernel, view: View, wall_ms: Callable[[], int]) -> None:
        self._kernel = kernel
        self._view = view
        self._wall_ms = wall_ms
        self._recent: deque[tuple[float, str]] = deque()
        self.strangers = Strangers(view.lease_of)

    def chose(self, node: str) -> None:
        """Remember a choice until the mirror shows it: of several processes placed at once not all go to the same node."""
        self._recent.append((time.monotonic(), node))

    def _candidates(self) -> list[placement.Candidate]:
        while self._recent and time.monotonic() - self._recent[0][0] > CHOICE_S:
            self._recent.popleft()
        extra = Counter(node for _at, node in self._recent)
        return [node._replace(running=node.running + extra[node.name]) for node in self._view.candidates()]

    def order(self, user: str, pinned: str, tried: dict[str, UniosError]) -> list[str]:
        """Return the nodes to try, the best first."""
        eligible = placement.eligible(self._candidates(), user, pinned, tried)
        names, _wrong = placement.order(placement.POLICIES[placement.DEFAULT], eligible)
        return names

    def nowhere(self, user: str, pinned: str, tried: dict[str, UniosError]) -> str:
        """Return why there is no node to try."""
        if tried:
            return "; ".join(f"{name}: {error}" for name, error in tried.items())
        if pinned:
            state, reason = self._view.membership.view(pinned)
            known = any(record.name == pinned for record in self._view.nodes.values.values())
            return f"{pinned} is {state}: {reason}" if known and state != "ready" else f"{pinned} runs nothing as {user}"
        return f"no node that is ready runs programs as {user}"

    async def start(self, record: ProcessRecord, modified: int, spec: ProcessSpec | None = None, lease: int = 0) -> Tried:
        """Start a pending record on its node, then on others until one takes it. The record is moved before each attempt.

        `spec` and `lease`: sent along, if the record was written while the node held that lease.
        """
        tried: dict[str, UniosError] = {}
        body = Spawn(record.pid, record.incarnation)
        if spec is not None and lease:
            body = Spawn(record.pid, record.incarnation, lease, modified, msgspec.msgpack.encode(record), msgspec.msgpack.encode(spec))
        while True:
            try:
                await self._kernel.call("processes.spawn", body, Spawned, node=record.node, timeout_ms=SPAWN_TIMEOUT_MS + 1_000)
                return Tried(record, True)
            except PeerRestarted as error:
                return Tried(record, False, error)  # somebody else has it
            except AWAY as error:
                # It may have started there, or may yet: only the end of that node's lease can move it (the recovery service sees to that).
                return Tried(
                    record, False, Unavailable(f"{record.node} does not answer ({error}): it starts there, or elsewhere if {record.node} is lost")
                )
            except REFUSED as error:
                tried[record.node] = error
            names = self.order(record.user, record.pinned, tried)
            if not names:
                return await self._give_up(record, modified, tried)
            why = self.nowhere(record.user, record.pinned, tried)
            moved = claims.placed(record, names[0], why)
            number = await self.replace(moved, modified)
            if not number:
                return Tried(record, False)
            record, modified = moved, number
            body = Spawn(record.pid, record.incarnation)
            self.chose(names[0])

    async def _give_up(self, record: ProcessRecord, modified: int, tried: dict[str, UniosError]) -> Tried:
        """No node can run it: say why, with the exit code that a shell would give. One whose user may be on a machine that is away waits for that."""
        self.strangers.told(record.user, tried)
        if may_be_elsewhere(record.incarnation, tried, list(self._view.nodes.values.values()), {each.name for each in self._view.candidates()}):
            waits = claims.placed(record, "", _summary(tried))
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
