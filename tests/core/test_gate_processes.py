"""What a member that speaks for one ordinary user may say of his processes. Each rule has a test that fails without it."""

from typing import Any

import msgspec
import pytest

from unios.core import claims, gate
from unios.core.gate import Member
from unios.core.processes import ProcessRecord, ProcessSpec, process_key, spec_key
from unios.demands import Placing, Queueing, Resources, Usage
from unios.errors import Denied
from unios.limits import CLOCK_OFFSET_MS_JOIN_MAX, GATE_CLOCK_MS_MAX

BOBS = Member("n2", "m2", ("bob",))
ANYBODYS = Member("n2", "m2", ("*",))
NOW = 1_700_000_000_000
KEY, SPEC = process_key(400), spec_key(400)
WAITING = claims.submitted(400, ProcessSpec(argv=(b"x",), user="bob", restart="always"), "bob", "", "", NOW)
ASSIGNED = claims.placed(WAITING, "n2", "")
RUNNING = claims.started(ASSIGNED, NOW)
ELSEWHERE = msgspec.structs.replace(RUNNING, node="n1")
ENDED = claims.ended(RUNNING, 0, None, "", NOW)


def put(record: ProcessRecord, old: ProcessRecord | None = None, member: Member = BOBS) -> None:
    now = {KEY: msgspec.msgpack.encode(old)} if old is not None else {}
    gate.check_put(member, KEY, msgspec.msgpack.encode(record), now, (KEY, SPEC), NOW)


def denied(record: ProcessRecord, old: ProcessRecord | None = None, member: Member = BOBS) -> str:
    with pytest.raises(Denied) as refused:
        put(record, old, member)
    return str(refused.value)


def but(record: ProcessRecord, **fields: Any) -> ProcessRecord:
    return msgspec.structs.replace(record, **fields)


def test_a_process_begins_as_the_services_have_it_begin() -> None:
    put(WAITING)
    put(but(WAITING, reason="waits for a core", queueing=Queueing(held=True, array=400)))


def test_a_member_gives_no_process_a_node() -> None:
    """That would be past the queue and past the quota of its user."""
    for node in ("n2", "n1"):
        assert "queue" in denied(but(WAITING, node=node))
        assert "queue" in denied(claims.placed(WAITING, node, ""), WAITING)
        assert "queue" in denied(claims.claimed(RUNNING, node, "lost"), RUNNING)
        assert "queue" in denied(claims.restarted(ENDED, node), ENDED)
    denied(claims.placed(ASSIGNED, "n1", ""), ASSIGNED)
    denied(but(RUNNING, node="n1"), RUNNING)
    denied(but(ENDED, node="n1"), ENDED)


def test_a_member_takes_a_node_away_and_lets_the_queue_look_for_another() -> None:
    put(claims.placed(ASSIGNED, "", "no room"), ASSIGNED)
    put(claims.claimed(RUNNING, "", "lost"), RUNNING)
    put(claims.claimed(ELSEWHERE, "", "n1 was lost"), ELSEWHERE)
    put(claims.restarted(ENDED, ""), ENDED)


def test_a_member_says_of_no_node_that_it_has_refused() -> None:
    refused = claims.placed(WAITING, "", "no such program", refused=("n1",))
    assert "cannot run" in denied(refused, WAITING)
    assert "cannot run" in denied(refused)
    put(but(refused, wanted="stopped"), refused)
    put(but(refused, refused=()), refused)


def test_a_process_came_when_it_came() -> None:
    """Else it would stand at the front of the queue."""
    for offset in (-GATE_CLOCK_MS_MAX, GATE_CLOCK_MS_MAX):
        put(but(WAITING, created_ms=NOW + offset))
    assert "behind" in denied(but(WAITING, created_ms=NOW - GATE_CLOCK_MS_MAX - 1))
    assert "ahead" in denied(but(WAITING, created_ms=NOW + GATE_CLOCK_MS_MAX + 1))
    denied(but(WAITING, created_ms=0))
    denied(but(WAITING, created_ms=NOW - 1), WAITING)


@pytest.mark.parametrize(
    "past",
    [
        {"incarnation": 2},
        {"incarnation": 0},
        {"state": "running"},
        {"state": "exited"},
        {"wanted": "stopped"},
        {"restarts": 1},
        {"restarts": -1},
        {"exit_code": 0},
        {"signal": 9},
        {"started_ms": 1},
        {"ended_ms": 1},
        {"usage": Usage(cpu_ms=1)},
        {"results": b"r" * 32},
    ],
)
def test_a_new_process_has_no_past(past: dict[str, Any]) -> None:
    denied(but(WAITING, **past))


@pytest.mark.parametrize(
    "other",
    [
        {"user": "eve"},
        {"argv": (b"y",)},
        {"created_ms": NOW + 1},
        {"pinned": "n1"},
        {"restart": "never"},
        {"restarts_max": 99},
        {"on_partition": "keep"},
        {"spec_pid": 399},
        {"resources": Resources(cpu_milli=0)},
        {"placing": Placing(label="x")},
        {"carried": b"m" * 32},
        {"queueing": Queueing(priority=1)},
        {"queueing": Queueing(time_limit_ms=1)},
        {"queueing": Queueing(array=300)},
    ],
)
def test_what_it_was_submitted_with_stays(other: dict[str, Any]) -> None:
    """With other demands, for one, it would count for less than it has against its user's quota."""
    for old in (WAITING, RUNNING, ENDED):
        assert "submitted" in denied(but(old, **other), old, ANYBODYS)


def test_it_is_held_and_released() -> None:
    held = but(WAITING, queueing=Queueing(held=True), reason="held")
    put(held, WAITING)
    put(WAITING, held)
    put(claims.ended(claims.stopped(WAITING), 143, None, "cancelled", NOW), WAITING)


def test_a_member_raises_no_priority_over_the_default() -> None:
    put(but(WAITING, queueing=Queueing(priority=16)))
    denied(but(WAITING, queueing=Queueing(priority=17)))
    high = but(WAITING, queueing=Queueing(priority=20))
    put(high, high)


def test_a_member_favours_no_process_by_a_nice_value() -> None:
    for nice in (-1, -20, 100):
        denied(but(WAITING, nice=nice))
        denied(but(RUNNING, nice=nice), RUNNING)
    put(but(WAITING, nice=19))
    favoured = but(RUNNING, nice=-5)
    put(favoured, favoured)
    put(but(RUNNING, nice=3), favoured)
    denied(but(RUNNING, nice=-6), favoured)


def test_one_that_waits_does_not_become_one_that_was_lost() -> None:
    """Those go before all others."""
    denied(claims.claimed(WAITING, "", "lost"), WAITING)
    again = claims.claimed(RUNNING, "", "lost")
    denied(claims.claimed(again, "", "lost"), again)


def test_incarnations_and_restarts_are_counted_one_by_one() -> None:
    ended, running = but(ENDED, incarnation=3, restarts=1), but(RUNNING, incarnation=3, restarts=1)
    put(but(ended, state="pending", node="", incarnation=4, restarts=2), ended)
    put(but(running, state="pending", node="", incarnation=4), running)
    for incarnation, restarts in ((2, 1), (3, 0), (3, 2), (4, 0), (4, 1), (4, 3), (5, 2), (5, 3)):
        denied(but(ended, state="pending", node="", incarnation=incarnation, restarts=restarts), ended)
    for incarnation, restarts in ((2, 1), (3, 2), (4, 0), (4, 2), (5, 1)):
        denied(but(running, state="pending", node="", incarnation=incarnation, restarts=restarts), running)
    denied(but(running, node="", incarnation=4), running)


def test_what_runs_or_has_ended_begins_again_as_the_next_incarnation_only() -> None:
    """The same one twice could run twice."""
    for old in (RUNNING, ENDED):
        denied(but(old, state="pending", node=""), old)
    denied(but(ENDED, state="running"), ENDED)
    denied(but(ENDED, state="failed"), ENDED)


def test_only_its_node_tells_what_became_of_a_run() -> None:
    put(RUNNING, ASSIGNED)
    put(but(ENDED, usage=Usage(5, 5), results=b"r" * 32), RUNNING)
    elsewhere = but(ASSIGNED, node="n1")
    for told in (ELSEWHERE, but(elsewhere, started_ms=1)):
        denied(told, elsewhere)
    for told in ({"started_ms": NOW - 1}, {"usage": Usage(5, 5)}, {"results": b"r" * 32}):
        denied(but(ELSEWHERE, **told), ELSEWHERE)
    denied(but(WAITING, state="running"), WAITING)
    put(claims.lost(ELSEWHERE, "n1 was lost", NOW), ELSEWHERE)


def test_what_was_used_does_not_shrink() -> None:
    used = but(RUNNING, usage=Usage(5, 5))
    for less in (Usage(4, 5), Usage(5, 4)):
        denied(but(used, usage=less), used)


def test_nothing_has_begun_in_the_future() -> None:
    """It would count as use below zero."""
    put(but(RUNNING, started_ms=NOW + CLOCK_OFFSET_MS_JOIN_MAX), ASSIGNED)
    assert "clock" in denied(but(RUNNING, started_ms=NOW + CLOCK_OFFSET_MS_JOIN_MAX + 1), ASSIGNED)
