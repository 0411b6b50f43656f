"""Waits that end in an unusual way: nobody is left behind them, nothing is held by nobody, and circles are seen as what they are."""

from unittest.mock import patch

import pytest

from tests.core.test_locks import World
from unios.core import deadlocks
from unios.core import locks as module
from unios.core.grants import FAULT, TIMED, YES, Held, Known, Token, Withdraw
from unios.synchronisation_limits import SYNC_TTL_MS

ALL = 1 << 30


def refusal(world: World, session: str, id_: int) -> str:
    answer = world.answer(session, id_)
    return answer.text if answer is not None and answer.outcome == FAULT else ""


def waiting_for_condition(world: World, session: str, name: str = "a", **more: object) -> int:
    token = world.token(session, world.ask(session, "take", name=name, **more))
    assert token is not None
    return world.ask(session, "wait", name=name, number=token.number, spec=token.epoch, text="c", **more)


@pytest.mark.parametrize("notified", [False, True])
def test_a_wait_for_a_condition_that_its_session_knows_no_more_takes_no_lock(notified: bool) -> None:
    world = World()
    waits = waiting_for_condition(world, "s0")
    held = world.token("s1", world.ask("s1", "take"))
    if notified:
        world.ask("s1", "notify", text="c")
    world.open("s0", turn=1, epoch=1)
    world.give("s1", held)
    assert world.answer("s0", waits) is None and not world.locks.sessions["s0"].waiting
    assert world.token("s2", world.ask("s2", "take")) is not None


def test_who_waits_behind_the_victim_of_a_deadlock_gets_what_it_waited_for_alone() -> None:
    world = World()
    token = world.token("s0", world.ask("s0", "take", "lock", "L", actor="A"))
    assert token is not None
    world.ask("s0", "take", "rwlock", "R", actor="A")
    world.ask("s0", "wait", "lock", "L", actor="A", number=token.number, spec=token.epoch, text="c")
    world.ask("s1", "take", "lock", "L", actor="A")
    victim = world.ask("s1", "take", "rwlock", "R", actor="A", size=ALL)
    reads = world.ask("s2", "take", "rwlock", "R")
    assert world.answer("s2", reads) is None
    world.ask("s1", "notify", "lock", "L", actor="B", text="c")
    assert refusal(world, "s1", victim).startswith("deadlock:")
    assert world.token("s2", reads) is not None


def test_a_wait_for_a_condition_that_is_given_up_is_part_of_a_circle_since_it_takes_the_lock_again() -> None:
    world = World()
    world.ask("s0", "take", name="b")
    waits = waiting_for_condition(world, "s0")
    world.ask("s1", "take")
    victim = world.ask("s1", "take", name="b")
    assert world.answer("s1", victim) is None
    world.hear(world.locks.withdrawn("s0", Withdraw(waits)))
    assert refusal(world, "s1", victim).startswith("deadlock:") and world.answer("s0", waits) is None


def test_what_is_no_operation_of_a_lock_gives_nobody_a_lock_that_is_held() -> None:
    world = World()
    world.ask("s0", "take")
    for op in ("release", "back"):
        assert refusal(world, "s1", world.ask("s1", op)).startswith("usage:")
    assert world.token("s2", world.ask("s2", "take")) is None


def test_who_may_not_wait_for_a_condition_has_given_the_lock_back_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks takes it for given: it must not be held by nobody."""
    monkeypatch.setattr(module, "SYNC_WAITING_MAX", 1)
    world = World()
    token = world.token("s0", world.ask("s0", "take"))
    assert token is not None
    world.ask("s0", "get", "queue")
    after = world.ask("s1", "take")
    world.ask("s2", "wait", number=token.number, spec=token.epoch, text="c")
    assert world.answer("s1", after) is None
    assert refusal(world, "s0", world.ask("s0", "wait", number=token.number, spec=token.epoch, text="c")).startswith("unavailable:")
    assert world.token("s1", after) is not None


def test_a_deadlock_is_looked_for_once_round_however_many_wait_that_hold_something() -> None:
    world = World(sessions=2)
    world.ask("s0", "take", name="common", actor="holder")
    many = 200
    for index in range(many):
        world.ask("s0", "take", name=f"own {index}", actor=f"{index}")
    looked = 0

    class Counting(deadlocks._Blockers):
        def __call__(self, actor: deadlocks.Actor) -> list[deadlocks.Actor]:
            nonlocal looked
            found = super().__call__(actor)
            looked += len(found)
            return found

    with patch.object(deadlocks, "_Blockers", Counting):
        for index in range(many):
            looked = 0
            world.ask("s0", "take", name="common", actor=f"{index}")
            assert looked == index + 1
        looked = 0
        closing = world.ask("s0", "take", name=f"own {many - 1}", actor="holder")
    assert refusal(world, "s0", closing).startswith("deadlock:") and looked <= many + 1


def test_a_circle_through_a_queue_that_was_looked_at_already_is_found() -> None:
    """Two ways lead into the same queue, the second further back: what lies between them counts, too."""
    world = World(sessions=1)
    for name, actor in (("L", "h"), ("M", "first"), ("N", "last"), ("P", "p")):
        assert world.answer("s0", world.ask("s0", "take", name=name, actor=actor)).outcome == YES  # type: ignore[union-attr]
    for name, actor in (("L", "first"), ("L", "middle"), ("L", "last")):
        world.ask("s0", "take", name=name, actor=actor)
    world.ask("s0", "take", "rwlock", "R", actor="first of R")
    reads = world.ask("s0", "take", "rwlock", "R", actor="first of R", size=ALL)
    assert refusal(world, "s0", reads).startswith("deadlock:a deadlock of 1")
    assert refusal(world, "s0", world.ask("s0", "take", name="N", actor="h")).startswith("deadlock:a deadlock of 2")
    assert refusal(world, "s0", world.ask("s0", "take", name="M", actor="h")).startswith("deadlock:a deadlock of 2")


def test_a_reader_behind_a_writer_that_gives_up_by_itself_waits_for_no_other_reader() -> None:
    world = World()
    world.ask("s0", "take", "rwlock", "R")
    world.ask("s1", "take", "rwlock", "R", size=ALL, flags=TIMED)
    world.ask("s2", "take", name="b")
    reads = world.ask("s2", "take", "rwlock", "R")
    asks = world.ask("s0", "take", name="b")
    assert world.answer("s0", asks) is None and world.answer("s2", reads) is None


def test_a_new_manager_grants_nothing_to_the_end_of_the_time_in_which_a_lease_may_still_stand() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS)
    waits = world.ask("s0", "take")
    world.pass_ms(SYNC_TTL_MS - 100, renewing=("s0", "s1", "s2"))
    assert world.answer("s0", waits) is None
    world.open("old", held=(Held("lock", "a", Token(1, 1), 1, 0, "main"),))
    world.pass_ms(200, renewing=("s0", "s1", "s2", "old"))
    assert world.answer("s0", waits) is None and "old" in world.locks.sessions


def test_what_a_session_remembers_of_an_event_does_not_undo_what_came_after() -> None:
    world = World(epoch=2, sessions=0)
    world.open("late", known=(Known("event", "a", Token(1, 9), 1),))
    world.open("early", known=(Known("event", "a", Token(1, 5), 0),))
    assert world.answer("late", world.ask("late", "is_set", "event")).outcome == YES  # type: ignore[union-attr]
