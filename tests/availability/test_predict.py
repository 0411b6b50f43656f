"""The prediction is that of the quorums, the table is what was measured, and an answer that nobody can have given is seen."""

from itertools import pairwise

import pytest

from tests.availability import predict, results
from tests.availability.predict import MACHINES, Fault, Phase
from tests.availability.results import Course, Probe

CUT = Fault("m3 is cut off", "cut", ("m3",), 10, 10)
APART = Fault("no two", "cut", MACHINES, 10, 10)


def test_each_calls_the_next() -> None:
    assert [predict.other_of(machine) for machine in MACHINES] == ["m2", "m3", "m1"]


def test_who_reaches_a_majority_is_answered_but_for_calls_of_who_does_not() -> None:
    assert [predict.answered(machine, "store", CUT) for machine in MACHINES] == [True, True, False]
    assert [predict.answered(machine, "call", CUT) for machine in MACHINES] == [True, False, False]
    assert not any(predict.answered(machine, kind, APART) for machine in MACHINES for kind in ("store", "call", "run"))
    assert all(predict.answered(machine, kind, None) for machine in MACHINES for kind in ("store", "call", "run"))


def test_the_schedule_is_sound_and_its_phases_fill_it() -> None:
    length_s, faults = predict.read()
    found = predict.phases(length_s, faults)
    assert found[0].begin_s == 0 and found[-1].end_s == length_s
    assert all(before.end_s == after.begin_s and before.begin_s < before.end_s for before, after in pairwise(found))
    assert {name for fault in faults for name in fault.machines} == set(MACHINES)
    assert {fault.fault for fault in faults} == {"cut", "dies", "stands still"}


def test_an_answer_that_came_late_is_none_and_the_gap_is_the_time_without_one() -> None:
    probes = [Probe("m1", "store", 1 + number / 10, None) for number in range(8)] + [Probe("m1", "store", 2.0, 2.1), Probe("m1", "store", 2.2, 3.3)]
    assert results.gap_of(probes, "m1", Phase(0, 10, None)) == pytest.approx(0.8)
    assert [one.is_answered for one in probes[-2:]] == [True, False]


def test_an_answer_in_the_store_of_a_machine_without_a_majority_is_seen() -> None:
    length_s, faults = predict.read()
    cut = next(fault for fault in faults if fault.fault == "cut")
    machine, at = cut.machines[0], cut.at_s + results.SETTLED_S + 1
    assert length_s > at
    assert results.impossible(Course([Probe(machine, "store", at, None), Probe("m1", "store", at, at + 0.1)])) == []
    assert len(results.impossible(Course([Probe(machine, "store", at, at + 0.1)]))) == 1


def test_the_page_is_what_the_results_say() -> None:
    if results.KEPT.exists():
        assert results.PAGE.read_text() == results.page(results.read())
    assert "asks nothing" in results.page(Course([]))
