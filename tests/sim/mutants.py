"""Mutants: the shipped code with one protection switched off. The simulation must find the violation that each one lets through."""

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import msgspec

from unios.core import admission, claims, fencing, holding, leases, reconcile
from unios.core.processes import ProcessRecord
from unios.store.sqlite import Job, Outcome, SqliteEngine


def no_fencing() -> Any:
    """The leash never sees that the deadline has passed."""
    return mock.patch.object(fencing.Leash, "_expired", return_value=False)


def no_epochs() -> Any:
    """A claim after a loss does not begin a new incarnation."""

    def claimed(record: ProcessRecord, node: str, why: str, chosen: str = "") -> ProcessRecord:
        return msgspec.structs.replace(original(record, node, why, chosen), incarnation=record.incarnation)

    original = claims.claimed
    return mock.patch.object(claims, "claimed", claimed)


def no_claims() -> Any:
    """Whoever has once been told to run a process may go on: nobody asks whose it is."""
    return mock.patch.object(claims, "holds", return_value=True)


def lease_too_long() -> Any:
    """The holder trusts its lease longer than the store does."""
    return mock.patch.object(holding, "LEASE_HOLD_MS", 2_500)


def hasty_judge() -> Any:
    """A store that returns judges leases as if it had heard their holders all along."""

    def made(self: Any, ttl_ms: dict[int, int], now_ms: int) -> None:
        original(self, dict.fromkeys(ttl_ms, 1), now_ms)
        self._ttl_ms = dict(ttl_ms)

    original = leases.Leases.__init__
    return mock.patch.object(leases.Leases, "__init__", made)


def early_answer() -> Any:
    """The store answers before it has committed: it commits only now and then."""

    def run(self: SqliteEngine, jobs: Sequence[Job]) -> list[Outcome]:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        before = (self.number, self.compacted, self._lease)
        outcomes = [self._one(job) for job in jobs]
        self._save(before)
        if self.number % 4 == 0:
            self._db.execute("COMMIT")
        return outcomes

    return mock.patch.object(SqliteEngine, "run", run)


def blind_writes() -> Any:
    """The store writes without comparing: the last one wins."""
    return mock.patch.object(SqliteEngine, "_holds", return_value=True)


def no_admission() -> Any:
    """A node takes whatever is assigned to it, by mirrors that may be behind."""
    return mock.patch.object(admission.Room, "take", return_value="")


def begun_forgotten() -> Any:
    """What begins as the lease is lost is not looked at when the next one is there."""
    return mock.patch.object(reconcile, "present", lambda known, _begun: list(known))


MUTANTS: dict[str, Callable[[], Any]] = {
    "no-fencing": no_fencing,
    "no-epochs": no_epochs,
    "no-claims": no_claims,
    "lease-too-long": lease_too_long,
    "hasty-judge": hasty_judge,
    "ack-before-durable": early_answer,
    "blind-writes": blind_writes,
    "no-admission": no_admission,
    "begun-forgotten": begun_forgotten,
}
