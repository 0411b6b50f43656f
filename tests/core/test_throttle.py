"""Who meets his bound is left alone; who forks against it runs a tenth of the time, until he stops."""

import pytest

from unios.core.crowding import Crowding, is_crowded
from unios.core.throttle import HELD_S_MAX, HELD_TIMES, REFUSED_BURST, REFUSED_PER_S, RUN_S, Throttle


def test_a_program_that_meets_its_bound_is_left_alone() -> None:
    throttle = Throttle(7)
    assert not throttle.begins(1, 7 + REFUSED_BURST), "at once"
    for second in range(2, 500):
        assert not throttle.begins(second, 7 + REFUSED_BURST + (second - 1) * REFUSED_PER_S), "again and again"


def test_what_was_refused_before_does_not_count() -> None:
    throttle = Throttle(1_000_000)
    assert not throttle.begins(1, 1_000_001)


def test_one_that_forks_against_it_is_held_and_what_leaks_away_counts_no_more() -> None:
    throttle = Throttle(0)
    assert not throttle.begins(1, REFUSED_BURST)
    assert throttle.begins(1.1, 2 * REFUSED_BURST)
    assert not Throttle(0).begins(1, REFUSED_BURST)
    throttle = Throttle(0)
    throttle.begins(1, REFUSED_BURST)
    assert not throttle.begins(1 + REFUSED_BURST / REFUSED_PER_S, 2 * REFUSED_BURST)


@pytest.mark.parametrize("ran", [RUN_S, 0.3, 0.9])
def test_it_is_held_nine_times_as_long_as_it_ran(ran: float) -> None:
    throttle = Throttle(0)
    throttle.begins(10, 10_000)
    assert throttle.held_s(10) == pytest.approx(HELD_TIMES * RUN_S)
    throttle.lets_run(20, 10_000)
    assert throttle.held_s(20 + ran) == pytest.approx(HELD_TIMES * ran)
    assert throttle.held_s(20 + 100) == HELD_S_MAX


def test_it_is_let_go_when_fewer_are_refused() -> None:
    throttle = Throttle(0)
    throttle.begins(1, 10_000)
    throttle.lets_run(2, 10_000)
    assert throttle.goes_on(2.1, 10_000 + REFUSED_PER_S)
    throttle.lets_run(4, 11_000)
    assert not throttle.goes_on(4.1, 11_000 + REFUSED_PER_S // 20)


def test_a_machine_with_few_runnable_threads_is_not_crowded() -> None:
    assert not is_crowded(64, 2) and is_crowded(65, 2)
    assert not is_crowded(256, 128) and is_crowded(257, 128)


def test_trees_that_fork_against_their_bound_are_found_by_what_has_come_since_the_last_look() -> None:
    crowding = Crowding()
    bomb, calm, uncounted = (1, 1), (2, 1), (3, 1)
    assert crowding.look({bomb: 50_000, calm: 90_000, uncounted: -1}) == [], "what was before the first look is not known"
    assert crowding.look({bomb: 50_000 + REFUSED_BURST + 1, calm: 90_000 + REFUSED_BURST, uncounted: -1}) == [bomb]
    crowding.forget()
    assert crowding.look({bomb: 99_000, calm: 99_000}) == []
