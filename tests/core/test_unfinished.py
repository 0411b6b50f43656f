"""What is taken back of an `up` that was broken off: all that it made, and nothing that somebody may need."""

import pytest

from unios.core.unfinished import Seen, Undo, Unfinished, plan_undo

FOUNDING = Unfinished(1, 1, (), (), fresh=True)
GROWING = Unfinished(1, 1, ("n1", "n2"), ("n1",), fresh=False)
JOINING = Unfinished(1, 1, (), (), fresh=True, joins=True)


def test_a_founding_that_is_broken_off_leaves_nothing() -> None:
    seen = Seen(["n1", "n2"], ["n1"], ["n1"], used=False)
    assert plan_undo(FOUNDING, seen, at_once=True) == Undo(stop=("n1", "n2"), remove=("n1", "n2"), system=True)


def test_a_founding_that_was_killed_before_any_node_came_into_the_system_leaves_nothing() -> None:
    assert plan_undo(FOUNDING, Seen(["n1"], [], [], used=False), at_once=False) == Undo(stop=("n1",), remove=("n1",), system=True)


@pytest.mark.parametrize("seen", [Seen(["n1", "n2"], ["n1"], ["n1"], used=False), Seen(["n1", "n2"], [], [], used=True)])
def test_a_system_that_somebody_may_have_used_since_the_kill_is_kept(seen: Seen) -> None:
    assert plan_undo(FOUNDING, seen, at_once=False) == Undo()


def test_a_system_in_which_something_has_run_is_stopped_and_kept() -> None:
    assert plan_undo(FOUNDING, Seen(["n1"], ["n1"], ["n1"], used=True), at_once=True) == Undo(stop=("n1",))


def test_what_ran_before_runs_on_what_was_started_stops_and_what_is_new_leaves() -> None:
    seen = Seen(["n1", "n2", "n3"], ["n1", "n2", "n3"], ["n1", "n2", "n3"], used=True)
    assert plan_undo(GROWING, seen, at_once=True) == Undo(leave=("n3",), stop=("n2",), remove=("n3",))
    assert plan_undo(GROWING, seen, at_once=False) == Undo()


def test_a_machine_that_joins_leaves_before_it_forgets_the_system() -> None:
    seen = Seen(["n2"], ["n2"], ["n2"], used=True)
    assert plan_undo(JOINING, seen, at_once=True) == Undo(leave=("n2",), remove=("n2",), system=True)
