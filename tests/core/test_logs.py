"""Records of logs: how they change, and where replicas go."""

import msgspec
import pytest

from unios.core.logs import Candidate, LogRecord, Span, check_name, choose, claimed, find, moved, plan_repairs, replaced, trimmed
from unios.errors import CallerError, Compacted, Unavailable
from unios.log_limits import LOG_SPANS_MAX

NEW = LogRecord("x", "root")
A, B, C = (Candidate(f"n{number}", f"m{number}") for number in (1, 2, 3))
NEAR = Candidate("n9", "m1")


def written() -> LogRecord:
    """Two closed spans and an open one."""
    record = moved(claimed(NEW, "w1"), at=0, holders=(), replicas=("n1", "n2"))
    record = moved(record, at=10, holders=("n2",), replicas=("n2", "n3"))
    return moved(claimed(record, "w2"), at=30, holders=("n2", "n3"), replicas=("n1", "n3"))


def test_spans_join_and_those_that_may_have_less_come_last() -> None:
    record = written()
    assert [(span.first, span.end, span.replicas, span.epoch) for span in record.spans] == [
        (0, 10, ("n2", "n1"), 1),
        (10, 30, ("n2", "n3"), 1),
        (30, -1, ("n1", "n3"), 2),
    ]
    assert record.closed_end == 30 and msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=LogRecord) == record


def test_a_span_in_which_nothing_was_written_leaves_nothing_but_its_number() -> None:
    record = moved(claimed(written(), "w3"), at=30, holders=("n1",), replicas=("n2", "n3"))
    assert [span.number for span in record.spans] == [1, 2, 4]


def test_what_is_trimmed_is_gone_and_does_not_come_back() -> None:
    record = trimmed(trimmed(written(), 12), 5)
    assert record.first == 12 and [span.number for span in record.spans] == [2, 3]
    with pytest.raises(Compacted):
        find(record, 11)
    assert find(record, 12) == record.spans[0] and find(record, 31) == record.spans[1]


def test_a_closed_log_is_not_trimmed_beyond_its_end() -> None:
    closed = trimmed(moved(written(), at=40, holders=("n1",), replicas=()), 100)
    assert closed.first == 40 == closed.closed_end and find(closed, 40) is None


def test_a_record_is_bounded() -> None:
    record = claimed(NEW, "w")
    for number in range(LOG_SPANS_MAX):
        record = moved(record, at=number, holders=("n1",), replicas=("n1",))
    with pytest.raises(Unavailable, match="trim it"):
        moved(record, at=LOG_SPANS_MAX, holders=("n1",), replicas=("n1",))


def test_replicas_go_to_different_machines_where_there_are_several() -> None:
    assert choose((A, NEAR, B), copies=2) == ("n1", "n2")
    assert choose((A, NEAR), copies=2) == ("n1", "n9")
    assert choose((A, B, C), copies=2, keep=("n3",)) == ("n3", "n1")
    assert choose((A, B, C), copies=2, avoid=("n1",)) == ("n2", "n3")
    assert choose((A, B), copies=2, avoid=("n1",)) == ("n2", "n1")


def test_a_closed_span_with_too_few_replicas_is_copied() -> None:
    record = written()
    assert plan_repairs(record, (A, B, C)) == []
    (repair,) = plan_repairs(record, (A, B, C), {(1, "n1")})
    assert (repair.span.number, repair.sources, repair.target, repair.gone) == (1, ("n2",), "n1", ("n1",))
    one, other = plan_repairs(record, (A, C))  # n2 is lost
    assert (one.target, other.target) == ("n3", "n1") and one.gone == ("n2",)
    assert replaced(record, one.span, gone=one.gone, by=one.target).spans[0].replicas == ("n3", "n1")
    assert plan_repairs(record, ()) == []
    with pytest.raises(Compacted):
        replaced(trimmed(record, 10), one.span, gone=(), by="n3")


def test_a_replica_that_is_away_is_remembered_while_there_are_too_few() -> None:
    record = msgspec.structs.replace(NEW, copies=3, spans=(Span(1, 1, 0, ("n1", "n2"), 5),))
    assert replaced(record, record.spans[0], gone=("n1",), by="n3").spans[0].replicas == ("n3", "n1", "n2")


@pytest.mark.parametrize("name", ["", "a//b", "/a", "..", "a/../b", "a\n", "x" * 121])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(CallerError):
        check_name(name)
    check_name("a/b.c")
