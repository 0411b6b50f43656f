"""The manager of locks and sessions that lose their lease and go on: what they have asked is done once, or they hear that nobody knows."""

import random
from collections import Counter, deque

import pytest

from tests.core.test_locks import World
from unios.core.grants import FAULT, NO, NOWAIT, YES, Answer, Ask, Held, Notice, Open, Over, Renew, Token, Waiting, Withdraw
from unios.core.locks import Locks
from unios.synchronisation_limits import SYNC_ANSWERS_KEPT, SYNC_GONE_BYTES_MAX, SYNC_GONE_MAX, SYNC_QUEUE_BYTES_MAX, SYNC_TTL_MS


def again(id_: int, op: str, kind: str, **more: object) -> tuple[Waiting, ...]:
    """Return what a session says that has not heard the answer to its question."""
    more.setdefault("actor", "main")
    return (Waiting(Ask(id_, op, kind, "a", **more), 1),)  # type: ignore[arg-type]


def answers(world: World, session: str, id_: int) -> list[Answer]:
    return [message for message in world.heard[session] if isinstance(message, Answer) and message.id == id_]


def queued(world: World, name: str = "a", spec: int = 0) -> list[bytes]:
    """Take out what is in the queue, by a session of its own."""
    world.open("reader")
    out = []
    while (
        answer := world.answer("reader", world.ask("reader", "get", "queue", name, spec=spec, flags=NOWAIT))
    ) is not None and answer.outcome == YES:
        out.append(answer.data)
    return out


@pytest.mark.parametrize("ended_here", [True, False])
def test_an_item_put_before_the_lease_ended_is_in_once_though_it_is_put_again_after(ended_here: bool) -> None:
    """Whether the manager has ended the lease, or only the session believes so by its own clock."""
    world = World()
    put = world.ask("s0", "put", "queue", data=b"1")
    if ended_here:
        world.pass_ms(SYNC_TTL_MS + 200, renewing=("s1", "s2"))
    world.heard["s0"].clear()
    world.open("s0", incarnation=1, turn=2, waiting=again(put, "put", "queue", data=b"1"))
    assert [answer.outcome for answer in answers(world, "s0", put)] == [YES]
    assert queued(world) == [b"1"]


def test_an_item_whose_putter_still_waited_when_its_lease_ended_is_put_in_by_the_next_incarnation() -> None:
    world = World()
    world.ask("s1", "put", "queue", spec=1, data=b"0")
    put = world.ask("s0", "put", "queue", spec=1, data=b"1")
    world.open("s0", incarnation=1, waiting=again(put, "put", "queue", spec=1, data=b"1"))
    got = [world.answer("s1", world.ask("s1", "get", "queue", spec=1)) for _ in range(2)]
    assert [one.data for one in got if one] == [b"0", b"1"] and len(answers(world, "s0", put)) == 1


def test_an_ended_incarnation_does_not_come_back_and_holds_nothing_more() -> None:
    world = World()
    token = world.token("s0", world.ask("s0", "take"))
    assert token is not None
    world.pass_ms(SYNC_TTL_MS + 200, renewing=("s1", "s2"))
    for more in ({"epoch": 1}, {}, {"epoch": 1, "held": (Held("lock", "a", token, 1, 0, "main"),)}):
        world.heard["s0"].clear()
        world.open("s0", turn=5, **more)
        assert [type(one) for one in world.heard["s0"]] == [Over] and "s0" not in world.locks.sessions
    world.open("s0", turn=6, incarnation=1)
    assert "s0" in world.locks.sessions and world.token("s1", world.ask("s1", "take")) is not None


def test_a_session_whose_end_is_forgotten_does_not_come_back_under_the_same_incarnation_either() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.open("forgotten", epoch=2)
    world.open("liar", held=(Held("lock", "a", Token(2, 5), 1, 0, "main"),))
    assert not world.locks.sessions and all(isinstance(world.heard[name][-1], Over) for name in ("forgotten", "liar"))


def test_what_an_ended_session_was_answered_is_told_to_no_other_user() -> None:
    world = World()
    got = world.ask("s0", "put", "queue", data=b"1")
    world.pass_ms(SYNC_TTL_MS + 200, renewing=("s1", "s2"))
    told = world.locks.open("bob", Open("s0", "x", incarnation=1, waiting=again(got, "put", "queue")), world.now_ms)
    assert [type(message) for _session, message in told] == [Over]


def test_who_is_put_out_is_told_at_once() -> None:
    world = World()
    world.pass_ms(SYNC_TTL_MS + 200, renewing=("s1", "s2"))
    assert isinstance(world.heard["s0"][-1], Over) and not any(isinstance(one, Over) for one in world.heard["s1"])


def test_what_was_lost_on_its_way_to_the_manager_is_done_when_the_session_says_it_again() -> None:
    world = World()
    world.open("s0", turn=1, waiting=again(99, "put", "queue", data=b"1"))
    assert [answer.outcome for answer in answers(world, "s0", 99)] == [YES]


def test_an_item_let_in_when_the_putter_before_it_died_is_in_once_though_its_answer_was_lost() -> None:
    world = World()
    large = b"x" * (SYNC_QUEUE_BYTES_MAX // 4)
    for data in (large, large, large, large[1:]):
        world.ask("s2", "put", "queue", data=data)
    world.ask("s0", "put", "queue", data=large)
    put = world.ask("s1", "put", "queue", data=b"1")
    world.hear(world.locks.ended("s0"))
    world.open("s1", turn=1, waiting=again(put, "put", "queue", data=b"1"))
    assert queued(world)[4:] == [b"1"]


def test_a_signal_granted_to_one_who_waited_is_used_up_once_though_the_answer_was_lost() -> None:
    world = World()
    taken = world.ask("s1", "take", "semaphore")
    world.ask("s0", "release", "semaphore")
    world.open("s1", turn=1, waiting=again(taken, "take", "semaphore"))
    assert [answer.outcome for answer in answers(world, "s1", taken)] == [YES, YES]


def test_a_signal_that_came_because_another_gave_up_is_used_up_once_too() -> None:
    world = World()
    world.ask("s0", "release", "semaphore")
    two = world.ask("s1", "take", "semaphore", size=2)
    taken = world.ask("s2", "take", "semaphore")
    world.hear(world.locks.withdrawn("s1", Withdraw(two)))
    world.open("s2", turn=1, waiting=again(taken, "take", "semaphore"))
    assert [answer.outcome for answer in answers(world, "s2", taken)] == [YES, YES]


def test_what_a_live_incarnation_holds_is_free_as_soon_as_the_next_one_opens() -> None:
    world = World()
    world.ask("s0", "take")
    waits = world.ask("s1", "take")
    world.open("s0", incarnation=1)
    assert world.token("s1", waits) is not None
    assert world.locks.is_stale("ann", Open("s0", "x", turn=9)) and not world.locks.is_stale("ann", Open("s0", "x", incarnation=1))


def test_units_whose_lease_has_ended_are_not_told_again_and_a_signal_is() -> None:
    world = World()
    world.ask("s2", "release", "semaphore", spec=1)
    unit, signal = (world.ask("s0", "take", "semaphore", spec=1) for _ in range(2))
    world.heard["s0"].clear()
    world.open("s0", incarnation=1, waiting=(*again(unit, "take", "semaphore", spec=1), *again(signal, "take", "semaphore", spec=1)))
    assert [answers(world, "s0", id_)[0].value for id_ in (unit, signal)] == [1, 0]
    assert world.answer("s1", world.ask("s1", "take", "semaphore", spec=1, flags=NOWAIT)).outcome == NO  # type: ignore[union-attr]


def test_an_item_on_its_way_to_one_that_lost_its_lease_comes_once_and_has_still_to_be_done_with() -> None:
    world = World()
    world.ask("s1", "put", "queue", data=b"1")
    got = world.ask("s0", "get", "queue")
    world.heard["s0"].clear()
    world.open("s0", incarnation=1, waiting=again(got, "get", "queue"))
    world.open("s0", incarnation=1, turn=1, waiting=again(got, "get", "queue"))
    assert [answer.data for answer in answers(world, "s0", got)] == [b"1", b"1"] and queued(world) == []
    join = world.ask("s2", "join", "queue")
    assert world.answer("s2", join) is None
    assert world.answer("s0", world.ask("s0", "done", "queue")).outcome == YES  # type: ignore[union-attr]
    assert world.answer("s2", join) is not None


@pytest.mark.parametrize("op", ["put", "get", "done", "release"])
def test_who_comes_back_to_a_manager_that_cannot_know_hears_so_and_nothing_is_done(op: str) -> None:
    kind = "semaphore" if op == "release" else "queue"
    world = World()
    world.ask("s1", "put", "queue", data=b"1")
    world.open("forgotten", incarnation=3, waiting=again(7, op, kind, data=b"x" if op == "put" else b""))
    told = answers(world, "forgotten", 7)
    assert [answer.outcome for answer in told] == [FAULT] and told[0].text.startswith("outcome-unknown:")
    assert queued(world) == [b"1"]
    fresh = Waiting(Ask(8, "put", "queue", "a", "main", data=b"2"), 1, again=False)
    world.open("new", waiting=(fresh,))
    assert answers(world, "new", 8)[0].outcome == YES


@pytest.mark.parametrize("incarnation", [0, 1])
def test_an_answer_that_was_dropped_for_lack_of_room_is_not_taken_for_a_question_never_asked(incarnation: int) -> None:
    world = World()
    first = world.ask("s0", "put", "queue", data=b"first")
    for _ in range(SYNC_ANSWERS_KEPT):
        world.ask("s0", "size", "queue")
    world.open("s0", turn=1, incarnation=incarnation, waiting=again(first, "put", "queue", data=b"first"))
    assert answers(world, "s0", first)[-1].text.startswith("outcome-unknown:")
    assert queued(world) == [b"first"]


def test_what_is_remembered_of_ended_sessions_has_its_bounds() -> None:
    world = World(sessions=0)
    for index in range(SYNC_GONE_MAX + 5):
        world.open(f"s{index}")
    world.pass_ms(SYNC_TTL_MS + 200)
    assert len(world.locks._roster.gone) == SYNC_GONE_MAX
    world.locks._privileged.add("ann")
    large = b"x" * (SYNC_QUEUE_BYTES_MAX // 4)
    count = SYNC_GONE_BYTES_MAX // len(large) + 1
    for index in range(count):
        world.open(f"large{index}")
        world.ask(f"large{index}", "put", "queue", f"q{index}", data=large)
        world.ask(f"large{index}", "get", "queue", f"q{index}")
    world.pass_ms(SYNC_TTL_MS + 200)
    assert len(world.locks._roster.gone) < count and not world.locks.sessions


def test_who_holds_a_unit_that_another_gives_back_is_told_and_does_not_take_it_to_the_next_manager() -> None:
    world = World()
    token = world.token("s0", world.ask("s0", "take", "semaphore", spec=1))
    assert token is not None
    world.ask("s1", "release", "semaphore", spec=1)
    notice = Notice("semaphore", "a", token, 0)
    assert notice in world.heard["s0"] and not any(isinstance(one, Notice) for one in world.heard["s1"])
    world.heard["s0"].clear()
    world.open("s0", turn=1, held=(Held("semaphore", "a", token, 1, 1, "main"),))
    assert notice in world.heard["s0"]


def test_items_and_signals_are_lost_only_with_a_manager_that_had_some() -> None:
    assert Locks(7, 0).since == 7 and Locks(7, 0, since=3).open("ann", Open("s", "x"), 0)[0][1].since == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(40))
def test_on_random_schedules_of_lost_answers_and_leases_each_item_is_put_and_got_once_or_said_to_be_unknown(seed: int) -> None:
    """Sessions put numbers and get them; connections break before the answer is heard, leases end, by the manager's clock or the session's."""
    chance = random.Random(seed)
    world = World(sessions=0)
    names = [f"s{index}" for index in range(4)]
    incarnation, turn = Counter[str](), Counter[str]()
    asked: dict[str, Ask] = {}
    put, maybe, got = [], [], []
    number = 0
    for name in names:
        world.open(name)

    def heard(name: str) -> None:
        ask = asked.get(name)
        answer = world.answer(name, ask.id) if ask is not None else None
        if ask is None or answer is None:
            return
        del asked[name]
        assert answer.outcome == YES, answer
        (put if ask.op == "put" else got).append(ask.data if ask.op == "put" else answer.data)
        world.hear(world.locks.renewed(name, Renew(1, ask.id), world.now_ms))

    for _ in range(300):
        name = chance.choice(names)
        what = chance.random()
        if what < 0.6 and name not in asked and name in world.locks.sessions:
            number += 1
            op = chance.choice(("put", "get"))
            id_ = world.ask(name, op, "queue", data=b"%d" % number if op == "put" else b"")
            asked[name] = Ask(id_, op, "queue", "a", "main", data=b"%d" % number if op == "put" else b"")
            if chance.random() < 0.6:
                heard(name)
        elif what < 0.9:
            if chance.random() < 0.5:
                incarnation[name] += 1
            if chance.random() < 0.3:
                world.pass_ms(SYNC_TTL_MS + 200, renewing=tuple(other for other in names if other != name))
                incarnation[name] += 1
            turn[name] += 1
            world.heard[name].clear()
            waiting = (Waiting(asked[name], 1),) if name in asked else ()
            world.open(name, turn=turn[name], incarnation=incarnation[name], waiting=waiting)
            if chance.random() < 0.7:
                heard(name)
        else:
            world.pass_ms(200, renewing=tuple(names))
            heard(name)
    for name in names:
        heard(name)
    maybe = [ask.data for ask in asked.values() if ask.op == "put"]
    left = deque(queued(world))
    counts = Counter([*got, *left])
    assert max(counts.values(), default=1) == 1, "something came twice"
    assert set(put) <= set(counts) <= {*put, *maybe}


def test_a_question_that_is_to_be_said_later_goes_on_waiting_and_is_done_once() -> None:
    world = World()
    for _ in range(2):
        world.ask("s1", "put", "queue", spec=1, data=b"1")
    waits, done = world.ask("s0", "put", "queue", spec=1, data=b"2"), world.ask("s0", "put", "queue", "other", data=b"3")
    world.heard["s0"].clear()
    world.open("s0", turn=1, epoch=1, later=(waits, done, 99))
    assert waits in world.locks.sessions["s0"].waiting and not answers(world, "s0", waits)
    for id_, name, data in ((waits, "a", b"2"), (done, "other", b"3"), (99, "other", b"4")):
        ask = Ask(id_, "put", "queue", name, spec=1 if name == "a" else 0, data=data)
        world.hear(world.locks.waits("s0", Waiting(ask, 1), world.now_ms))
    assert [len(answers(world, "s0", id_)) for id_ in (waits, done, 99)] == [0, 1, 1]
    assert [queued(world, "other"), queued(world, "a", spec=1)] == [[b"3", b"4"], [b"1", b"1", b"2"]]


def test_of_a_question_that_is_said_later_nobody_knows_more_than_when_the_session_was_opened() -> None:
    world = World(sessions=0)
    world.open("s0", incarnation=1, later=(5, 6))
    for id_, is_again in ((5, True), (6, False), (7, True)):
        world.hear(world.locks.waits("s0", Waiting(Ask(id_, "put", "queue", "a", data=b"x"), 0, again=is_again), world.now_ms))
    told = [answers(world, "s0", id_)[0] for id_ in (5, 6, 7)]
    assert told[0].text.startswith("outcome-unknown:") and [one.outcome for one in told[1:]] == [YES, YES]
    world.open("s0", turn=1, incarnation=1, epoch=1)
    assert not world.locks.sessions["s0"].unknown
    assert [type(one) for _session, one in world.locks.waits("nobody", Waiting(Ask(5, "put", "queue", "a"), 0), 0)] == [Over]
