"""Leases end when their time has passed without a renewal, and never because the judge was away."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.core import leases
from unios.core.leases import LOOK_MS, PAUSE_MS, Leases

STEP_MS = 100


def first_end(judge: Leases, start_ms: int, until_ms: int, step_ms: int = STEP_MS) -> int | None:
    """Look every `step_ms`; return when the first lease ended."""
    for now in range(start_ms, until_ms + 1, step_ms):
        if judge.look(now):
            return now
    return None


def test_a_lease_ends_at_its_time_to_live_and_not_before() -> None:
    judge = Leases({}, 0)
    judge.granted(1, 1_000, 0)
    assert first_end(judge, STEP_MS, 5_000) == 1_000
    assert 1 not in judge and len(judge) == 0


def test_a_renewal_counts_from_when_it_was_received() -> None:
    judge = Leases({}, 0)
    judge.granted(1, 1_000, 0)
    assert first_end(judge, STEP_MS, 900) is None
    assert judge.renewed(1, 930) == 1_000
    assert first_end(judge, 950, 5_000) == 1_950


def test_the_judge_looks_when_the_next_lease_would_end_and_often_enough_to_notice_its_own_pauses() -> None:
    judge = Leases({1: 1_000, 2: 1_100}, 0)
    assert [judge.wait_ms(0), judge.wait_ms(900), judge.wait_ms(1_000), judge.wait_ms(1_050)] == [LOOK_MS, 100, 1, 1]
    assert Leases({}, 0).wait_ms(7) == LOOK_MS < PAUSE_MS


def test_a_renewal_after_the_end_finds_no_lease() -> None:
    judge = Leases({1: 100}, 0)
    assert first_end(judge, STEP_MS, 1_000) == 100
    assert judge.renewed(1, 100) == 0
    assert judge.renewed(2, 100) == 0
    assert judge.look(150) == []


def test_a_revoked_lease_is_forgotten_and_not_reported_again() -> None:
    judge = Leases({1: 100, 2: 100}, 0)
    judge.revoked(1)
    judge.revoked(1)
    assert [judge.look(50), judge.look(100), judge.look(150)] == [[], [2], []]


def test_leases_that_end_together_are_reported_together_in_order() -> None:
    judge = Leases({3: 100, 1: 100, 2: 500}, 0)
    assert [judge.look(50), judge.look(100)] == [[], [1, 3]]
    assert 2 in judge


def test_a_judge_that_starts_anew_gives_every_lease_its_full_time() -> None:
    judge = Leases({1: 1_000}, 1_000_000)
    assert first_end(judge, 1_000_000 + STEP_MS, 1_010_000) == 1_001_000


def paused(pause_ms: int) -> int | None:
    """A lease of 1000 ms, 900 of them spent; then the judge is away. Return how long after its return the lease ended."""
    judge = Leases({1: 1_000}, 0)
    assert first_end(judge, STEP_MS, 900) is None
    back = 900 + pause_ms
    ended = first_end(judge, back, back + 5_000)
    return None if ended is None else ended - back


@pytest.mark.parametrize("pause_ms", [PAUSE_MS + 1, 1_000, 60_000, 86_400_000])
def test_time_in_which_the_judge_did_not_run_does_not_count(pause_ms: int) -> None:
    assert paused(pause_ms) == 100


def test_a_delay_up_to_the_bound_is_no_pause() -> None:
    assert paused(PAUSE_MS) == 0


def test_without_the_rule_about_pauses_a_judge_that_returns_ends_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PAUSE_MS", 10**12)
    assert paused(1_000) == 0


def test_a_renewal_during_a_pause_counts_too() -> None:
    judge = Leases({1: 1_000}, 0)
    judge.look(50)
    judge.renewed(1, 5_000)  # read from the socket before the judge looked again
    ended = first_end(judge, 5_010, 20_000)
    assert ended is not None and ended >= 6_000


@given(st.integers(0, 2**32))
def test_no_lease_ends_before_its_time_in_which_the_judge_ran(seed: int) -> None:
    """The invariant, over random grants, renewals, delays and pauses."""
    dice = random.Random(seed)
    judge, now, alive = Leases({}, 0), 0, dict[int, int]()
    ran = 0  # ms in which the judge ran, as it may count them
    since = dict[int, int]()  # lease -> `ran` when it was last heard
    for number in range(1, 60):
        gap = dice.choice((STEP_MS, STEP_MS, dice.randint(1, PAUSE_MS), dice.randint(PAUSE_MS + 1, 10_000)))
        now += gap
        ran += gap if gap <= PAUSE_MS else 0
        ended = judge.look(now)
        for lease in ended:
            assert ran - since.pop(lease) >= alive.pop(lease)
        assert all(ran - since[lease] < ttl for lease, ttl in alive.items())  # and none outlives it
        if dice.random() < 0.4:
            alive[number], since[number] = dice.randint(100, 3_000), ran
            judge.granted(number, alive[number], now)
        for lease in list(alive):
            if dice.random() < 0.2:
                assert judge.renewed(lease, now) == alive[lease]
                since[lease] = ran
        assert len(judge) == len(alive) and all(lease in judge for lease in alive)
