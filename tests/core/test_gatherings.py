"""Barriers at which the last to come does something before all go on, and what happens meanwhile."""

import pytest

from tests.core.test_locks import World
from unios.core.grants import ACTS, BROKEN, NO, YES


def outcome(world: World, session: str, id_: int) -> int | None:
    answer = world.answer(session, id_)
    return None if answer is None else answer.outcome


def wait(world: World, session: str, actor: str = "main") -> int:
    return world.ask(session, "wait", "barrier", spec=2, flags=ACTS, actor=actor)


def say(world: World, session: str, op: str, actor: str = "main") -> int | None:
    return outcome(world, session, world.ask(session, op, "barrier", spec=2, actor=actor))


def reset_while_s1_acts() -> World:
    world = World()
    wait(world, "s0")
    wait(world, "s1")
    say(world, "s2", "reset")
    return world


@pytest.mark.parametrize("how", ["reset", "abort"])
def test_whoever_acts_for_a_round_that_was_broken_meanwhile_hears_that_and_lets_nobody_of_the_next_one_go(how: str) -> None:
    world = World()
    first = wait(world, "s0")
    acts = wait(world, "s1", "one")
    assert (found := world.answer("s1", acts)) is not None and found.text == "act" and outcome(world, "s0", first) is None
    say(world, "s2", how)
    assert outcome(world, "s0", first) == BROKEN
    if how == "abort":
        say(world, "s2", "reset")
    waits = wait(world, "s2")
    also = wait(world, "s1", "two")  # another thread of the program that still acts for the round before
    assert outcome(world, "s1", also) == YES and outcome(world, "s2", waits) is None
    assert say(world, "s1", "acted", "one") == NO
    assert outcome(world, "s2", waits) is None
    assert say(world, "s1", "acted", "two") == YES
    assert outcome(world, "s2", waits) == YES
    assert not world.locks._things


def test_whoever_acts_again_after_a_round_of_his_was_broken_is_believed() -> None:
    world = reset_while_s1_acts()
    waits = wait(world, "s0")  # s1 has not said that he is done: what he did raised, and that was told by an abort of which nothing is left
    wait(world, "s1")
    assert say(world, "s1", "acted") == YES and outcome(world, "s0", waits) == YES
    assert not world.locks._things


def test_nothing_is_left_of_an_actor_who_has_died() -> None:
    world = reset_while_s1_acts()
    assert world.locks._things
    world.hear(world.locks.ended("s1"))
    assert not world.locks._things


def test_of_those_who_come_while_somebody_acts_the_last_acts_for_them() -> None:
    world = World(sessions=4)
    ids = [(name, wait(world, name)) for name in ("s0", "s1", "s2", "s3")]
    assert say(world, "s1", "acted") == YES
    assert [outcome(world, *one) for one in ids] == [YES, YES, None, YES]
    assert (found := world.answer(*ids[3])) is not None and found.text == "act"
    assert say(world, "s3", "acted") == YES
    assert outcome(world, *ids[2]) == YES
