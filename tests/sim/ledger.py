"""What the store has acknowledged of processes, held against what it has. Looked at after every event of a run.

A write counts as acknowledged when its answer leaves the store, whether or not it ever arrives. Invariants: an acknowledged record is there ever after,
as it was or as what may follow it; every record says where its process is, or why it is not.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from unios.core import claims
from unios.core.processes import ENDED, LIVE, ProcessRecord, State, process_key
from unios.store.model import Put, Transaction, TransactionResult
from unios.store.sqlite import Job, SqliteEngine

_RANK: Final[dict[State, int]] = {"pending": 0, "running": 1, "frozen": 1, "migrating": 1, "exited": 2, "failed": 2, "lost": 2}
_PREFIX: Final = "/processes/"
_DECODER: Final = msgspec.msgpack.Decoder(ProcessRecord)
_READ: Final = "SELECT value, modified FROM records WHERE key >= '/processes/' AND key < '/processes0'"


class Ledger:
    """That of one store. `fail` is called with what is violated."""

    def __init__(self, engine: SqliteEngine, fail: Callable[[str], None]) -> None:
        self._engine = engine
        self._fail = fail
        self._newest: dict[int, tuple[ProcessRecord, int]] = {}
        """pid -> the newest record that was acknowledged, and its revision number."""
        self._seen = (-1, -1)

    @property
    def pids(self) -> list[int]:
        """Of every process of which anything was acknowledged."""
        return sorted(self._newest)

    def acknowledge(self, job: Job, result: object) -> None:
        """The store answers so."""
        if not (isinstance(job, Transaction) and isinstance(result, TransactionResult) and result.succeeded):
            return
        for operation in job.then:
            if isinstance(operation, Put) and operation.key.startswith(_PREFIX):
                record = _DECODER.decode(operation.value)
                self._compare(record.pid, (record, result.revision.number))
                self._newest[record.pid] = (record, result.revision.number)

    def look(self) -> None:
        """Compare all that was acknowledged with what is there, unless nothing was written since the last look."""
        now = (self._engine.number, self._engine._db.total_changes)
        if now == self._seen:
            return
        self._seen = now
        there = {(record := _DECODER.decode(value)).pid: (record, modified) for value, modified in self._engine._db.execute(_READ)}
        for pid in self._newest:
            self._compare(pid, there.get(pid))
        for record, _modified in there.values():
            if not explained(record):
                self._fail(f"process {record.pid} is {record.state} and nobody says where or why: {record}")

    def _compare(self, pid: int, there: tuple[ProcessRecord, int] | None) -> None:
        known = self._newest.get(pid)
        if known is not None and (there is None or not follows(known, there)):
            what = f"there is {there[0]} at {there[1]}" if there else f"there is no {process_key(pid)}"
            self._fail(f"an acknowledged record is lost: {known[0]} at {known[1]} was acknowledged, {what}")


def follows(known: tuple[ProcessRecord, int], there: tuple[ProcessRecord, int]) -> bool:
    """Return whether a record, with its revision number, is the known one or one that a life in order may have made of it."""
    (before, then), (after, now) = known, there
    if now <= then:
        return now == then and before == after
    if before.state in ENDED:
        return after == before or (after.incarnation > before.incarnation and claims.wants_restart(before))
    if after.incarnation == before.incarnation:
        return _RANK[after.state] >= _RANK[before.state]
    return after.incarnation > before.incarnation


def explained(record: ProcessRecord) -> bool:
    """Return whether a record says where its process is, or why it is not."""
    if record.state == "exited":
        return record.exit_code is not None
    return bool(record.reason) or (record.state in LIVE and bool(record.node))
