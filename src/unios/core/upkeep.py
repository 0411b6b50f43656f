"""Upkeep of the members of the system's own etcd: when to compact, which one to defragment, when to take back an alarm. Decides one step at a time.

A member that is defragmented answers nothing meanwhile. Invariants:
- only while every member answers, none learns, and no other is being defragmented: at most one is away by it;
- the one that leads comes last: while it is away the others have to elect;
- only what pays: it gives back a good part of the file, or room is short;
- an alarm of no space is taken back only when there is room again.
"""

from collections.abc import Collection, Sequence
from typing import Final, Literal, NamedTuple

MIB: Final = 1024 * 1024
PAYS_BYTES: Final = 64 * MIB
"""Below this a file may have as many holes as it likes."""
SHORT_PERCENT: Final = 75
"""From so much of the quota on room is short: a person is told, and less pays."""
ROOM_PERCENT: Final = 90
"""Below so much of it there is room again."""


class State(NamedTuple):
    """A member as it says itself. `used_bytes` of its `bytes` hold something."""

    id: int
    name: str
    answers: bool
    learner: bool
    leader: bool
    bytes: int
    used_bytes: int
    alarm: str = ""


class Upkeep(NamedTuple):
    what: Literal["compact", "defragment", "disarm"]
    member: int
    why: str


def is_short(bytes_: int, quota_bytes: int) -> bool:
    return bool(quota_bytes) and bytes_ * 100 >= quota_bytes * SHORT_PERCENT


def decide(members: Sequence[State], quota_bytes: int, *, compacted: bool, rewritten: Collection[int] = ()) -> Upkeep | None:
    """Return what is to be done next. `compacted`: it has been, since room became short; `rewritten`: who has been defragmented since then.

    One that takes no writes does not say what a compaction has freed, as it counts when it writes: all are defragmented then, once.
    """
    if not members or any(one.learner or not one.answers or one.alarm == "corrupt" for one in members):
        return None
    full = [one for one in members if one.alarm == "nospace"]
    short = bool(full) or any(is_short(one.bytes, quota_bytes) for one in members)
    if short and not compacted:
        return Upkeep("compact", 0, "its file has come near what it may have")
    if len(members) > 1 or short:  # the only one stops everything while it is away
        paying = [one for one in members if (one.id not in rewritten if full else _pays(one, short=short))]
        if paying:
            best = min(paying, key=lambda one: (one.leader, one.used_bytes - one.bytes, one.id))
            return Upkeep("defragment", best.id, f"{best.name}'s file has {best.bytes // MIB} MiB, of which {best.used_bytes // MIB} hold something")
    if full and quota_bytes and all(one.bytes * 100 < quota_bytes * ROOM_PERCENT for one in members):
        return Upkeep("disarm", full[0].id, f"{full[0].name} has room again")
    return None


def _pays(one: State, *, short: bool) -> bool:
    free = one.bytes - one.used_bytes
    return free >= (max(MIB, one.bytes // 10) if short else max(PAYS_BYTES, one.bytes // 2))
