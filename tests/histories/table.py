"""The process table, as clients on several nodes saw it, and what the programs did meanwhile. Decides only.

- A pid is given once, and what was submitted is there to the end (none lost), ended by then.
- Of one process one client sees, through one node, incarnations that never fall and, within one, states that only go forward.
- An incarnation ends once: whoever sees it ended sees the same state and exit code; the code is the program's own, or a signal's.
- A process runs once at a time: no effect of an incarnation comes after one of a later one.

Asked are `submit` (name, exit code) -> pid, `view` pid -> [pid, incarnation, state, exit code], `list` -> many of these, `kill` pid; `ran` says when effects
of [pid, incarnation] were heard first and last. A `list` with the note `last` was asked for when everything had healed and should have ended.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tests.histories.history import Asked
from tests.histories.linear import GOOD, Verdict
from unios.core.processes import ENDED, LIVE

RANK: Final = {"pending": 0} | dict.fromkeys(LIVE - {"pending"}, 1) | dict.fromkeys(ENDED, 2)
SIGNALS: Final = range(129, 129 + 64)


class Sight(NamedTuple):
    """A process as a client saw it."""

    at_ns: int
    client: str
    pid: int
    incarnation: int
    state: str
    exit_code: int | None
    is_last: bool

    def __str__(self) -> str:
        what = f"process {self.pid}.{self.incarnation} is {self.state}"
        return f"{self.at_ns / 1e6:14.3f} ms  {self.client}: {what}" + (f" with {self.exit_code}" if self.exit_code is not None else "")


class Ran(NamedTuple):
    """Effects of an incarnation, from the first that was heard to the last."""

    pid: int
    incarnation: int
    first_ns: int
    last_ns: int

    def __str__(self) -> str:
        return f"{self.first_ns / 1e6:14.3f} to {self.last_ns / 1e6:14.3f} ms  {self.pid}.{self.incarnation} had effects"


def sights(asked: Sequence[Asked]) -> Iterator[Sight]:
    """Return what was seen, by the end of asking."""
    ended = [one for one in asked if one.ended is not None and one.outcome == "ok" and one.began.action in ("view", "list")]
    for one in sorted(ended, key=lambda one: one.ended.at_ns if one.ended else 0):
        assert one.ended is not None
        for pid, incarnation, state, exit_code in [one.ended.result] if one.began.action == "view" else one.ended.result:
            yield Sight(one.ended.at_ns, one.began.client, pid, incarnation, state, exit_code, one.ended.note == "last")


def check(asked: Sequence[Asked]) -> Verdict:
    """Say whether one machine could have had this table, and run these processes."""
    seen = list(sights(asked))
    for look in (_given_once, _none_lost):
        verdict = look(asked, seen)
        if not verdict.is_good:
            return verdict
    for verdict in (_forward(seen), _ended_once(asked, seen), _one_at_a_time(asked)):
        if not verdict.is_good:
            return verdict
    return GOOD


def submitted(asked: Sequence[Asked]) -> list[tuple[int, str, int]]:
    """Return (pid, name, exit code) of what was submitted for certain."""
    return [(int(one.ended.result), *one.began.argument) for one in asked if one.began.action == "submit" and one.outcome == "ok" and one.ended]


def _given_once(asked: Sequence[Asked], _seen: Sequence[Sight]) -> Verdict:
    given: dict[int, str] = {}
    for pid, name, _code in submitted(asked):
        if pid in given:
            return Verdict("bad", (), f"pid {pid} was given to {given[pid]} and to {name}")
        given[pid] = name
    return GOOD


def _none_lost(asked: Sequence[Asked], seen: Sequence[Sight]) -> Verdict:
    last = {sight.pid: sight for sight in seen if sight.is_last}
    if not any(one.ended is not None and one.ended.note == "last" for one in asked):
        return GOOD
    for pid, name, _code in submitted(asked):
        if pid not in last:
            return Verdict("bad", tuple(sight for sight in seen if sight.pid == pid), f"process {pid} ({name}) was submitted and is nowhere")
        if last[pid].state not in ENDED:
            return Verdict("bad", tuple(sight for sight in seen if sight.pid == pid), f"process {pid} ({name}) should have ended long ago")
    return GOOD


def _forward(seen: Sequence[Sight]) -> Verdict:
    latest: dict[tuple[str, int], Sight] = {}
    for sight in seen:
        before = latest.get((sight.client, sight.pid))
        if before is not None and (sight.incarnation, RANK[sight.state]) < (before.incarnation, RANK[before.state]):
            return Verdict("bad", (before, sight), f"to {sight.client} process {sight.pid} went back")
        latest[sight.client, sight.pid] = sight
    return GOOD


def _ended_once(asked: Sequence[Asked], seen: Sequence[Sight]) -> Verdict:
    codes = {pid: code for pid, _name, code in submitted(asked)}
    ends: dict[tuple[int, int], Sight] = {}
    for sight in seen:
        if sight.state not in ENDED:
            continue
        first = ends.setdefault((sight.pid, sight.incarnation), sight)
        if (first.state, first.exit_code) != (sight.state, sight.exit_code):
            return Verdict("bad", (first, sight), f"process {sight.pid} ended twice")
        if sight.state == "exited" and sight.pid in codes and sight.exit_code != codes[sight.pid] and sight.exit_code not in SIGNALS:
            return Verdict("bad", (sight,), f"process {sight.pid} ends with {codes[sight.pid]} and not so")
    return GOOD


def _one_at_a_time(asked: Sequence[Asked]) -> Verdict:
    spans = sorted(Ran(*one.began.argument, one.began.at_ns, one.ended.at_ns) for one in asked if one.began.action == "ran" and one.ended is not None)
    for earlier in spans:
        for later in spans:
            if later.pid == earlier.pid and later.incarnation > earlier.incarnation and later.first_ns <= earlier.last_ns:
                return Verdict("bad", (earlier, later), f"two incarnations of process {earlier.pid} ran at a time")
    return GOOD


def stale_ns(asked: Sequence[Asked]) -> int:
    """Return by how much the oldest answer was older than what some client had been told before it was asked for: a figure, and no verdict, since every node
    answers from its own copy of the table."""
    begun = {(one.began.client, one.ended.at_ns): one.began.at_ns for one in asked if one.ended is not None}
    worst = 0
    newest: dict[int, list[Sight]] = {}
    for sight in sights(asked):
        asked_ns = begun[sight.client, sight.at_ns]
        for other in newest.setdefault(sight.pid, []):
            if other.at_ns < asked_ns and (other.incarnation, RANK[other.state]) > (sight.incarnation, RANK[sight.state]):
                worst = max(worst, asked_ns - other.at_ns)
        if not newest[sight.pid] or (sight.incarnation, RANK[sight.state]) > (newest[sight.pid][-1].incarnation, RANK[newest[sight.pid][-1].state]):
            newest[sight.pid].append(sight)
    return worst
