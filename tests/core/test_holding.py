"""Holding: the holder's side of a lease."""

from unios.core.holding import (
    CheckClaims,
    ClaimsChecked,
    Ended,
    Failed,
    GivenBack,
    Holder,
    MoveDeadline,
    Register,
    Registered,
    Renew,
    Renewed,
    TakenUp,
    Tick,
)
from unios.limits import LEASE_HOLD_MS, LEASE_RENEW_MS


def registered(now: int = 1_000) -> Holder:
    holder = Holder()
    assert holder.on(Tick(now)) == [Register()]
    assert holder.on(Registered(7, now - 10)) == [CheckClaims(7)]
    return holder


def held(now: int = 1_000) -> Holder:
    holder = registered(now)
    assert holder.on(ClaimsChecked(7, now)) == [MoveDeadline(now - 10 + LEASE_HOLD_MS, 7), CheckClaims(7)]
    return holder


def test_the_deadline_counts_from_the_sending_and_waits_for_the_claims() -> None:
    holder = registered()
    assert holder.on(Renewed(1_200, 1_210)) == []
    assert holder.on(ClaimsChecked(7, 1_220))[0] == MoveDeadline(1_200 + LEASE_HOLD_MS, 7)


def test_what_a_predecessor_told_the_inits_is_not_known_so_the_first_move_checks_again() -> None:
    """Found by the simulation: trees that froze while the kernel was replaced stayed frozen for ever."""
    assert CheckClaims(7) in registered().on(ClaimsChecked(7, 1_000))


def test_one_request_at_a_time_and_one_each_period() -> None:
    holder = held()
    assert holder.on(Tick(1_000 + LEASE_RENEW_MS)) == [Renew()]
    assert holder.on(Tick(1_000 + 2 * LEASE_RENEW_MS)) == []
    assert holder.on(Failed()) == []
    assert holder.on(Tick(1_001 + 2 * LEASE_RENEW_MS)) == [Renew()]


def test_an_old_answer_does_not_move_the_deadline_back() -> None:
    holder = held()
    assert holder.on(Renewed(1_300, 1_310)) == [MoveDeadline(1_300 + LEASE_HOLD_MS, 7)]
    assert holder.on(Renewed(1_100, 1_320)) == [MoveDeadline(1_300 + LEASE_HOLD_MS, 7)]


def test_after_a_deadline_that_had_passed_the_trees_are_compared_again() -> None:
    holder = held()
    late = 1_000 + LEASE_HOLD_MS + 50
    assert holder.on(Renewed(late, late + 5)) == [MoveDeadline(late + LEASE_HOLD_MS, 7), CheckClaims(7)]
    soon = late + LEASE_HOLD_MS - 20  # an init may have looked a moment later than the holder
    assert CheckClaims(7) in holder.on(Renewed(soon, soon))


def test_an_ended_lease_is_never_trusted_again() -> None:
    holder = held()
    assert holder.on(Ended()) == [Register()]
    assert holder.on(Renewed(1_500, 1_500)) == []
    assert holder.on(ClaimsChecked(7, 1_500)) == []
    assert holder.on(Registered(8, 1_600)) == [CheckClaims(8)]
    assert holder.on(ClaimsChecked(7, 1_650)) == []
    assert holder.on(ClaimsChecked(8, 1_700))[0] == MoveDeadline(1_600 + LEASE_HOLD_MS, 8)


def test_a_lease_that_was_given_back_is_neither_renewed_nor_replaced_unless_the_node_goes_on() -> None:
    holder = held()
    assert holder.on(GivenBack()) == []
    assert holder.on(Tick(1_000 + 3 * LEASE_RENEW_MS)) == []
    assert holder.on(Ended()) == []
    assert holder.on(Tick(1_000 + 9 * LEASE_RENEW_MS)) == []
    assert holder.on(TakenUp()) == [Register()]


def test_another_lease_freezes_the_trees_even_before_the_deadline_so_they_are_compared_again() -> None:
    holder = held()
    holder.on(Ended())
    holder.on(Registered(8, 1_100))
    assert holder.on(ClaimsChecked(8, 1_120)) == [MoveDeadline(1_100 + LEASE_HOLD_MS, 8), CheckClaims(8)]
    assert holder.on(Renewed(1_200, 1_210)) == [MoveDeadline(1_200 + LEASE_HOLD_MS, 8)]
