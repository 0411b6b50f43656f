"""How far another machine's clock is, from pings that take their time."""

from hypothesis import given
from hypothesis import strategies as st

from unios.core.clocks import ClockOffset, far_apart
from unios.limits import CLOCK_OFFSET_MS_MAX


@given(st.integers(-(10**8), 10**8), st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_estimate_is_right_within_its_doubt_however_lopsided_the_way(ahead: int, pings: list[tuple[float, float]]) -> None:
    offset, now = ClockOffset(), 1_000_000_000
    for there, share in pings:
        # the question takes `share` of the round trip, the answer the rest
        offset.heard(theirs_ms=round(now + ahead - there * (1 - share)), ours_ms=now, rtt_ms=there)
        now += 1000
    estimate = offset.estimate_ms()
    assert estimate is not None
    assert abs(estimate - ahead) <= offset.doubt_ms() + 1


def test_the_quickest_ping_is_believed() -> None:
    offset = ClockOffset()
    offset.heard(theirs_ms=5_000, ours_ms=0, rtt_ms=900)
    offset.heard(theirs_ms=3_000, ours_ms=0, rtt_ms=2)
    assert offset.estimate_ms() == 3_001
    assert ClockOffset().estimate_ms() is None


def test_only_a_certain_difference_is_told() -> None:
    assert far_apart("b", "a", 3_600_000) == "the clock of b is 3,600 s ahead of that of a"
    assert far_apart("b", "a", -4_500) == "the clock of b is 4.5 s behind that of a"
    assert far_apart("b", "a", CLOCK_OFFSET_MS_MAX) == ""
    assert far_apart("b", "a", CLOCK_OFFSET_MS_MAX + 50, doubt_ms=51) == ""
