"""The gate's rules for the records of processes: what one of a member's users may have begin, and what may change afterwards. Decides only.

- A new one waits without a node and has no past, and it came when it came: the queue goes by that.
- **Nobody who passes here gives a process its node.** The queue does, run by a node that speaks for root: else its order and the quotas would be for the
  honest only. A node may be taken away: then the process waits again.
- What it was submitted with stays; only held or released it may be.
- What a run came to (its beginning, what it used, its results) is told by the node that had it, and by no other.
- An incarnation follows on one that had a node, or has ended: one that only waits cannot make itself one that was lost, which go first.
"""

from typing import Final

import msgspec

from unios.core.processes import LIVE, ProcessRecord, may_become
from unios.counted import counted
from unios.demands import PRIORITY_DEFAULT, USAGE
from unios.errors import Denied
from unios.limits import CLOCK_OFFSET_MS_JOIN_MAX, GATE_CLOCK_MS_MAX

NICE_MAX: Final = 19
_NOTHING_YET: Final = {
    "incarnation": 1,
    "state": "pending",
    "wanted": "running",
    "restarts": 0,
    "exit_code": None,
    "signal": None,
    "started_ms": 0,
    "ended_ms": 0,
    "usage": USAGE,
    "results": b"",
}
_SUBMITTED: Final = (
    "user",
    "argv",
    "created_ms",
    "pinned",
    "restart",
    "restarts_max",
    "on_partition",
    "spec_pid",
    "resources",
    "placing",
    "carried",
)
_OF_ITS_NODE: Final = ("started_ms", "usage", "results")


def check_new(member: str, key: str, record: ProcessRecord, now_ms: int) -> None:
    """May a process begin with that record? `now_ms`: by the clock of who asks. Raises Denied."""
    for name, value in _NOTHING_YET.items():
        if getattr(record, name) != value:
            raise Denied(f"{key} is new and has a past: its {name} is {getattr(record, name)!r}"[:300])
    _check_assigned(member, key, record, None)
    if record.queueing.priority > PRIORITY_DEFAULT:
        raise Denied(f"a priority over {PRIORITY_DEFAULT} is for the privileged, which {member} is not")
    if not 0 <= record.nice <= NICE_MAX:
        raise Denied(f"{key} may not be favoured by the nice value {record.nice}")
    offset = record.created_ms - now_ms
    if abs(offset) > GATE_CLOCK_MS_MAX:
        ahead = "ahead" if offset > 0 else "behind"
        raise Denied(f"{key} is said to have come {abs(offset) // 1_000} s {ahead} of now: set the clock of {member}, then submit it again")


def check_change(member: str, key: str, record: ProcessRecord, old: ProcessRecord, now_ms: int) -> None:
    """May `old` become `record`? Raises Denied."""
    for name in _SUBMITTED:
        if getattr(record, name) != getattr(old, name):
            raise Denied(f"what {key} was submitted with stays: {member} may not change its {name}")
    if msgspec.structs.replace(record.queueing, held=old.queueing.held) != old.queueing:
        raise Denied(f"what {key} was submitted with stays: {member} may hold or release it, and change nothing else of its turn")
    if not min(0, old.nice) <= record.nice <= NICE_MAX:
        raise Denied(f"{key} may not be favoured by the nice value {record.nice}")
    _check_assigned(member, key, record, old)
    _check_life(member, key, record, old)
    _check_run(member, key, record, old, now_ms)


def _check_assigned(member: str, key: str, record: ProcessRecord, old: ProcessRecord | None) -> None:
    had = old is not None and (old.node, old.incarnation) == (record.node, record.incarnation) and (old.state in LIVE or record.state not in LIVE)
    if record.node and not had:
        raise Denied(f"{member} may not give {key} a node: that is for the queue, run by a node that speaks for root; write it without one")
    if record.refused and (old is None or record.refused != old.refused):
        raise Denied(f"{member} may not say which nodes cannot run {key}: that is for the queue, which has asked them")


def _check_life(member: str, key: str, record: ProcessRecord, old: ProcessRecord) -> None:
    if record.state != old.state and not may_become(old.state, record.state):
        raise Denied(f"{key} cannot go from {old.state} to {record.state}")
    again, restarted = record.incarnation - old.incarnation, record.restarts - old.restarts
    if (again, restarted) == (0, 0):
        if record.state == "pending" and old.state != "pending":
            raise Denied(f"{key} is {old.state}: it begins again as its next incarnation only")
        return
    waited = old.state == "pending" and not old.node
    if waited or (again, restarted) not in ((1, 0), (1, 1)) or (record.state != "pending") or (restarted == 0) == (old.state not in LIVE):
        raise Denied(
            f"{key} is incarnation {old.incarnation}, started again {counted(old.restarts, 'time')}; {member} may not make it what it was not"
        )


def _check_run(member: str, key: str, record: ProcessRecord, old: ProcessRecord, now_ms: int) -> None:
    told = [name for name in _OF_ITS_NODE if getattr(record, name) != getattr(old, name)]
    begins = record.state in ("running", "frozen", "migrating") and record.state != old.state
    if (told or begins) and old.node != member:
        raise Denied(f"what became of {key} is told by {old.node or 'the node that it gets'}, not by {member}")
    if record.usage.cpu_ms < old.usage.cpu_ms or record.usage.memory_peak_bytes < old.usage.memory_peak_bytes:
        raise Denied(f"{key} has used what it has used")
    if record.started_ms > now_ms + CLOCK_OFFSET_MS_JOIN_MAX:
        raise Denied(f"{key} has not begun in the future: set the clock of {member}")
