"""Judge: which checker says what of which workload's part of a history."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tests.histories import bank, table, transactions
from tests.histories.history import Asked, Line, Operation, by_key, pair
from tests.histories.linear import Model, Verdict, check
from tests.histories.models import lock, queue, register
from tests.histories.models import set as sets

LINEAR: Final[dict[str, tuple[Model, Callable[[Sequence[Asked]], list[Operation]]]]] = {
    "register": (register.Register(), register.operations),
    "set": (sets.Set(once=True), sets.operations),
    "queue": (queue.Queue(), queue.operations),
    "lock": (lock.Lock(once=True), lock.operations),
    "rwlock": (lock.Lock(once=True), lock.operations),
    "election": (lock.Lock(once=True), lock.operations),
}
"""Workloads whose objects are apart from each other and do one thing after the other."""


def of(workload: str, asked: Sequence[Asked]) -> dict[str, Verdict]:
    """Return the verdict on each object of a workload."""
    if workload == "table":
        return {"table": table.check(asked)}
    if workload == "append":
        return {"append": transactions.check(transactions.operations(asked))}
    found = {}
    for key, own in by_key(asked).items():
        if workload == "bank":
            found[key] = bank.check(transactions.operations(own))
        else:
            model, operations = LINEAR[workload]
            found[key] = check(model, operations(own))
    return found


def whole(lines: Iterable[Line]) -> dict[str, dict[str, Verdict]]:
    """Return the verdicts on all that was asked, by workload and object."""
    return {workload: of(workload, asked) for workload, asked in sorted(pair(lines).items())}
