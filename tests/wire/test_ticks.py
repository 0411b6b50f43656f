"""Ticks fall on the multiples of their period, whatever the hour and the phase."""

from hypothesis import given
from hypothesis import strategies as st

from unios.wire.ticks import until_next


@given(st.floats(0, 1e7), st.sampled_from([0.25, 0.75, 1.0]), st.floats(0, 0.25))
def test_a_tick_falls_on_a_multiple_of_its_period_and_is_to_come(now: float, period: float, phase: float) -> None:
    wait = until_next(now, period, phase)
    assert 0 < wait <= period
    turns = (now + wait - phase) / period
    assert abs(turns - round(turns)) < 1e-5


def test_the_ticks_of_longer_periods_are_ticks_of_the_shorter_one() -> None:
    for number in range(1, 9):
        at = 0.1 + number * 1.0
        assert until_next(at - 0.001, 0.25, 0.1) < 0.0011
