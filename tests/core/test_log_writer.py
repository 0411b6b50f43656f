"""The writer of a log: acknowledged is what every replica has, in order, and by nobody but the one who has the epoch."""

import pytest

from unios.core.log_replica import Refused
from unios.core.log_writer import Acknowledge, Change, Create, Send, Stop, Tell, Writer
from unios.core.logs import Candidate, LogRecord, Span, moved
from unios.log_limits import LOG_BATCH_BYTES, LOG_BATCH_ENTRIES_MAX, LOG_CALM_TICKS, LOG_SPANS_MAX

RECORD = LogRecord("log", "u", epoch=4, writer="me", numbers=1, spans=(Span(1, 3, 0, ("a", "b"), 10),))
A, B, C = (Candidate(node, f"machine-{node}") for node in "abc")


def preparing(nodes: tuple[Candidate, ...] = (A, B, C), record: LogRecord = RECORD) -> Writer:
    writer = Writer(record, 7, at=10, holders=("a", "b"), nodes=nodes)
    assert (writer.state, writer.end, writer.replicas, writer.pending_bytes) == ("short", 10, (), 0)
    assert writer.start() == [Create("a", 2, 4, 10), Create("b", 2, 4, 10)] and writer.state == "preparing"
    return writer


def opened() -> Writer:
    writer = preparing()
    assert writer.prepared("a", 2) == []
    (change,) = writer.prepared("b", 2)
    assert change == Change(moved(RECORD, at=10, holders=("a", "b"), replicas=("a", "b")), 7) and writer.state == "recording"
    assert writer.changed(8) == [] and (writer.state, writer.version, writer.replicas) == ("open", 8, ("a", "b"))
    return writer


def test_an_entry_is_acknowledged_when_every_replica_has_it_and_told_with_the_next_one() -> None:
    writer = opened()
    assert writer.submit([b"x", b"yz"]) == [Send(node, 2, 4, 10, (b"x", b"yz"), 10) for node in "ab"]
    assert (writer.end, writer.pending_bytes) == (12, 3)
    assert writer.submit([b"w"]) == [] and writer.pending_bytes == 4, "each is asked for one thing at a time"
    assert writer.answered("a", 2, 12) == [Send("a", 2, 4, 12, (b"w",), 10)]
    assert writer.answered("b", 2, 11) == [Acknowledge(11), Send("b", 2, 4, 11, (b"yz", b"w"), 11)]
    assert (writer.confirmed, writer.end, writer.pending_bytes) == (11, 13, 3)
    assert writer.answered("a", 2, 13) == [] and writer.answered("b", 2, 13) == [Acknowledge(13)]
    assert writer.tick((A, B)) == [Tell("a", 2, 4, 13), Tell("b", 2, 4, 13)] and writer.tick((A, B)) == []
    assert writer.submit([b"v"]) == [Send(node, 2, 4, 13, (b"v",), 13) for node in "ab"] and writer.tick((A, B)) == []


def test_a_replica_cannot_have_more_than_was_written_and_one_that_has_less_than_it_said_loses_its_place() -> None:
    writer = opened()
    writer.submit([b"x"])
    assert writer.answered("a", 2, 99) == [] and writer.answered("b", 2, 99) == [Acknowledge(11)] and writer.end == 11
    assert writer.answered("a", 2, 11) == []
    assert writer.answered("a", 2, 10) == [Create("b", 3, 4, 11), Create("c", 3, 4, 11)]


def test_answers_of_another_span_or_of_no_replica_count_for_nothing() -> None:
    writer = opened()
    writer.submit([b"x"])
    for number, node in ((1, "a"), (3, "a"), (2, "c")):
        assert writer.answered(node, number, 11) == [] == writer.lost(node, number)
    assert writer.refused("a", 1, Refused("fenced", 9)) == [] and (writer.state, writer.confirmed) == ("open", 10)
    writer = preparing()
    assert writer.prepared("a", 1) == writer.prepared("c", 2) == writer.answered("a", 2, 11) == writer.submit([b"x"]) == writer.changed(9) == []
    assert writer.found(RECORD, 9) == writer.tick((A, B, C)) == [] and (writer.state, writer.version) == ("preparing", 7)


def test_what_is_not_acknowledged_keeps_its_offset_and_is_sent_again_to_the_next_span() -> None:
    writer = opened()
    writer.submit([b"x", b"y"])
    writer.answered("a", 2, 12)
    writer.answered("b", 2, 11)
    assert writer.lost("b", 2) == [Create("a", 3, 4, 11), Create("c", 3, 4, 11)] and writer.state == "preparing"
    assert writer.answered("b", 2, 12) == [] and writer.confirmed == 11, "it comes too late"
    assert writer.prepared("c", 3) == []
    before = writer.record
    assert writer.prepared("a", 3) == [Change(moved(before, at=11, holders=("a", "b"), replicas=("a", "c")), 8)]
    assert writer.lost("a", 3) == [], "while the record is being changed nothing else is begun"
    assert writer.changed(9) == [Send(node, 3, 4, 11, (b"y",), 11) for node in "ac"]


def test_one_that_is_lost_while_the_span_is_prepared_is_replaced_and_with_too_few_it_waits() -> None:
    writer = preparing()
    assert writer.lost("b", 2) == [Create("a", 2, 4, 10), Create("c", 2, 4, 10)]
    writer = preparing((A, B))
    assert writer.lost("b", 2) == [Create("a", 2, 4, 10), Create("b", 2, 4, 10)], "there is nobody else"
    assert writer.tick((A,)) == [] and writer.lost("b", 2) == [] and (writer.state, writer.replicas) == ("short", ())
    writer = Writer(RECORD, 7, at=10, holders=("a", "b"), nodes=(A,))
    assert writer.start() == [] and (writer.state, writer.replicas) == ("short", ()) and writer.lost("a", 2) == [] == writer.submit([b"x"])
    assert writer.refused("a", 2, Refused("gone")) == [] == writer.prepared("a", 2)
    assert writer.tick((A, C)) == [Create("a", 2, 4, 10), Create("c", 2, 4, 10)]


def test_a_newer_epoch_ends_the_writer_and_every_other_refusal_costs_a_place() -> None:
    for refused in (Refused("fenced", 4), Refused("gone"), Refused("hole", 9)):
        assert opened().refused("b", 2, refused) == [Create("a", 3, 4, 10), Create("c", 3, 4, 10)]
    writer = opened()
    writer.submit([b"x"])
    assert writer.refused("b", 2, Refused("fenced", 5)) == [Stop("another writer has taken the log log over (epoch 5)")]
    assert (
        writer.state == "stopped" and writer.answered("a", 2, 11) == writer.answered("b", 2, 11) == writer.tick((A, B)) == writer.lost("a", 2) == []
    )


def recording() -> tuple[Writer, LogRecord]:
    writer = preparing()
    writer.prepared("a", 2)
    (change,) = writer.prepared("b", 2)
    assert isinstance(change, Change)
    writer.submit([b"x"])
    return writer, change.record


def test_a_change_of_the_record_that_nobody_knows_of_is_looked_for() -> None:
    writer, put = recording()
    assert writer.found(put, 9) == [Send(node, 2, 4, 10, (b"x",), 10) for node in "ab"] and (writer.state, writer.version) == ("open", 9)
    writer, put = recording()
    assert writer.found(RECORD, 11) == [Change(put, 11)] and writer.state == "recording"
    assert writer.changed(12) != [] and writer.version == 12
    writer, put = recording()
    assert writer.found(LogRecord("log", "u", epoch=5), 9) == [Stop("another writer has taken the log log over (epoch 5)")]
    assert writer.state == "stopped"


def test_a_record_that_is_full_ends_the_writer_with_a_sentence_that_says_what_to_do() -> None:
    spans = tuple(Span(number, 3, number, ("a",), number + 1) for number in range(LOG_SPANS_MAX))
    writer = Writer(LogRecord("log", "u", epoch=4, spans=spans), 7, at=10, holders=(), nodes=(A, B))
    writer.start()
    writer.prepared("a", 1)
    (stop,) = writer.prepared("b", 1)
    assert isinstance(stop, Stop) and "trim it" in stop.why and writer.state == "stopped"


def test_a_batch_is_bounded_in_entries_and_in_bytes_and_one_entry_always_goes() -> None:
    for entries, count in (
        ([b""] * (LOG_BATCH_ENTRIES_MAX + 1), LOG_BATCH_ENTRIES_MAX),
        ([b"x" * (LOG_BATCH_BYTES - 1), b"y", b"z"], 2),
        ([b"x" * (LOG_BATCH_BYTES + 1), b"y"], 1),
    ):
        writer = opened()
        orders = writer.submit(entries)
        assert [len(order.entries) for order in orders if isinstance(order, Send)] == [count, count]


def test_a_span_with_too_few_replicas_is_followed_by_one_with_more_when_there_are_nodes_and_those_that_failed_count_after_a_calm() -> None:
    record = LogRecord("log", "u", copies=3, least=2, epoch=4, writer="me", numbers=1, spans=RECORD.spans)
    writer = preparing((A, B), record)
    writer.prepared("a", 2)
    writer.prepared("b", 2)
    writer.changed(8)
    assert writer.tick((A, B)) == []
    assert writer.tick((B, A, C)) == [Create(node, 3, 4, 10) for node in "bac"]
    for node in "bac":
        writer.prepared(node, 3)
    writer.changed(9)
    assert writer.lost("c", 3) == [Create("b", 4, 4, 10), Create("a", 4, 4, 10)]
    writer.prepared("a", 4)
    writer.prepared("b", 4)
    writer.changed(10)
    for _tick in range(LOG_CALM_TICKS - 1):
        assert writer.tick((A, B, C)) == []
    assert writer.tick((A, B, C)) == [Create(node, 5, 4, 10) for node in "abc"]


@pytest.mark.parametrize("away", [True, False])
def test_one_that_failed_and_went_away_is_as_good_as_any_when_it_comes_back(away: bool) -> None:
    record = LogRecord("log", "u", copies=3, least=2, epoch=4, writer="me", numbers=1, spans=RECORD.spans)
    writer = Writer(record, 7, at=10, holders=("a", "b"), nodes=(A, B, C))
    writer.start()
    writer.lost("c", 2)
    writer.prepared("a", 2)
    writer.prepared("b", 2)
    writer.changed(8)
    assert writer.tick((A, B) if away else (A, B, C)) == []
    assert bool(writer.tick((A, B, C))) is away


def test_the_record_says_of_a_closed_span_who_has_all_of_it_and_not_who_was_asked_to_prepare_the_next() -> None:
    record = LogRecord("log", "u", epoch=4, writer="me", numbers=1, spans=(Span(1, 3, 0, ("a", "b")),))
    writer = Writer(record, 7, at=10, holders=("b",), nodes=(A, B, C))
    writer.start()
    assert writer.lost("b", 2) == [Create("a", 2, 4, 10), Create("c", 2, 4, 10)]
    writer.prepared("a", 2)
    assert writer.prepared("c", 2) == [Change(moved(record, at=10, holders=("b",), replicas=("a", "c")), 7)]
    writer.changed(8)
    writer.submit([b"x"])
    writer.answered("a", 2, 11)
    assert writer.answered("c", 2, 11) == [Acknowledge(11)]
    before = writer.record
    assert writer.lost("c", 2) == [Create("a", 3, 4, 11), Create("b", 3, 4, 11)]
    writer.prepared("a", 3)
    assert writer.prepared("b", 3) == [Change(moved(before, at=11, holders=("a", "c"), replicas=("a", "b")), 8)]


def test_who_has_the_last_span_is_kept_for_the_next_one_and_a_span_that_is_whole_is_left() -> None:
    writer = opened()
    assert writer.tick((C, A, B)) == [] and writer.state == "open"
    assert writer.lost("a", 2) == [Create("b", 3, 4, 10), Create("c", 3, 4, 10)]
