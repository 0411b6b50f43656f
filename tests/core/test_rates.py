"""A token bucket: bursts pass, over time no more than the rate does, and who would have to wait too long is refused and owes nothing."""

import random

import pytest

from unios.core.rates import Bucket

SECOND = 1_000_000


def test_after_a_rest_as_many_pass_at_once_as_the_burst_has_and_the_next_waits_for_one_step() -> None:
    bucket = Bucket(rate=100, burst=20, wait_ms_max=1_000)
    assert [bucket.ask(7 * SECOND) for _ in range(20)] == [0] * 20
    assert not bucket.is_ready(7 * SECOND)
    assert bucket.ask(7 * SECOND) == 10_000
    assert bucket.is_ready(8 * SECOND)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_no_more_than_the_rate_and_one_burst_passes_in_any_time(seed: int) -> None:
    rng = random.Random(seed)
    rate, burst = rng.randrange(1, 500), rng.randrange(1, 100)
    bucket = Bucket(rate, burst, 500)
    now, passed = 0, []
    for _ask in range(5_000):
        now += rng.choice((0, 0, 10, 1_000, 20_000))
        wait = bucket.ask(now)
        if wait is not None:
            passed.append(now + wait)
    passed.sort()
    for first in range(0, len(passed), 7):
        for last in range(first, min(first + 400, len(passed)), 13):
            count = last - first + 1
            assert count <= burst + 1 + (passed[last] - passed[first]) * rate / SECOND * 1.01, f"seed {seed}"


def test_who_would_wait_too_long_is_refused_and_does_not_make_others_wait() -> None:
    bucket = Bucket(rate=10, burst=1, wait_ms_max=300)
    waits = [bucket.ask(0) for _ in range(100)]
    assert waits[:5] == [0, 100_000, 200_000, 300_000, None] and set(waits[4:]) == {None} and bucket.refused == 96
    assert bucket.ask(SECOND) == 0
