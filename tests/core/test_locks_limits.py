"""The bounds of the manager of locks, and what is refused there: who is over one hears it, and all others go on."""

import pytest

from tests.core.test_locks import World
from unios.core import locks as module
from unios.core.grants import FAULT, NO, NOWAIT, YES, Held, Open, Over, Renew, Token, Waiting, Withdraw
from unios.core.grants import Ask as Asked
from unios.limits import SYNC_NAME_BYTES_MAX, SYNC_TTL_MS


def refusal(world: World, session: str, id_: int) -> str:
    answer = world.answer(session, id_)
    assert answer is not None and answer.outcome == FAULT, answer
    return answer.text


def test_a_session_over_the_limit_is_told_and_those_that_live_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_SESSIONS_MAX", 3)
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
    monkeypatch.setattr(module, "SYNC_THINGS_MAX", 2)
    world = World()
    token = world.token("s0", world.ask("s0", "take", name="a"))
    world.ask("s0", "take", name="b")
    assert refusal(world, "s0", world.ask("s0", "take", name="c")).startswith("unavailable:")
    waits = world.ask("s1", "take", name="a")
    world.give("s0", token)
    assert world.token("s1", waits) is not None


def test_who_asks_while_nothing_is_granted_waits_up_to_a_bound_and_nobody_waits_who_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_THINGS_MAX", 2)
    world = World(epoch=2, grace_ms=SYNC_TTL_MS)
    kept = [world.ask("s0", "take", name=name) for name in "ab"]
    assert refusal(world, "s0", world.ask("s0", "take", name="c")).startswith("unavailable:")
    at_once = world.answer("s1", world.ask("s1", "take", name="d", flags=NOWAIT))
    assert at_once is not None and at_once.outcome == NO
    world.hear(world.locks.withdrawn("s0", Withdraw(kept[0])))
    world.pass_ms(SYNC_TTL_MS, renewing=("s0", "s1", "s2"))
    assert [world.token("s0", id_) is not None for id_ in kept] == [False, True]


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
