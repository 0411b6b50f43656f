"""How often one may fail at the door."""

from hypothesis import given
from hypothesis import strategies as st

from unios.core.knocks import Knocks, origin_of
from unios.security_limits import KNOCK_MS, KNOCKERS_MAX, KNOCKS_MAX


def test_so_many_failures_are_free_and_then_one_waits_until_one_is_forgotten() -> None:
    knocks = Knocks()
    for _ in range(KNOCKS_MAX):
        knocks.failed("a", 0)
        assert knocks.wait_ms("a", 0) == 0
    knocks.failed("a", 0)
    assert knocks.wait_ms("a", 0) == KNOCK_MS
    assert knocks.wait_ms("a", KNOCK_MS) == 0
    assert knocks.wait_ms("b", 0) == 0


def test_who_goes_on_failing_waits_for_a_bounded_time() -> None:
    knocks = Knocks()
    for _ in range(10_000):
        knocks.failed("a", 0)
    assert knocks.wait_ms("a", 0) == KNOCKS_MAX * KNOCK_MS
    assert knocks.wait_ms("a", 2 * KNOCKS_MAX * KNOCK_MS) == 0 and len(knocks) == 0


def test_addresses_are_bounded_and_the_longest_quiet_is_forgotten() -> None:
    knocks = Knocks()
    for number in range(KNOCKERS_MAX + 5):
        knocks.failed("first", number)
        knocks.failed(f"10.{number}", number)
    assert len(knocks) == KNOCKERS_MAX
    assert knocks.wait_ms("first", KNOCKERS_MAX) > 0


def test_addresses_of_one_network_of_ipv6_count_as_one() -> None:
    assert origin_of("2001:db8::1") == origin_of("2001:db8::ffff:1") != origin_of("2001:db8:0:1::1")
    assert origin_of("::ffff:10.0.0.1") == origin_of("10.0.0.1") == "10.0.0.1"
    assert origin_of("fe80::1%eth0") == origin_of("fe80::2")
    assert origin_of("by way of n2") == "by way of n2"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2 * KNOCK_MS))))
def test_in_any_time_no_more_get_through_than_the_bound_and_what_is_forgotten_in_it(steps: list[tuple[str, int]]) -> None:
    knocks, now, through = Knocks(), 0, 0
    for origin, passed in steps:
        now += passed
        if knocks.wait_ms(origin, now) == 0:
            through += origin == "a"
            knocks.failed(origin, now)
    assert through <= KNOCKS_MAX + 1 + now // KNOCK_MS + 1
