"""The queue from the caller's side: submit many, hold, release, see who waits; the rules that the privileged lay down.

All are asked of the placement service. `submit_many` is idempotent per batch by its request's id; the others are idempotent by themselves.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from unios.client import ports
from unios.client.connection import Connection
from unios.client.processes import check, placement_of
from unios.errors import UniosError
from unios.limits import CALL_TIMEOUT_MS, SUBMIT_BATCH_BYTES_MAX, SUBMIT_BATCH_MAX, SUBMIT_TIMEOUT_MS
from unios.wire.operations import Empty, Program
from unios.wire.queueing import Alter, AskRules, Element, PolicyView, QuotaView, SubmitMany, SubmittedMany, Waiting

T = TypeVar("T")
_PATIENCE_S = 1.0


def submit_many(connection: Connection, program: Program, elements: Sequence[Element], *, array: bool = False) -> Iterator[SubmittedMany]:
    """Submit many in batches and yield the answer to each as it comes: its processes are durable then. With `array` all are one array.

    Each batch is all or nothing; when one fails, those before it stay submitted.
    """
    check(program)
    first = -1 if array else 0
    for batch in batches(elements):
        done: SubmittedMany = _submit(connection, SubmitMany(program, batch, os.urandom(16).hex(), first))
        first = done.pids[0] if first < 0 else first
        yield done


def batches(elements: Sequence[Element]) -> Iterator[tuple[Element, ...]]:
    """Cut a sequence into batches within the bounds of one submission."""
    batch: list[Element] = []
    size = 0
    for element in elements:
        weight = sum(map(len, element.argv))
        if batch and (len(batch) == SUBMIT_BATCH_MAX or size + weight > SUBMIT_BATCH_BYTES_MAX):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(element)
        size += weight
    if batch:
        yield tuple(batch)


def _submit(connection: Connection, body: SubmitMany) -> SubmittedMany:
    def attempt() -> SubmittedMany:
        channel = connection.service("placement", lambda: placement_of(connection))
        answer: SubmittedMany = channel.call("submit_many", body, SubmittedMany, timeout_s=SUBMIT_TIMEOUT_MS / 1000)
        return answer

    return connection.persist(attempt)


def _ask(connection: Connection, op: str, body: object, type_: Any) -> Any:
    def attempt() -> Any:
        channel = connection.service("placement", lambda: placement_of(connection))
        return channel.call(op, body, type_, timeout_s=CALL_TIMEOUT_MS / 1000)

    return connection.persist(attempt)


def waiting(connection: Connection) -> tuple[Waiting, ...]:
    """Return who waits, in the order in which they go, then those that wait for something else than room."""
    found: tuple[Waiting, ...] = _ask(connection, "queue", None, tuple[Waiting, ...])
    return found


def reasons(connection: Connection) -> dict[int, str]:
    """Return why each waits that waits, as it is now; nothing if the placement service does not answer within a second."""
    try:
        channel = connection.service("placement", lambda: ports.connect(connection, "placement"))
        found: tuple[Waiting, ...] = channel.call("queue", None, tuple[Waiting, ...], timeout_s=_PATIENCE_S)
    except UniosError:
        return {}
    return {one.pid: one.reason for one in found}


def hold(connection: Connection, pid: int) -> None:
    """Let what waits wait on: a process, or with the first pid of an array all of it that wait."""
    _ask(connection, "hold", Alter(pid), Empty)


def release(connection: Connection, pid: int) -> None:
    """Let what is held go on."""
    _ask(connection, "release", Alter(pid), Empty)


def cancel(connection: Connection, pid: int) -> None:
    """End what waits before it has begun: a process, or with the first pid of an array all of it that wait."""
    _ask(connection, "cancel", Alter(pid), Empty)


def policy(connection: Connection, *, stale: bool = False) -> PolicyView:
    """Return the system's placement policy, the latest, and those that can be had. With `stale` as the node knows it, which says how old that may be."""
    found: PolicyView = _ask(connection, "policy", AskRules(stale), PolicyView)
    return found


def set_policy(connection: Connection, name: str) -> PolicyView:
    """Make that the system's placement policy, at once and everywhere."""
    found: PolicyView = _ask(connection, "set_policy", PolicyView(name), PolicyView)
    return found


def quotas(connection: Connection, *, stale: bool = False) -> tuple[QuotaView, ...]:
    """Return what each user may have at a time, the latest, and has. With `stale` as the node knows it, which says how old that may be."""
    found: tuple[QuotaView, ...] = _ask(connection, "quotas", AskRules(stale), tuple[QuotaView, ...])
    return found


def set_quota(connection: Connection, quota: QuotaView) -> None:
    """Bound what a user may have at a time; with all bounds 0 he has none."""
    _ask(connection, "set_quota", quota, Empty)
