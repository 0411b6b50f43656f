"""The judge of the fault matrix bites, its table is what its results say, and everything that is declared can be named."""

import json
from dataclasses import replace

import pytest

from tests.matrix import results, short
from tests.matrix.cell import Judgement, Outcome, changes, every_cell, impossible, name_of
from tests.matrix.faults import FAULTS
from tests.matrix.targets import ENGINES, TARGETS
from tests.matrix.workloads import REPORTED, WORKLOADS, Step
from tests.matrix.world import FORKS

WELL = Step("calls 0: once", 1.0, 1.5, "ok", "")


def ended(*steps: Step) -> str:
    judgement = Judgement()
    judgement.steps(list(steps))
    return judgement.end


def test_a_cell_ends_as_its_worst_step() -> None:
    assert ended(WELL) == "masked"
    told = [WELL._replace(how=how, text="it is away") for how in sorted(REPORTED)]
    assert ended(WELL, *told) == "reported"
    assert ended(*told, WELL._replace(how="wrong", text="done twice")) == "defect"


@pytest.mark.parametrize(
    ("lasting", "how", "end"), [(False, "late", "defect"), (True, "late", "reported"), (True, "wrong", "defect"), (True, "alien", "defect")]
)
def test_what_waits_for_a_person_who_was_told_is_no_defect_and_what_is_wrong_always(lasting: bool, how: str, end: str) -> None:
    judgement = Judgement()
    judgement.lasting = lasting
    judgement.reports.append("unios status: the store's file is damaged")
    judgement.steps([WELL._replace(how=how, text="...")])
    assert judgement.end == end


@pytest.mark.parametrize("how", ["wrong", "alien", "internal", "protocol", "caller", "not-found"])
def test_what_tells_nobody_what_was_lost_is_a_defect(how: str) -> None:
    assert ended(WELL._replace(how=how, text="...")) == "defect"


@pytest.mark.parametrize("how", sorted(REPORTED))
def test_an_error_without_a_sentence_reports_nothing(how: str) -> None:
    assert ended(WELL._replace(how=how, text=" ")) == "defect"


def test_more_than_before_is_left_over_and_fewer_only_what_comes_again() -> None:
    before = {"kernel": 3, FORKS: 6, "groups": 0, "mounts of m1": 20}
    assert changes(before, before) == []
    assert changes(before, {**before, FORKS: 5}) == []
    for more in before:
        assert changes(before, {**before, more: before[more] + 1})
    assert changes(before, {**before, "kernel": 2})
    assert changes(before, {**before, "sleep 1000": 1})


def test_of_several_times_the_worst_stands() -> None:
    once = Outcome("crash", "kernel", "sqlite", "masked", stall_s=1.0)
    kept = results.worst(None, once)
    assert results.worst(kept, replace(once, stall_s=0.5))["stall_s"] == 1.0
    bad = results.worst(kept, replace(once, end="defect", said="it hangs"))
    assert bad["end"] == "defect" and results.worst(bad, once)["said"] == "it hangs" and results.worst(bad, once)["played"] == 3


def test_the_page_is_what_the_results_say() -> None:
    assert results.page(json.loads(results.KEPT.read_text())) == results.PAGE.read_text(), "python -m tests.matrix --page"


def test_names_are_unique_and_what_is_not_possible_says_why() -> None:
    for names in ([fault.name for fault in FAULTS], [target.name for target in TARGETS], [workload.name for workload in WORKLOADS]):
        assert len(set(names)) == len(names)
    for engine in ENGINES:
        cells = every_cell(engine)
        assert len({name_of(fault.name, target.name, engine) for fault, target in cells}) == len(cells)
        assert any(not impossible(*cell) for cell in cells)


def test_the_short_form_is_the_same_all_day_and_another_one_tomorrow() -> None:
    for engine in ENGINES:
        assert short.picked(engine, 1) == short.picked(engine, 1)
        assert len({tuple((fault.name, target.name) for fault, target in short.picked(engine, day)) for day in range(20)}) > 5
        assert len(short.picked(engine, 1)) == short.EACH[engine]
