"""Records of logs, at the bounds of what their functions promise: names, keys, what is trimmed, what is repaired and where."""

import pytest

from unios.core.logs import Candidate, LogRecord, Repair, Span, check_name, claimed, find, log_key, plan_repairs, replaced, trimmed
from unios.errors import CallerError, Compacted
from unios.log_limits import LOG_NAME_BYTES_MAX

FIRST, SECOND, THIRD = Span(1, 1, 0, ("a", "b"), 10), Span(2, 1, 10, ("a", "c"), 20), Span(3, 2, 20, ("b", "c"), 30)
CLOSED = LogRecord("log", "u", epoch=2, numbers=3, spans=(FIRST, SECOND, THIRD))
OPEN = LogRecord("log", "u", epoch=3, numbers=4, spans=(FIRST, Span(4, 3, 10, ("a", "b"))))


def test_a_name_may_be_just_so_long_and_no_part_of_it_may_be_a_way_through_folders() -> None:
    check_name("x" * LOG_NAME_BYTES_MAX)
    for name in ("", ".", "..", "a/./b", "a/../b", "a//b", "a\n", "x" * (LOG_NAME_BYTES_MAX + 1)):
        with pytest.raises(CallerError, match="is no name for a log"):
            check_name(name)


def test_the_key_of_a_users_log_cannot_be_that_of_another_user() -> None:
    assert log_key("a/b", "c") == "/logs/a%2Fb/c" != log_key("a", "b/c")


def test_who_claims_a_log_is_its_writer() -> None:
    assert claimed(CLOSED, "me") == LogRecord("log", "u", epoch=3, writer="me", numbers=3, spans=CLOSED.spans)


def test_an_open_log_is_trimmed_as_far_as_is_said_and_a_closed_one_no_further_than_its_end() -> None:
    assert (trimmed(OPEN, 25).first, trimmed(OPEN, 25).spans) == (25, OPEN.spans[1:])
    assert (trimmed(CLOSED, 99).first, trimmed(CLOSED, 99).spans) == (30, (THIRD,))  # the last one says where the log ends
    assert trimmed(CLOSED, 20).spans == (THIRD,) and trimmed(CLOSED, 19).spans == (SECOND, THIRD)
    assert trimmed(LogRecord("log", "u"), 5) == LogRecord("log", "u")


def test_a_copy_in_the_place_of_another_leaves_all_other_spans_as_they_were() -> None:
    for index, span in enumerate(CLOSED.spans):
        found = replaced(CLOSED, span, gone=("c", "a"), by="d").spans
        assert [each for at, each in enumerate(found) if at != index] == [each for at, each in enumerate(CLOSED.spans) if at != index]
        assert found[index].replicas[0] == "d"
    with pytest.raises(Compacted, match="span 9 of the log log is not there"):
        replaced(CLOSED, Span(9, 1, 0, (), 10), gone=(), by="d")


def test_an_offset_is_found_in_the_span_that_it_begins() -> None:
    assert [find(CLOSED, offset) for offset in (0, 9, 10, 29, 30)] == [FIRST, FIRST, SECOND, THIRD, None]
    assert find(OPEN, 99) == OPEN.last
    with pytest.raises(Compacted, match="trimmed up to 7: 6 is gone"):
        find(trimmed(CLOSED, 7), 6)


def test_no_copy_is_made_of_what_is_open_trimmed_or_nowhere_and_what_comes_after_it_is_looked_at() -> None:
    nodes = [Candidate("b", "1"), Candidate("d", "2")]
    assert [repair.span for repair in plan_repairs(OPEN, nodes)] == [FIRST]
    record = LogRecord("log", "u", first=10, spans=(FIRST, Span(2, 1, 10, ("x",), 20), THIRD))  # trimmed; on no node that is there; with one copy
    assert plan_repairs(record, nodes) == [Repair(THIRD, ("b",), "d", ("c",))]
    assert plan_repairs(record, [Candidate("x", "1"), Candidate("a", "2")])[0].span.number == 2


def test_a_copy_goes_to_another_machine_than_what_is_left_and_there_to_one_that_had_it_before() -> None:
    record = LogRecord("log", "u", copies=3, spans=(Span(1, 1, 0, ("a", "b", "c"), 10),))
    near, far, had = Candidate("x", "1"), Candidate("y", "2"), Candidate("b", "3")
    bad = [(1, "b")]
    assert plan_repairs(record, [Candidate("a", "1"), near, far], bad)[0].target == "y"
    assert plan_repairs(record, [Candidate("a", "1"), near, far, had], bad) == [Repair(record.spans[0], ("a",), "b", ("b", "c"))]
