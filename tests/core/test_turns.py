"""Turns: nobody waits for all that another has."""

from hypothesis import given
from hypothesis import strategies as st

from unios.core.turns import Turn, Turns


def users(turns: list[Turn]) -> list[str]:
    return [turn.user for turn in turns]


def test_one_user_never_takes_all_and_another_does_not_wait_behind_him() -> None:
    turns = Turns(4, 2)
    for _ in range(10):
        turns.ask("ann")
    first = turns.next()
    assert users(first) == ["ann", "ann"] and turns.next() == []
    turns.ask("bob")
    assert users(turns.next()) == ["bob"]


def test_who_has_the_fewest_under_way_goes_first_then_who_waits_longest() -> None:
    turns = Turns(3, 2)
    for user in ("ann", "ann", "bob", "ann", "bob", "eve"):
        turns.ask(user)
    begun = turns.next()
    assert users(begun) == ["ann", "bob", "eve"]
    turns.leave(begun[2])
    assert users(turns.next()) == ["ann"]


def test_who_leaves_twice_or_while_he_waits_takes_no_turn_from_others() -> None:
    turns = Turns(1, 1)
    begun, waiting, last = (turns.ask(user) for user in ("ann", "bob", "eve"))
    assert turns.next() == [begun]
    turns.leave(waiting)
    turns.leave(begun)
    turns.leave(begun)
    assert turns.next() == [last] and turns.next() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_the_bounds_hold_and_everybody_comes_to_his_turn(events: list[tuple[str, bool]]) -> None:
    turns, working, asked, begun = Turns(3, 2), list[Turn](), 0, 0
    for user, ends in events + [("a", True)] * 40:
        if ends and working:
            turns.leave(working.pop(0))
        elif not ends:
            turns.ask(user)
            asked += 1
        come = turns.next()
        begun += len(come)
        working += come
        assert len(working) <= 3 and all(users(working).count(one) <= 2 for one in "abc")
    assert begun == asked
