"""The bounds of the manager of locks, and what is refused there: who is over one hears it, and all others go on."""

import pytest

from tests.core.test_locks import World
from unios.core import locks as module
from unios.core import roster, things
from unios.core.grants import BOUNDED, FAULT, NO, NOWAIT, YES, Held, Known, Notice, Open, Over, Renew, Token, Waiting, Withdraw
from unios.core.grants import Ask as Asked
from unios.synchronisation_limits import SYNC_NAME_BYTES_MAX, SYNC_TTL_MS


def refusal(world: World, session: str, id_: int) -> str:
    answer = world.answer(session, id_)
    assert answer is not None and answer.outcome == FAULT, answer
    return answer.text


def test_a_session_over_the_limit_is_told_and_those_that_live_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "SYNC_SESSIONS_MAX", 3)
    world = World(sessions=3)
    told = world.locks.open("ann", Open("one too many", "x"), world.now_ms)
    assert [type(message) for _session, message in told] == [Over] and "limit" in told[0][1].text  # type: ignore[union-attr]
    world.open("s0", turn=1)
    world.open("s1", incarnation=1)
    assert sorted(world.locks.sessions) == ["s0", "s1", "s2"]


def test_a_session_that_waits_for_too_much_hears_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_WAITING_MAX", 2)
    world = World()
    for _ in range(2):
        world.ask("s0", "get", "queue")
    assert refusal(world, "s0", world.ask("s0", "get", "queue")).startswith("unavailable:")
    assert world.answer("s1", world.ask("s1", "get", "queue", flags=NOWAIT)).outcome == NO  # type: ignore[union-attr]


def test_a_new_thing_over_the_limit_is_refused_and_those_in_use_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(things, "SYNC_THINGS_MAX", 2)
    world = World()
    token = world.token("s0", world.ask("s0", "take", name="a"))
    world.ask("s0", "take", name="b")
    assert refusal(world, "s0", world.ask("s0", "take", name="c")).startswith("unavailable:")
    waits = world.ask("s1", "take", name="a")
    world.give("s0", token)
    assert world.token("s1", waits) is not None


def test_who_asks_while_nothing_is_granted_waits_up_to_a_bound_and_nobody_waits_who_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(things, "SYNC_PLACES_MAX", 2)
    world = World(epoch=2, grace_ms=SYNC_TTL_MS)
    kept = [world.ask("s0", "take", name=name) for name in "ab"]
    assert refusal(world, "s0", world.ask("s0", "take", name="c")).startswith("unavailable:")
    at_once = world.answer("s1", world.ask("s1", "take", name="d", flags=NOWAIT))
    assert at_once is not None and at_once.outcome == NO
    world.hear(world.locks.withdrawn("s0", Withdraw(kept[0])))
    world.pass_ms(SYNC_TTL_MS, renewing=("s0", "s1", "s2"))
    assert [world.token("s0", id_) is not None for id_ in kept] == [False, True]
    assert world.token("s1", world.ask("s1", "take", name="a", flags=NOWAIT)) is not None


def test_who_ends_or_comes_back_without_it_while_nothing_is_granted_has_asked_for_nothing() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS)
    for session in ("s0", "s1"):
        world.ask(session, "put", "queue", data=b"x")
    world.hear(world.locks.ended("s0"))
    world.open("s0")
    world.open("s1", turn=1)
    world.pass_ms(SYNC_TTL_MS, renewing=("s0", "s1", "s2"))
    assert world.answer("s2", world.ask("s2", "get", "queue", flags=NOWAIT)).outcome == NO  # type: ignore[union-attr]


def test_a_name_or_a_number_that_is_none_is_refused() -> None:
    world = World()
    long = "ü" * (SYNC_NAME_BYTES_MAX // 2)
    assert world.token("s0", world.ask("s0", "take", name=long)) is not None
    for more in ({"name": long + "x"}, {"name": ""}, {"size": 0}, {"size": 2}, {"spec": -1}, {"kind": "barrier", "op": "wait", "spec": 0}):
        words = {"op": "take", "kind": "lock", "name": "n", **more}
        assert refusal(world, "s0", world.ask("s0", **words)).startswith("usage:")  # type: ignore[arg-type]
    world.ask("s0", "take", "semaphore", spec=2)
    assert refusal(world, "s1", world.ask("s1", "take", "semaphore", spec=3)).startswith("usage:")


def test_what_two_sessions_say_that_they_hold_alone_is_one_of_theirs() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    for number, session in enumerate(("a", "b")):
        world.open(session, held=(Held("lock", "a", Token(1, number + 1), 1, 0, "main"),))
    assert list(world.locks.sessions) == ["a"] and isinstance(world.heard["b"][-1], Over)
    world.open("c")
    waits = world.ask("c", "take")
    world.pass_ms(SYNC_TTL_MS, renewing=("a", "c"))
    assert world.token("c", waits) is None


@pytest.mark.parametrize(
    "held", [Held("event", "a", Token(1, 1), 1, 0, "x"), Held("lock", "a", Token(1, 1), 0, 0, "x"), Held("lock", "a", Token(1, 1), 2, 0, "x")]
)
def test_what_nobody_can_hold_is_held_by_nobody(held: Held) -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.open("a", held=(held,))
    assert not world.locks.sessions and isinstance(world.heard["a"][-1], Over)


def test_more_things_than_there_is_room_for_are_not_held_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(things, "SYNC_THINGS_MAX", 1)
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.open("a", held=tuple(Held("lock", name, Token(1, number), 1, 0, "x") for number, name in enumerate("ab")))
    assert not world.locks.sessions and isinstance(world.heard["a"][-1], Over)


def test_a_bounded_semaphore_takes_back_no_more_than_was_taken_and_each_session_its_own_units_first() -> None:
    world = World()
    assert refusal(world, "s0", world.ask("s0", "release", "semaphore", spec=2, flags=BOUNDED)).startswith("value:")
    for session in ("s0", "s1"):
        world.ask(session, "take", "semaphore", spec=2)
    world.ask("s1", "release", "semaphore", spec=2, flags=BOUNDED)
    assert not any(isinstance(message, Notice) for message in world.heard["s0"])


def test_no_reader_overtakes_a_writer_when_another_reader_gives_back() -> None:
    world = World(sessions=4)
    readers = [world.token(session, world.ask(session, "take", "rwlock")) for session in ("s0", "s1")]
    writes, reads = world.ask("s2", "take", "rwlock", size=1 << 30), world.ask("s3", "take", "rwlock")
    world.give("s0", readers[0], kind="rwlock")
    assert world.answer("s3", reads) is None
    world.give("s1", readers[1], kind="rwlock")
    assert world.token("s2", writes) is not None and world.answer("s3", reads) is None


def test_a_notified_waiter_is_part_of_a_circle_and_a_wait_that_is_over_is_not() -> None:
    world = World()
    world.ask("s0", "take", name="b")
    token = world.token("s0", world.ask("s0", "take"))
    assert token is not None
    world.ask("s0", "wait", number=token.number, spec=token.epoch, text="c")
    world.ask("s1", "take")
    world.ask("s1", "notify", text="c")
    assert refusal(world, "s1", world.ask("s1", "take", name="b")).startswith("deadlock:")
    world.hear(world.locks.ended("s1"))
    assert len(world.locks._blocked) == 0


def test_who_has_looked_at_an_event_is_told_of_its_changes_and_who_waits_hears_what_another_remembers() -> None:
    world = World()
    world.ask("s0", "is_set", "event")
    world.ask("s1", "set", "event")
    assert any(isinstance(message, Notice) and message.state for message in world.heard["s0"])
    waits = world.ask("s0", "wait", "event", "e")
    world.open("s9", known=(Known("event", "e", Token(1, 900), 1),))
    assert world.answer("s0", waits).outcome == YES  # type: ignore[union-attr]


def test_of_many_things_that_a_session_has_used_those_in_use_are_still_given_back_at_its_end() -> None:
    world = World()
    world.ask("s0", "take", name="kept")
    for index in range(300):
        token = world.token("s0", world.ask("s0", "take", name=f"l{index}"))
        world.give("s0", token, name=f"l{index}")
    world.pass_ms(200, renewing=("s0", "s1", "s2"))
    assert len(world.locks.sessions["s0"].things) == 1
    waits = world.ask("s1", "take", name="kept")
    world.hear(world.locks.ended("s0"))
    assert world.token("s1", waits) is not None


def test_answers_that_were_heard_are_kept_no_more() -> None:
    world = World()
    put = world.ask("s0", "put", "queue", data=b"x")
    assert list(world.locks.sessions["s0"].answers) == [put]
    world.hear(world.locks.renewed("s0", Renew(1, put), world.now_ms))
    assert not world.locks.sessions["s0"].answers


def test_who_is_one_of_many_waiting_for_a_manager_keeps_his_place_by_how_long_he_has_waited() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    for name, waited_ms in (("late", 10), ("early", 900), ("middle", 400)):
        world.open(name, waiting=(Waiting(Asked(7, "put", "queue", "a", data=name.encode()), waited_ms, again=False),))
    world.pass_ms(SYNC_TTL_MS, renewing=("late", "early", "middle"))
    world.open("reader")
    out = [world.answer("reader", world.ask("reader", "get", "queue")) for _ in range(3)]
    assert [answer.data for answer in out if answer is not None and answer.outcome == YES] == [b"early", b"middle", b"late"]
