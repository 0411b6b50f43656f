"""Taking a log over: nobody sees an end before all who answered have it, and another one who takes over meanwhile ends it."""

from unios.core.log_recovery import Copy, Recovery, Seal
from unios.core.log_replica import Refused
from unios.core.log_writer import Change, Stop
from unios.core.logs import LogRecord, Span, claimed

OPEN_SPAN = Span(3, 4, 10, ("a", "b", "c"))
RECORD = LogRecord("log", "u", copies=3, epoch=4, writer="before", numbers=3, spans=(Span(2, 3, 0, ("a",), 10), OPEN_SPAN))
SEALS = [Seal(replica, 3, 4, 5) for replica in "abc"]


def sealing() -> Recovery:
    recovery = Recovery(RECORD, 7, "me")
    assert (recovery.state, recovery.at, recovery.version, recovery.holders) == ("claiming", 10, 7, ())
    assert recovery.start() == [Change(claimed(RECORD, "me"), 7)]
    assert recovery.changed(8) == SEALS
    assert (recovery.state, recovery.version, recovery.record.epoch, recovery.at) == ("sealing", 8, 5, 10)
    return recovery


def copying() -> Recovery:
    """Where `a` has all, up to 20, and `b` and `c` have less."""
    recovery = sealing()
    assert recovery.sealed("b", 15) == [] == recovery.sealed("a", 20)
    assert recovery.sealed("c", 10) == [Copy("a", "b", OPEN_SPAN, 5, 15, 20), Copy("a", "c", OPEN_SPAN, 5, 10, 20)]
    assert (recovery.state, recovery.at, recovery.holders) == ("copying", 20, ("a",))
    return recovery


def test_it_is_done_when_all_who_have_less_have_the_longest_answer() -> None:
    recovery = copying()
    assert recovery.copied("b") == [] and recovery.state == "copying" and recovery.copied("a") == []
    assert recovery.copied("c") == [] and (recovery.state, recovery.holders) == ("done", ("a", "b", "c"))
    assert recovery.copied("b") == recovery.not_copied("b") == recovery.sealed("a", 30) == recovery.patience() == recovery.away("a") == []
    assert (recovery.state, recovery.at) == ("done", 20)


def test_who_could_not_be_given_the_rest_is_no_holder() -> None:
    recovery = copying()
    assert recovery.not_copied("a") == [] and recovery.not_copied("b") == [] and recovery.state == "copying"
    assert recovery.not_copied("b") == [] and recovery.copied("b") == [] and recovery.copied("c") == []
    assert (recovery.state, recovery.holders) == ("done", ("a", "c"))


def test_where_all_have_the_same_nothing_is_copied_and_one_without_an_open_span_needs_no_seal() -> None:
    recovery = sealing()
    for replica in "abc":
        assert recovery.sealed(replica, 12) == []
    assert (recovery.state, recovery.at, recovery.holders) == ("done", 12, ("a", "b", "c"))
    closed = LogRecord("log", "u", spans=RECORD.spans[:1])
    for empty, end in ((closed, 10), (LogRecord("log", "u", first=4), 4)):
        recovery = Recovery(empty, 1, "me")
        assert recovery.changed(2) == [] and (recovery.state, recovery.at, recovery.version, recovery.span) == ("done", end, 2, None)
        assert recovery.changed(3) == recovery.found(RECORD, 3) == [] and recovery.version == 2


def test_a_record_that_another_one_changed_is_claimed_anew_and_ones_own_that_was_put_counts() -> None:
    recovery = Recovery(RECORD, 7, "me")
    other = claimed(RECORD, "other")
    assert recovery.found(other, 9) == [Change(claimed(other, "me"), 9)] and recovery.state == "claiming"
    assert recovery.found(claimed(other, "me"), 10) == [Seal(replica, 3, 4, 6) for replica in "abc"]
    assert (recovery.state, recovery.version, recovery.record.writer, recovery.at) == ("sealing", 10, "me", 10)


def test_nobody_is_left_out_before_patience_ends_unless_all_have_spoken() -> None:
    recovery = sealing()
    assert recovery.patience() == SEALS, "nobody has answered: all are asked again"
    recovery = sealing()
    assert recovery.sealed("b", 15) == [] and recovery.away("a") == [] and recovery.state == "sealing"
    assert recovery.away("b") == [], "who has answered is not away"
    assert recovery.patience() == [] and (recovery.state, recovery.at, recovery.holders) == ("done", 15, ("b",))
    recovery = sealing()
    recovery.away("a")
    recovery.away("c")
    assert recovery.sealed("b", 15) == [] and recovery.state == "done"


def test_who_was_away_and_answers_after_all_counts_once() -> None:
    recovery = sealing()
    recovery.away("a")
    recovery.sealed("a", 15)
    assert recovery.sealed("b", 15) == [] and recovery.state == "sealing"
    recovery.away("c")
    assert recovery.state == "done"


def test_when_nobody_has_answered_the_first_one_who_does_after_patience_is_enough() -> None:
    recovery = sealing()
    for replica in "abc":
        assert recovery.away(replica) == []
    assert recovery.patience() == SEALS and recovery.state == "sealing"
    recovery.sealed("c", 11)
    assert (recovery.state, recovery.at, recovery.holders) == ("done", 11, ("c",))


def test_a_newer_fence_ends_it_and_every_other_refusal_is_no_answer() -> None:
    for refused in (Refused("fenced", 5), Refused("gone"), Refused("gone", 9)):
        recovery = sealing()
        assert recovery.refused("a", refused) == [] and recovery.state == "sealing"
        recovery.sealed("b", 15)
        assert recovery.sealed("c", 15) == [] and (recovery.state, recovery.holders) == ("done", ("b", "c"))
        assert recovery.refused("b", Refused("fenced", 9)) == [] and recovery.state == "done"
    recovery = sealing()
    assert recovery.refused("a", Refused("fenced", 6)) == [Stop("another writer has taken the log log over (epoch 6)")]
    assert recovery.state == "stopped" and recovery.sealed("a", 15) == [] and recovery.changed(9) == []


def test_a_source_that_cannot_be_read_to_its_end_has_only_what_is_before() -> None:
    recovery = copying()
    assert recovery.source_ends("nobody", 3) == []
    assert recovery.source_ends("a", 17) == [Copy("a", "b", OPEN_SPAN, 5, 15, 17), Copy("a", "c", OPEN_SPAN, 5, 10, 17)]
    assert recovery.source_ends("a", 19) == [Copy("a", "b", OPEN_SPAN, 5, 15, 17), Copy("a", "c", OPEN_SPAN, 5, 10, 17)]
    assert recovery.source_ends("a", 12) == [Copy("b", "a", OPEN_SPAN, 5, 12, 15), Copy("b", "c", OPEN_SPAN, 5, 10, 15)]
    assert recovery.at == 15 and sealing().source_ends("a", 3) == []


def test_a_source_that_is_away_is_replaced_by_the_next_longest_and_without_any_all_are_asked_again() -> None:
    recovery = copying()
    assert recovery.source_away("nobody") == []
    assert recovery.source_away("a") == [Copy("b", "c", OPEN_SPAN, 5, 10, 15)] and recovery.at == 15
    assert recovery.source_away("b") == [] and (recovery.state, recovery.at, recovery.holders) == ("done", 10, ("c",))
    recovery = sealing()
    recovery.away("b")
    recovery.sealed("c", 10)
    assert recovery.sealed("a", 20) == [Copy("a", "c", OPEN_SPAN, 5, 10, 20)]
    assert sealing().source_away("a") == []


def test_of_equal_answers_the_first_by_name_is_the_source() -> None:
    recovery = sealing()
    recovery.sealed("c", 20)
    recovery.sealed("b", 20)
    assert recovery.sealed("a", 15) == [Copy("b", "a", OPEN_SPAN, 5, 15, 20)]


def test_the_record_that_was_put_names_who_takes_over_and_one_who_refuses_is_not_waited_for() -> None:
    recovery = sealing()
    assert recovery.record.writer == "me"
    recovery.refused("a", Refused("gone"))
    recovery.refused("a", Refused("gone"))
    recovery.sealed("a", 15)
    recovery.sealed("b", 15)
    assert recovery.state == "sealing", "there is one more who may answer"
    assert recovery.away("c") == [] and (recovery.state, recovery.holders) == ("done", ("a", "b"))
