"""A schedule that fails is shrunk to a short one, which can be written down and run again."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.sim.kinds import first_violation, judge, perform, schedule
from tests.sim.scenarios import scenarios
from tests.sim.schedule import Schedule, Step, parse
from tests.sim.shrink import Shrinker
from tests.test_house import ROOT

SETUP = Schedule("none", 1, {}, tuple(Step(float(at), "step", {"lasts_ms": 100}) for at in range(40)))


@pytest.mark.parametrize(
    ("kind", "mutant"), [("nodes", "no-claims"), ("logs", "seal-skipped"), ("watch", "watch-gap-ignored"), ("calls", "duplicate-delivery")]
)
def test_what_a_mutant_breaks_is_shrunk_to_a_few_steps_that_still_break_it(kind: str, mutant: str) -> None:
    found = first_violation(kind, mutant, 150)
    assert found is not None
    failed, violation = found
    shrinker = Shrinker(judge, violation.kind, 120)
    short = shrinker.shrink(failed)
    assert len(short.steps) <= 6 and len(short.steps) < len(failed.steps) / 2
    assert judge(parse(short.text())) == violation.kind
    assert judge(msgspec.structs.replace(short, mutant="")) == ""


def needs(*wanted: float) -> "list[Schedule]":
    """Shrink one that fails if all of these steps are there; return what was tried and last what came of it."""
    tried: list[Schedule] = []

    def judge(made: Schedule) -> str:
        tried.append(made)
        return "it" if {step.at_ms for step in made.steps} >= {*wanted} else ""

    return [*tried, Shrinker(judge, "it").shrink(SETUP)]


def test_only_the_steps_that_are_needed_are_left() -> None:
    for wanted in ((), (0.0,), (39.0,), (3.0, 17.0, 38.0)):
        assert {step.at_ms for step in needs(*wanted)[-1].steps} >= {*wanted}
        assert len(needs(*wanted)[-1].steps) == max(1, len(wanted))


def test_what_lasts_is_made_short() -> None:
    assert [step.arguments["lasts_ms"] for step in needs(5.0)[-1].steps] == [1]


def test_another_failure_is_not_taken_for_it() -> None:
    shrinker = Shrinker(lambda made: "it" if len(made.steps) > 20 else "another", "it")
    assert len(shrinker.shrink(SETUP).steps) == 21


def test_shrinking_ends_at_its_bound_with_one_that_fails() -> None:
    shrinker = Shrinker(lambda made: "it" if {step.at_ms for step in made.steps} >= {3.0, 17.0} else "", "it", 7)
    assert {3.0, 17.0} <= {step.at_ms for step in shrinker.shrink(SETUP).steps} and shrinker.runs == 7


def test_a_schedule_is_written_and_read_again() -> None:
    for name, scenario in scenarios().items():
        made = schedule(scenario.world, 3, name)
        assert parse(made.text()) == made and len(made.text().splitlines()) == len(made.steps) + 1
        assert perform(parse(made.text())) == perform(made)


def test_the_command_shrinks_what_fails_and_replays_what_it_saved(tmp_path: Path) -> None:
    saved = f"{tmp_path}/short.json"
    command = [sys.executable, "-m", "tests.sim"]
    failed = subprocess.run(
        [*command, "--kind", "nodes", "--mutant", "no-claims", "--seeds", "20", "--jobs", "1", "--save", saved],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode == 1 and f"replay: python -m tests.sim --replay {saved}" in failed.stdout
    again = subprocess.run([*command, "--replay", saved], cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "Traceback" not in again.stderr
    violation = again.stdout.splitlines()[0]
    process, what = violation.partition(":")[0].split(" ", 2)[1:]
    assert process.startswith("30") and f"{what}:" in failed.stdout, "the same is broken, if perhaps of another process"
    wrong = subprocess.run([*command, "--replay", "-"], cwd=ROOT, capture_output=True, text=True, input="{", check=False)
    assert wrong.returncode == 2 and "has no schedule" in wrong.stderr
