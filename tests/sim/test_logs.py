"""The simulation of logs bites: each protection switched off in the shipped deciders is found; and a seed replays exactly."""

import pytest

from tests.sim.log_mutants import LOG_MUTANTS, log_applied
from tests.sim.log_run import run_log
from tests.sim.world import Violation

SEEDS = 150
RARE = {"lost-span-is-empty": 500}
"""What takes a lost disk and, at the right moment, a slow one."""


def first_violation(mutant: str) -> int:
    """Return the first seed in which the mutant is found."""
    seeds = RARE.get(mutant, SEEDS)
    with log_applied(mutant):
        for seed in range(seeds):
            try:
                run_log(seed)
            except Violation:
                return seed
    pytest.fail(f"{mutant}: no violation in {seeds} seeds")


@pytest.mark.parametrize("mutant", LOG_MUTANTS)
def test_a_protection_of_logs_that_is_switched_off_is_missed(mutant: str) -> None:
    run_log(first_violation(mutant))  # with the shipped code the very same seed is well


def test_seeds_are_well() -> None:
    for seed in range(100):
        run_log(seed)


def test_a_seed_of_logs_replays_exactly() -> None:
    stories = [list(run_log(7).world.lines) for _time in range(2)]
    assert stories[0] == stories[1] and stories[0]
