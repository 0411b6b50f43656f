"""The leash: one test for each of its invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.core.fencing import (
    FOREVER,
    ClaimConfirmed,
    ClaimSuperseded,
    DeadlineMoved,
    Freeze,
    Kill,
    Leash,
    LeashOrder,
    OnPartition,
    Thaw,
    Tick,
    UserFroze,
    UserThawed,
    WakeAt,
)


def kinds(orders: list[LeashOrder]) -> list[str]:
    return [type(order).__name__ for order in orders]


def held(policy: OnPartition = "replace", until: int = 100) -> Leash:
    leash = Leash(policy, 3)
    assert leash.on(DeadlineMoved(until, 1)) == [WakeAt(until)]
    assert leash.on(Tick(1)) == []
    return leash


def test_at_the_deadline_a_tree_freezes_and_not_before() -> None:
    leash = held()
    assert leash.on(Tick(99)) == []
    assert leash.on(Tick(100)) == [Freeze(by_lease=True)]
    assert leash.on(Tick(101)) == []


def test_a_deadline_that_moves_does_not_thaw_but_a_confirmed_claim_does() -> None:
    leash = held()
    leash.on(Tick(100))
    assert leash.on(DeadlineMoved(500, 1)) == [] and leash.by_lease
    assert kinds(leash.on(ClaimConfirmed(3))) == ["WakeAt", "Thaw"]


def test_a_confirmation_after_the_deadline_or_for_another_incarnation_counts_for_nothing() -> None:
    leash = held()
    leash.on(Tick(100))
    assert leash.on(ClaimConfirmed(3)) == []
    leash.on(DeadlineMoved(500, 1))
    assert leash.on(ClaimConfirmed(2)) == []
    leash.on(Tick(500))
    assert leash.on(ClaimConfirmed(3)) == []


def test_a_confirmation_counts_under_the_lease_that_it_was_given_under_and_no_other() -> None:
    leash = held()
    leash.on(DeadlineMoved(500, 2))
    assert leash.by_lease
    assert leash.on(ClaimConfirmed(3, 1)) == []
    assert Thaw() in leash.on(ClaimConfirmed(3, 2))


def test_another_lease_means_that_the_old_one_ended_even_if_the_new_deadline_is_far() -> None:
    leash = held()
    assert leash.on(DeadlineMoved(10_000, 2)) == [Freeze(by_lease=True)]


def test_policies() -> None:
    assert kinds(held("stop").on(Tick(100))) == ["Kill"]
    keep = Leash("keep", 3)
    assert keep.on(DeadlineMoved(5, 1)) == [] and keep.on(Tick(1_000)) == []
    assert kinds(keep.on(ClaimSuperseded(4))) == ["Kill"]


def test_a_newer_incarnation_kills_and_an_older_or_equal_does_not() -> None:
    leash = held()
    assert leash.on(ClaimSuperseded(3)) == [] and leash.on(ClaimSuperseded(2)) == []
    assert kinds(leash.on(ClaimSuperseded(4))) == ["Kill"]
    assert leash.on(Tick(10_000)) == [] and leash.on(UserThawed()) == []


def test_two_holds_and_the_tree_runs_when_neither_holds() -> None:
    leash = held()
    assert leash.on(UserFroze()) == [Freeze(by_lease=False)]
    assert leash.on(Tick(100)) == [Freeze(by_lease=True)]
    assert leash.on(UserThawed()) == []
    leash.on(DeadlineMoved(500, 1))
    assert leash.on(ClaimConfirmed(3))[-1] == Thaw()
    leash = held()
    leash.on(Tick(100))
    leash.on(UserFroze())
    leash.on(DeadlineMoved(500, 1))
    assert Thaw() not in leash.on(ClaimConfirmed(3))
    assert leash.on(UserThawed()) == [Thaw()]


def test_a_node_that_needs_no_lease() -> None:
    leash = Leash("replace", 1)
    assert leash.on(DeadlineMoved(FOREVER, 0)) == [] and leash.on(Tick(2**63)) == []


EVENTS = st.one_of(
    st.builds(DeadlineMoved, st.integers(0, 300), st.integers(1, 2)),
    st.builds(Tick, st.integers(0, 300)),
    st.builds(ClaimConfirmed, st.integers(2, 4), st.integers(0, 2)),
    st.builds(ClaimSuperseded, st.integers(2, 4)),
    st.builds(UserFroze),
    st.builds(UserThawed),
)


@given(st.lists(EVENTS, max_size=40), st.sampled_from(["replace", "stop"]))
def test_never_running_past_the_deadline_whatever_comes(events: list[object], policy: OnPartition) -> None:
    leash, now, deadline, frozen, killed = Leash(policy, 3), 0, 0, False, False
    for event in events:
        if isinstance(event, Tick):
            now = max(now, event.now_ns)
        if isinstance(event, DeadlineMoved):
            deadline = event.deadline_ns
        for order in leash.on(event):  # type: ignore[arg-type]
            assert not killed
            frozen = True if isinstance(order, Freeze) else False if isinstance(order, Thaw) else frozen
            killed = killed or isinstance(order, Kill)
        if now >= deadline and isinstance(event, Tick):
            assert frozen or killed
    assert leash.frozen == frozen or killed


@pytest.mark.parametrize("policy", ["replace", "stop"])
def test_the_property_bites(policy: OnPartition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leash, "_expired", lambda _self: False)
    leash = held(policy)
    assert leash.on(Tick(1_000)) == []


def test_a_kill_says_why() -> None:
    leash = held("stop")
    assert leash.on(Tick(100)) == [Kill("its node lost the lease, and its policy is to stop")]
    assert held().on(ClaimSuperseded(4)) == [Kill("incarnation 4 took its place")]


def test_a_leash_begins_held_by_nobody_and_its_holds_are_true_or_false() -> None:
    leash = Leash("replace", 1)
    assert (leash.by_lease, leash.by_user, leash.killed) == (False, False, "")
    assert leash.on(Tick(0)) == [Freeze(by_lease=True)] and leash.by_lease is True
    leash.on(DeadlineMoved(100))
    leash.on(ClaimConfirmed(1))
    assert leash.by_lease is False


@pytest.mark.parametrize("deadline", [1, 2])
def test_who_wakes_at_the_first_moments_of_a_clock_is_told_so(deadline: int) -> None:
    leash = Leash("replace", 1)
    assert leash.on(DeadlineMoved(deadline)) == [WakeAt(deadline)]
    leash.on(Tick(deadline))
    leash.on(DeadlineMoved(deadline + 1))
    assert leash.on(ClaimConfirmed(1)) == [WakeAt(deadline + 1), Thaw()]
