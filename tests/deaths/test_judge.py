"""The judge of the deaths bites: each promise is broken by what breaks it, and by nothing else."""

from typing import Any

import pytest

from tests.deaths.__main__ import drawn
from tests.deaths.driver import STEPS
from tests.deaths.judge import PROMISES, Death, Effect, Kept, Verdict, judge
from tests.deaths.results import KEPT, PAGE, Book, Run, page, read

AT = 100.0
DEATH = Death(AT, "m2", "n2", leader=False, orphans={301: 1, 302: 1})
ALIVE = ("m1", "m3")


def line(kind: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "at": at, **fields}


def well() -> dict[str, list[dict[str, Any]]]:
    """Everything that was told in a run in which all went as promised."""
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in ("m1", "m2", "m3")}
    told["m2"] += [
        line("accepted", 99.0, pid=400, code=3),
        line("wrote", 99.5, key="/k", value="01"),
        line("held", 99.9, token=[1, 7]),
    ]
    for name in ALIVE:
        told[name] += [line("nodes", 101.2, there=["n1", "n3"])]
        told[name] += [line("step", 102.0, name=step, began=100.5, how="ok", text="") for step in STEPS]
    told["m1"] += [line("held", 103.0, token=[2, 1]), line("freed", 103.1, token=[2, 1], how="ok")]
    told["m3"] += [line("held", 103.2, token=[2, 2]), line("freed", 103.3, token=[2, 2], how="ok")]
    told["m1"] += [
        line("answer", 99.0, mark="a", began=98.0, incarnation=1, times=1),
        line("answer", 103.0, mark="b", began=100.5, incarnation=2, times=1),
    ]
    return told


EFFECTS: list[Effect] = [(99.0, 301, 1), (99.0, 302, 1), (101.9, 301, 2), (102.4, 302, 2)]
KEPT_WELL = Kept({"/k": "01"}, {"400": ["exited", 3, "", 2, "n1"]})


def judged(
    told: dict[str, list[dict[str, Any]]] | None = None, effects: list[Effect] | None = None, kept: Kept = KEPT_WELL, death: Death = DEATH
) -> Verdict:
    return judge(death, told or well(), EFFECTS if effects is None else effects, kept)


def with_line(machine: str, **fields: Any) -> dict[str, list[dict[str, Any]]]:
    told = well()
    told[machine].append(line(**fields))
    return told


def test_a_run_in_which_all_went_as_promised_breaks_nothing_and_has_its_times() -> None:
    verdict = judged()
    assert verdict.broken == {} and verdict.told == []
    assert verdict.times["noticed"] == pytest.approx(1.2) and verdict.times["elsewhere"] == pytest.approx(2.4)
    assert verdict.times["run"] == pytest.approx(1.5)


def late() -> dict[str, list[dict[str, Any]]]:
    told = well()
    told["m3"][0]["at"] = AT + 1.6
    return told


def silent() -> dict[str, list[dict[str, Any]]]:
    told = well()
    told["m3"] = [one for one in told["m3"] if one.get("name") != "lock"]
    return told


def overlapping() -> dict[str, list[dict[str, Any]]]:
    told = well()
    told["m3"] = [one for one in told["m3"] if one["kind"] not in ("held", "freed")]
    told["m3"] += [line("held", 103.05, token=[2, 2]), line("freed", 103.3, token=[2, 2], how="ok")]
    return told


BROKEN = {
    "noticed late": ("noticed", {"told": late()}),
    "never run again": ("elsewhere", {"effects": EFFECTS[:-1]}),
    "run again late": ("elsewhere", {"effects": [*EFFECTS[:-1], (103.1, 302, 2)]}),
    "a key is gone": ("state", {"kept": Kept({}, KEPT_WELL.processes)}),
    "a key is another": ("state", {"kept": Kept({"/k": "02"}, KEPT_WELL.processes)}),
    "a process is unknown": ("state", {"kept": Kept(KEPT_WELL.keys, {})}),
    "a process ended wrongly": ("state", {"kept": Kept(KEPT_WELL.keys, {"400": ["exited", 0, "", 2, "n1"]})}),
    "a process was given up": ("elsewhere", {"kept": Kept(KEPT_WELL.keys, {"400": ["lost", None, "n2 is lost", 1, "n2"]})}),
    "a stale effect": ("twice", {"effects": [*EFFECTS, (103.0, 301, 1)]}),
    "a stale answer": ("twice", {"told": with_line("m3", kind="answer", at=104.0, mark="c", began=103.5, incarnation=1, times=1)}),
    "done twice": ("twice", {"told": with_line("m3", kind="answer", at=104.0, mark="c", began=103.5, incarnation=2, times=2)}),
    "held by two": ("locks", {"told": overlapping()}),
    "an older token": ("locks", {"told": with_line("m3", kind="held", at=104.0, token=[1, 9])}),
    "nothing more": ("delay", {"told": silent()}),
    "a wrong answer": ("delay", {"told": with_line("m1", kind="step", at=104.0, name="once", began=103.5, how="wrong", text="5")}),
    "an error for who asks again": (
        "delay",
        {"told": with_line("m1", kind="step", at=104.0, name="add", began=103.5, how="unavailable", text="away")},
    ),
    "an error that says nothing": (
        "delay",
        {"told": with_line("m1", kind="step", at=104.0, name="once", began=103.5, how="outcome-unknown", text=" ")},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_promise_is_seen_and_breaks_no_other(name: str) -> None:
    promise, changed = BROKEN[name]
    assert set(judged(**changed).broken) == {promise}  # type: ignore[arg-type]


def test_every_promise_can_be_broken() -> None:
    assert {promise for promise, _changed in BROKEN.values()} == set(PROMISES)


def test_with_the_leader_there_is_more_time() -> None:
    told, effects = late(), [*EFFECTS[:-1], (104.9, 302, 2)]
    assert set(judged(told, effects).broken) == {"noticed", "elsewhere"}
    assert judged(told, effects, death=Death(AT, "m2", "n2", leader=True, orphans=DEATH.orphans)).broken == {}


def test_a_holder_that_is_told_that_it_has_lost_the_lock_breaks_nothing() -> None:
    told = overlapping()
    for one in told["m1"]:
        if one["kind"] == "freed":
            one["how"], one["at"] = "lease-lost", 103.5
    assert judged(told).broken == {}


def test_a_call_that_is_made_at_most_once_may_be_told_that_nobody_knows() -> None:
    verdict = judged(with_line("m1", kind="step", at=104.0, name="once", began=103.5, how="outcome-unknown", text="the node was lost"))
    assert verdict.broken == {} and len(verdict.told) == 1


def test_every_machine_dies_in_fifty_runs_and_a_run_is_the_same_again() -> None:
    runs = [drawn(48, number) for number in range(1, 51)]
    assert {which for which, _wait in runs} == {0, 1, 2} and runs == [drawn(48, number) for number in range(1, 51)]


def test_the_page_is_what_the_results_say() -> None:
    if KEPT.exists():
        assert PAGE.read_text() == page(read())
    run = Run(
        1, "m2", leader=False, locks=True, orphans=2, wait_s=1.0, busy=50, times={"noticed": 1.2}, broken={"delay": ["m1: run: wrong: 5"]}, told=[]
    )
    text = page(Book(1, [run]))
    assert "| 0 of 1 | 1 |" in text and "run 1 (m2, locks, cores busy to 50 %), delay: m1: run: wrong: 5" in text
