"""The audit log: a chain in which nothing can be changed unseen, and what waits for it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.core.audit import NONE, Draft, Entry, Head, Seen, Waiting, fault, follow
from unios.security_limits import AUDIT_KEPT, AUDIT_REPEAT_MS, AUDIT_TEXT_MAX, AUDIT_WAITING_MAX


def draft(what: str = "", outcome: str = "done", at_ms: int = 0) -> Draft:
    return msgspec.convert({"at_ms": at_ms, "node": "n1", "user": "alice", "act": "node.token", "what": what, "outcome": outcome}, Draft)


def log(count: int) -> tuple[Head, list[Entry]]:
    head, entries = Head(), []
    for number in range(count):
        entry, head, _gone = follow(head, draft(str(number)), 8)
        entries.append(entry)
    return head, entries


def test_a_log_that_nobody_touched_is_whole() -> None:
    assert fault(*log(0), None) == ""
    head, entries = log(5)
    assert fault(head, entries, Seen(3, entries[2].hash())) == ""
    assert entries[0].before == NONE


@pytest.mark.parametrize("number", range(5))
def test_a_change_a_removal_and_an_insertion_are_seen_wherever_they_are(number: int) -> None:
    head, entries = log(5)
    changed = [*entries]
    changed[number] = msgspec.structs.replace(entries[number], said=draft("nothing happened"))
    assert "changed" in fault(head, changed, None)
    assert "missing" in fault(head, entries[:number] + entries[number + 1 :], None)
    assert fault(head, [*entries[:number], changed[number], *entries[number:]], None)


@pytest.mark.parametrize("number", range(1, 6))
def test_a_log_that_was_made_anew_is_told_from_one_that_was_seen(number: int) -> None:
    _head, entries = log(5)
    seen = Seen(number, entries[number - 1].hash())
    head, anew = Head(), list[Entry]()
    for each in range(5):
        entry, head, _gone = follow(head, draft(f"other {each}"), 8)
        anew.append(entry)
    assert fault(head, anew, None) == ""
    assert "made anew" in fault(head, anew, seen)
    short, few = log(number - 1)
    assert "taken away" in fault(short, few, seen)


def test_the_log_is_bounded_and_says_from_where_on_it_is_kept() -> None:
    head = Head(AUDIT_KEPT, NONE, 1)
    entry, head, gone = follow(head, draft("x" * 1_000), 8)
    assert gone == ("/audit/000000000001",) and head.first == 2 and len(entry.said.what) == AUDIT_TEXT_MAX
    _entry, after, gone = follow(Head(AUDIT_KEPT + 100, NONE, 1), draft(), 8)
    assert len(gone) == 8 and after.first == 9


def test_what_waits_is_bounded_and_what_was_left_out_is_counted() -> None:
    waiting = Waiting()
    for number in range(AUDIT_WAITING_MAX + 3):
        waiting.add(draft(str(number)))
    first = waiting.take(0)
    assert first is not None and first.what == "0 (and 3 more for which there was no room)"
    waiting.give_back(first)
    assert waiting.take(0) == first


def test_a_refusal_that_repeats_itself_is_written_once_and_then_with_how_often() -> None:
    waiting = Waiting()
    for _ in range(3):
        waiting.add(draft("no", "denied"))
    first = waiting.take(0)
    assert first is not None and first.times == 3
    for _ in range(7):
        waiting.add(draft("no", "denied"))
    assert waiting.take(AUDIT_REPEAT_MS - 1) is None
    later = waiting.take(AUDIT_REPEAT_MS)
    assert later is not None and later.times == 7
    assert waiting.take(2 * AUDIT_REPEAT_MS) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["done", "denied"]), st.integers(0, 3 * AUDIT_REPEAT_MS), st.booleans())))
def test_nothing_that_was_done_is_lost_or_counted_twice(steps: list[tuple[str, str, int, bool]]) -> None:
    waiting, written, now = Waiting(), 0, 0
    for what, outcome, passed, fails in steps:
        now += passed
        waiting.add(draft(what, outcome, now))
        said = waiting.take(now)
        if said is not None and fails:
            waiting.give_back(said)
        elif said is not None:
            written += said.times
    for _ in range(2):
        now += 2 * AUDIT_REPEAT_MS
        while (said := waiting.take(now)) is not None:
            written += said.times
    assert written == len(steps)
