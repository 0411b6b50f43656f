"""Claims: how a process record passes from one holder and state to the next. Pure functions from record to record; the store makes them atomic.

A record is held by (node, incarnation). Whoever changes it compares the store's revision of it, so that of two changes of one state only the first
counts. Times are wall clock, for people only.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from unios.core.processes import LIVE, ProcessRecord, ProcessSpec, State, may_become
from unios.limits import ARGV_SHOWN_BYTES_MAX

NO_START: Final = 125
"""Exit code of what could not be started for another reason than its program: 126 and 127 are the shell's for that."""

Loss = Literal["again", "lost", "kept"]
"""What becomes of a process whose node is lost."""


def holds(record: ProcessRecord, node: str, incarnation: int) -> bool:
    """Return whether that node's that incarnation is the one that may act for the process: the fence of the store."""
    return record.node == node and record.incarnation == incarnation and record.state in LIVE


def submitted(pid: int, spec: ProcessSpec, user: str, node: str, reason: str, now_ms: int) -> ProcessRecord:
    """Return the first record of a process."""
    return ProcessRecord(
        pid=pid,
        incarnation=1,
        state="pending",
        user=user,
        argv=shown(spec.argv, ARGV_SHOWN_BYTES_MAX),
        node=node,
        reason=reason,
        restart=spec.restart,
        restarts_max=spec.restarts_max,
        on_partition=spec.on_partition,
        pinned=spec.node,
        created_ms=now_ms,
        resources=spec.resources,
        queueing=spec.queueing,
        placing=spec.placing,
        carried=spec.carry.manifest,
    )


def shown(argv: tuple[bytes, ...], left: int) -> tuple[bytes, ...]:
    """Return as much of argv as fits into so many bytes."""
    kept = []
    for argument in argv:
        if left <= 0:
            break
        kept.append(argument[:left])
        left -= len(argument) + 1
    return tuple(kept)


def _becomes(record: ProcessRecord, state: State, **fields: object) -> ProcessRecord:
    if not may_become(record.state, state) and record.state != state:
        raise AssertionError(f"process {record.pid} cannot go from {record.state} to {state}")
    return msgspec.structs.replace(record, **{"state": state, "refused": (), **fields})


def placed(record: ProcessRecord, node: str, reason: str, why: str = "", refused: Iterable[str] = ()) -> ProcessRecord:
    """Assign a pending process to another node, which has not started it; "" for none: it waits in the queue.

    `refused`: the nodes that have said that they cannot run it, for those who ask why it waits; in any order, it is one kind in the queue.
    """
    return _becomes(record, "pending", node=node, reason=reason, why=why, refused=() if node else tuple(sorted(refused)))


def taken_up(record: ProcessRecord, node: str, why: str) -> ProcessRecord:
    """Assign what has waited: what it waited for is there, and is not said any more. Of a later incarnation it is still said why there is one."""
    return placed(record, node, record.reason if record.incarnation > 1 else "", why)


def timed_out(record: ProcessRecord) -> ProcessRecord:
    """Its time limit is over: it is ended, and not started again."""
    return msgspec.structs.replace(record, wanted="stopped", reason=f"its time limit of {duration(record.queueing.time_limit_ms)} was over")


def why_stopped(record: ProcessRecord) -> str:
    """Return why it was ended, if its record says so while it still runs."""
    return record.reason if record.wanted == "stopped" and record.state != "pending" else ""


def duration(ms: int) -> str:
    """Return a length of time for a person."""
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= size and (ms % size == 0 or ms >= 10 * size):
            return f"{ms / size:.3g} {unit}"
    return f"{ms / 1_000:.3g} s"


def started(record: ProcessRecord, now_ms: int) -> ProcessRecord:
    """Its program has been executed."""
    return _becomes(record, "running", started_ms=now_ms, reason="")


def thawed(record: ProcessRecord) -> ProcessRecord:
    """Its user let it go on. One that he has ended stays so: it may have to run to see the signal."""
    wanted = "stopped" if record.wanted == "stopped" else "running"
    return msgspec.structs.replace(record, wanted=wanted) if record.state == "pending" else _becomes(record, "running", wanted=wanted)


def frozen(record: ProcessRecord) -> ProcessRecord:
    """Its user froze it; if it is not known to run yet, that is what it will be once it does."""
    wanted = "stopped" if record.wanted == "stopped" else "frozen"
    return msgspec.structs.replace(record, wanted=wanted) if record.state == "pending" else _becomes(record, "frozen", wanted=wanted)


def stopped(record: ProcessRecord) -> ProcessRecord:
    """Its user wants it to end: it is not started again."""
    return msgspec.structs.replace(record, wanted="stopped")


def forgone(record: ProcessRecord, why: str) -> ProcessRecord:
    """It has ended and its policy would start it again: its user wants that it does not. How it ended stays."""
    return msgspec.structs.replace(record, wanted="stopped", reason=f"{record.reason}; {why}" if record.reason else why)


def reniced(record: ProcessRecord, nice: int) -> ProcessRecord:
    """Its user gave it a nice value."""
    return msgspec.structs.replace(record, nice=nice)


def not_started(record: ProcessRecord, exit_code: int, reason: str, now_ms: int) -> ProcessRecord:
    """It cannot be started anywhere: 126 and 127 as a shell says it."""
    return _becomes(record, "failed", exit_code=exit_code, reason=reason, ended_ms=now_ms)


def ended(record: ProcessRecord, exit_code: int, signal: int | None, reason: str, now_ms: int) -> ProcessRecord:
    """Its program has ended."""
    return _becomes(record, "exited", exit_code=exit_code, signal=signal, reason=reason, ended_ms=now_ms)


def wants_restart(record: ProcessRecord) -> bool:
    """Return whether a process that has exited is to be started again, as its policy says."""
    if record.wanted == "stopped" or record.restarts >= record.restarts_max or record.state != "exited":
        return False
    return record.restart == "always" or (record.restart == "on-failure" and record.exit_code != 0)


def restarted(record: ProcessRecord, node: str, chosen: str = "") -> ProcessRecord:
    """Again, under the next incarnation, since its policy says so."""
    why = f"it ended with {record.exit_code} and its policy is {record.restart}; start {record.restarts + 2}"
    return _becomes(
        record,
        "pending",
        incarnation=record.incarnation + 1,
        node=node,
        restarts=record.restarts + 1,
        reason=why,
        why=chosen,
        exit_code=None,
        signal=None,
        ended_ms=0,
    )


def on_loss(record: ProcessRecord) -> Loss:
    """Return what becomes of it when its node is lost. A pending one that was assigned there may have begun: nobody can know."""
    if record.wanted == "stopped":
        return "lost"
    if record.on_partition == "keep":
        return "kept"
    return "lost" if record.on_partition == "stop" or record.restart == "never" else "again"


def on_gone(record: ProcessRecord) -> Loss:
    """Return what becomes of it when its node is there and its tree is not: no partition, so only the restart policy speaks."""
    return "lost" if record.wanted == "stopped" or record.restart == "never" else "again"


def claimed(record: ProcessRecord, node: str, why: str, chosen: str = "") -> ProcessRecord:
    """After a loss: again elsewhere, under the next incarnation; without a node it waits in the queue. `chosen`: why that node."""
    return _becomes(
        record,
        "pending",
        incarnation=record.incarnation + 1,
        node=node,
        reason=f"{why}; what it had written to that machine's own files is there",
        why=chosen,
    )


def lost(record: ProcessRecord, why: str, now_ms: int) -> ProcessRecord:
    """After a loss: gone, as its policy says."""
    policy = (
        "its user had ended it"
        if record.wanted == "stopped"
        else f"its restart policy is {record.restart}"
        if record.restart == "never"
        else f"its policy for a partition is {record.on_partition}"
    )
    return _becomes(record, "lost", reason=f"{why} and {policy}", ended_ms=now_ms)


def kept(record: ProcessRecord, why: str) -> ProcessRecord:
    """After a loss: its policy is that it goes on where it is, out of sight."""
    return msgspec.structs.replace(record, reason=f"{why}; by its policy (keep) it may still run there")


def found_again(record: ProcessRecord) -> ProcessRecord:
    """A kept process is seen again."""
    return msgspec.structs.replace(record, reason="")
