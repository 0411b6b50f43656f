"""The manager of locks: tokens, order, leases, the loss of a manager, deadlocks; on random schedules too."""

import random
from collections import deque

import pytest

from unios.core.grants import (
    BROKEN,
    FAULT,
    NO,
    NOWAIT,
    TIMED,
    YES,
    Answer,
    Ask,
    Held,
    Known,
    Notice,
    Open,
    Opened,
    Out,
    Over,
    Renew,
    Token,
    Waiting,
    Withdraw,
)
from unios.core.locks import Locks
from unios.synchronisation_limits import SYNC_TTL_MS

BEGIN_MS = 1_000


class World:
    """A manager, its sessions, and what each of them has heard."""

    def __init__(self, epoch: int = 1, grace_ms: int = 0, sessions: int = 3) -> None:
        self.now_ms = BEGIN_MS
        self.locks = Locks(epoch, self.now_ms, grace_ms=grace_ms)
        self.heard: dict[str, list[object]] = {}
        self._ids = 0
        self.messages = 0
        for index in range(sessions):
            self.open(f"s{index}")

    def open(self, session: str, **more: object) -> Out:
        return self.hear(self.locks.open("ann", Open(session, f"program {session}", **more), self.now_ms))  # type: ignore[arg-type]

    def hear(self, out: Out) -> Out:
        for session, message in out:
            self.heard.setdefault(session, []).append(message)
        return out

    def ask(self, session: str, op: str, kind: str = "lock", name: str = "a", **more: object) -> int:
        self._ids += 1
        more.setdefault("actor", "main")
        self.messages += 1
        self.hear(self.locks.asked(session, Ask(self._ids, op, kind, name, **more), self.now_ms))  # type: ignore[arg-type]
        return self._ids

    def answer(self, session: str, id_: int) -> Answer | None:
        return next((one for one in self.heard.get(session, []) if isinstance(one, Answer) and one.id == id_), None)

    def token(self, session: str, id_: int) -> Token | None:
        answer = self.answer(session, id_)
        return Token(self.locks.epoch, answer.number) if answer is not None and answer.outcome == YES else None

    def give(self, session: str, token: Token | None, name: str = "a", kind: str = "lock") -> None:
        assert token is not None
        self.messages += 1
        self.hear(self.locks.asked(session, Ask(0, "give", kind, name, spec=token.epoch, number=token.number), self.now_ms))

    def pass_ms(self, ms: int, renewing: tuple[str, ...] = ()) -> None:
        for _ in range(ms // 100):
            self.now_ms += 100
            for session in renewing:
                self.hear(self.locks.renewed(session, Renew(1, 0), self.now_ms))
            self.hear(self.locks.tick(self.now_ms))


def test_a_lock_is_handed_on_in_the_order_of_asking_with_growing_tokens() -> None:
    world = World(sessions=8)
    ids = [world.ask(f"s{index}", "take") for index in range(8)]
    tokens = []
    for index in range(8):
        assert [world.token(f"s{after}", ids[after]) for after in range(index + 1, 8)] == [None] * (7 - index)
        token = world.token(f"s{index}", ids[index])
        assert token is not None
        tokens.append(token)
        world.give(f"s{index}", token)
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("waiters", [2, 4, 8, 16, 32])
def test_a_handover_takes_as_many_messages_however_many_wait(waiters: int) -> None:
    world = World(sessions=waiters)
    ids = deque((f"s{index}", world.ask(f"s{index}", "take")) for index in range(waiters))
    world.messages = 0
    before = sum(map(len, world.heard.values()))
    for _ in range(100):
        session, id_ = ids.popleft()
        world.give(session, world.token(session, id_))
        ids.append((session, world.ask(session, "take")))
    told = sum(map(len, world.heard.values())) - before
    assert (world.messages, told) == (200, 100)  # give, ask, grant


def test_nobody_overtakes_even_where_there_would_be_room() -> None:
    world = World(sessions=3)
    read = world.ask("s0", "take", "rwlock", size=1)
    world.ask("s1", "take", "rwlock", size=1 << 30)
    late = world.ask("s2", "take", "rwlock", size=1)
    assert world.token("s0", read) and world.token("s2", late) is None
    assert world.answer("s2", world.ask("s2", "take", "rwlock", size=1, flags=NOWAIT)).outcome == NO  # type: ignore[union-attr]


def test_what_a_session_held_goes_to_the_next_when_its_lease_ends_and_its_late_words_count_for_nothing() -> None:
    world = World()
    first = world.token("s0", world.ask("s0", "take"))
    second = world.ask("s1", "take")
    world.pass_ms(SYNC_TTL_MS - 100, renewing=("s1", "s2"))
    assert world.token("s1", second) is None
    world.pass_ms(200, renewing=("s1", "s2"))
    token = world.token("s1", second)
    assert first is not None and token is not None and token > first
    world.give("s0", first)
    third = world.ask("s2", "take")
    assert world.token("s2", third) is None
    assert isinstance(world.heard["s0"][-1], Over)


def test_a_token_is_given_back_once_and_by_nobody_but_its_holder() -> None:
    world = World()
    first = world.token("s0", world.ask("s0", "take"))
    world.give("s1", first)
    second = world.ask("s1", "take")
    assert world.token("s1", second) is None
    world.give("s0", first)
    third = world.ask("s2", "take")
    world.give("s0", first)
    assert world.token("s1", second) is not None and world.token("s2", third) is None


def test_time_in_which_the_manager_itself_did_not_run_ends_no_lease() -> None:
    world = World()
    token = world.token("s0", world.ask("s0", "take"))
    world.now_ms += 10 * SYNC_TTL_MS
    world.hear(world.locks.tick(world.now_ms))
    second = world.ask("s1", "take")
    assert token is not None and world.token("s1", second) is None
    assert sorted(world.locks.sessions) == ["s0", "s1", "s2"]


def test_a_new_manager_grants_nothing_that_a_former_grant_may_still_cover() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.open("new")
    early = world.ask("new", "take")
    at_once = world.ask("new", "take", name="b", flags=NOWAIT)
    assert world.token("new", early) is None and world.token("new", at_once) is None
    world.pass_ms(1_000, renewing=("new",))
    held = Token(1, 700)
    world.open("old", held=(Held("lock", "a", held, 1, 0, "main"),))
    assert any(isinstance(one, Opened) for one in world.heard["old"])
    world.pass_ms(SYNC_TTL_MS, renewing=("new", "old"))
    assert world.token("new", early) is None
    world.give("old", held)
    token = world.token("new", early)
    assert token is not None and token > held


def test_after_the_grace_a_former_grant_counts_for_nothing() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.pass_ms(SYNC_TTL_MS + 100)
    world.open("late", held=(Held("lock", "a", Token(1, 700), 1, 0, "main"),))
    assert isinstance(world.heard["late"][-1], Over)


def test_those_who_waited_at_the_former_manager_keep_their_order_before_new_ones() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.open("new")
    new = world.ask("new", "take")
    world.pass_ms(300)
    for session, waited_ms in (("b", 500), ("a", 900)):
        world.open(session, waiting=(Waiting(Ask(900 + waited_ms, "take", "lock", "a", "main"), waited_ms),))
    world.pass_ms(SYNC_TTL_MS, renewing=("new", "a", "b"))
    first = world.token("a", 1_800)
    assert first is not None and world.token("b", 1_400) is None
    world.give("a", first)
    second = world.token("b", 1_400)
    assert second is not None and world.token("new", new) is None
    world.give("b", second)
    assert world.token("new", new) is not None


def test_a_connection_that_comes_back_finds_its_place_and_what_it_did_not_hear() -> None:
    world = World()
    first = world.ask("s0", "take")
    token = world.token("s0", first)
    waiting = [world.ask(f"s{index}", "take") for index in (1, 2)]
    world.give("s0", token)  # the grant to s1 is told to a connection that breaks
    world.heard["s1"].clear()
    world.open("s1", waiting=(Waiting(Ask(waiting[0], "take", "lock", "a", "main"), 10),))
    assert world.token("s1", waiting[0]) is not None
    world.open("s1")  # and it gave it back, in a message that was lost
    assert world.token("s2", waiting[1]) is not None


def test_a_deadlock_over_three_sessions_is_found_and_names_all_the_youngest_is_told() -> None:
    world = World()
    tokens = [world.token(f"s{index}", world.ask(f"s{index}", "take", name=f"l{index}")) for index in range(3)]
    waits = [world.ask(f"s{index}", "take", name=f"l{(index + 1) % 3}") for index in range(3)]
    assert world.answer("s0", waits[0]) is None and world.answer("s1", waits[1]) is None
    told = world.answer("s2", waits[2])
    assert told is not None and told.outcome == FAULT and told.text.startswith("deadlock:")
    for word in ("program s0", "program s1", "program s2", "lock l0", "lock l1", "lock l2"):
        assert word in told.text
    world.give("s2", tokens[2], "l2")
    assert world.token("s1", waits[1]) is not None


def test_who_waits_behind_one_of_the_circle_is_part_of_it_and_who_gives_up_by_itself_is_not() -> None:
    world = World(sessions=4)
    world.ask("s0", "take", name="x")
    world.ask("s1", "take", name="y")
    world.ask("s2", "take", name="x")  # holds nothing
    world.ask("s0", "take", name="y", flags=TIMED)
    behind = world.ask("s1", "take", name="x")
    assert world.answer("s1", behind) is None
    world.ask("s3", "take", name="z")
    again = world.ask("s3", "take", name="z")
    assert (told := world.answer("s3", again)) is not None and "a deadlock of 1" in told.text


def test_a_notified_waiter_takes_its_turn_and_one_whose_time_is_over_gets_the_lock_too() -> None:
    world = World()
    token = world.token("s0", world.ask("s0", "take"))
    assert token is not None
    wait = world.ask("s0", "wait", number=token.number, spec=token.epoch, text="c")
    held = world.token("s1", world.ask("s1", "take"))
    assert held is not None
    world.ask("s1", "notify", text="c")
    assert world.answer("s0", wait) is None
    world.give("s1", held)
    answer = world.answer("s0", wait)
    assert answer is not None and answer.value == 1
    again = Token(1, answer.number)
    wait = world.ask("s0", "wait", number=again.number, spec=again.epoch, text="c", flags=TIMED)
    world.hear(world.locks.withdrawn("s0", Withdraw(wait)))
    answer = world.answer("s0", wait)
    assert answer is not None and (answer.outcome, answer.value) == (YES, 0)


def test_after_the_loss_of_a_manager_nobody_sleeps_through_a_notification() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.open("s", waiting=(Waiting(Ask(5, "wait", "lock", "a", "main", number=3, spec=1, text="c"), 10),))
    world.pass_ms(SYNC_TTL_MS, renewing=("s",))
    answer = world.answer("s", 5)
    assert answer is not None and (answer.outcome, answer.value) == (YES, 1)


def test_units_of_a_semaphore_come_back_with_the_death_of_their_holder_and_signals_do_not() -> None:
    world = World()
    for session in ("s0", "s0", "s1"):
        world.ask(session, "take", "semaphore", spec=2)
    waiting = world.answer("s1", 3)
    assert waiting is None
    world.hear(world.locks.ended("s0"))
    assert world.answer("s1", 3) is not None
    world.ask("s1", "release", "semaphore", "signal", spec=0)
    assert world.answer("s2", world.ask("s2", "take", "semaphore", "signal", spec=0)) is not None
    world.hear(world.locks.ended("s2"))
    assert world.answer("s1", world.ask("s1", "take", "semaphore", "signal", spec=0)) is None


def test_an_event_is_remembered_by_who_used_it_and_the_latest_memory_counts() -> None:
    world = World(epoch=3, grace_ms=SYNC_TTL_MS, sessions=0)
    waits = Waiting(Ask(9, "wait", "event", "e", "main"), 10)
    world.open("a", known=(Known("event", "e", Token(1, 90), 0),), waiting=(waits,))
    world.open("b", known=(Known("event", "e", Token(2, 3), 1),))
    world.pass_ms(SYNC_TTL_MS, renewing=("a", "b"))
    answer = world.answer("a", 9)
    assert answer is not None and answer.outcome == YES
    world.ask("b", "clear", "event", "e")
    assert any(isinstance(one, Notice) and not one.state for one in world.heard["a"])


def test_a_barrier_lets_all_go_at_once_and_none_of_the_next_round() -> None:
    world = World(sessions=6)
    ids = [world.ask(f"s{index}", "wait", "barrier", "b", spec=3) for index in range(5)]
    answers = [world.answer(f"s{index}", ids[index]) for index in range(5)]
    assert [answer.value if answer else None for answer in answers] == [0, 1, 2, None, None]
    world.hear(world.locks.ended("s3"))
    assert (told := world.answer("s4", ids[4])) is not None and told.outcome == BROKEN


def test_a_barrier_that_was_waited_at_when_the_manager_was_lost_is_broken_until_it_is_reset() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    world.open("a", waiting=(Waiting(Ask(5, "wait", "barrier", "b", "main", spec=2), 10),))
    world.open("b")
    world.pass_ms(SYNC_TTL_MS, renewing=("a", "b"))
    assert (told := world.answer("a", 5)) is not None and told.outcome == BROKEN
    assert (told := world.answer("b", world.ask("b", "wait", "barrier", "b", spec=2))) is not None and told.outcome == BROKEN
    world.ask("b", "reset", "barrier", "b", spec=2)
    assert world.answer("b", world.ask("b", "wait", "barrier", "b", spec=2)) is None


def test_a_queue_serves_in_order_waits_at_its_bound_and_knows_when_all_is_done() -> None:
    world = World()
    get = world.ask("s0", "get", "queue", "q", spec=1)
    puts = [world.ask("s1", "put", "queue", "q", spec=1, data=data) for data in (b"1", b"2", b"3")]
    assert world.answer("s0", get).data == b"1"  # type: ignore[union-attr]
    assert [world.answer("s1", put) is not None for put in puts] == [True, True, False]
    join = world.ask("s2", "join", "queue", "q", spec=1)
    for data in (b"2", b"3"):
        assert world.answer("s0", world.ask("s0", "get", "queue", "q", spec=1)).data == data  # type: ignore[union-attr]
    assert world.answer("s1", puts[2]) is not None and world.answer("s2", join) is None
    world.hear(world.locks.ended("s0"))
    assert world.answer("s2", join) is not None


def test_users_are_apart_and_a_session_belongs_to_who_opened_it() -> None:
    world = World()
    world.ask("s0", "take")
    world.hear(world.locks.open("bob", Open("theirs", "bob's"), world.now_ms))
    assert world.token("theirs", world.ask("theirs", "take")) is not None
    assert isinstance(world.locks.open("bob", Open("s0", "bob's"), world.now_ms)[0][1], Over)


def test_an_earlier_connection_of_a_session_is_stale_for_its_user_only() -> None:
    world = World()
    world.open("s9", turn=3)
    assert [world.locks.is_stale("ann", Open("s9", "x", turn=turn)) for turn in (2, 3, 4)] == [True, False, False]
    assert not world.locks.is_stale("bob", Open("s9", "x", turn=2))
    assert not world.locks.is_stale("ann", Open("unheard-of", "x"))


def test_what_is_not_used_any_more_leaves_nothing_behind() -> None:
    world = World(sessions=2)
    for kind in ("lock", "election"):
        world.give("s0", world.token("s0", world.ask("s0", "take", kind)), kind=kind)
    world.ask("s0", "set", "event")
    world.ask("s0", "clear", "event")
    world.ask("s0", "wait", "barrier", spec=1)
    world.ask("s0", "put", "queue", data=b"x")
    world.ask("s0", "get", "queue")
    world.ask("s0", "done", "queue")
    for session in ("s0", "s1"):
        world.hear(world.locks.ended(session))
    assert world.locks.is_idle


@pytest.mark.parametrize("seed", range(60))
def test_on_random_schedules_one_holds_a_lock_at_a_time_in_order_and_nobody_is_forgotten(seed: int) -> None:
    """Sessions ask, give, withdraw, die, break off and come back; managers are lost. Seed: see the test's name."""
    chance = random.Random(seed)
    world, epoch = World(sessions=0), 1
    names = [f"s{index}" for index in range(5)]
    asked: dict[str, tuple[int, int]] = {}
    holds: dict[str, Token] = {}
    greatest = Token(0, 0)
    rank: dict[str, tuple[int, int]] = {}
    """When each has asked; after the loss of a manager only the time counts, which is known to 100 ms."""
    for name in names:
        world.open(name)

    def look() -> None:
        nonlocal greatest
        for name, (id_, _since) in list(asked.items()):
            token = world.token(name, id_)
            if token is not None:
                assert not holds, f"{name} got it while {holds} had it"
                assert token > greatest
                greatest = holds[name] = token
                del asked[name]
                assert all(rank[other] >= rank[name] for other in asked), f"{name} overtook one of {asked}"

    for _ in range(300):
        name = chance.choice(names)
        what = chance.random()
        if what < 0.5 and name not in asked and name not in holds:
            asked[name] = world.ask(name, "take"), world.now_ms
            rank[name] = (world.now_ms, asked[name][0])
        elif what < 0.8 and name in holds:
            world.give(name, holds.pop(name))
        elif what < 0.85 and name in asked:
            world.hear(world.locks.withdrawn(name, Withdraw(asked.pop(name)[0])))
        elif what < 0.9:
            holds.pop(name, None)
            asked.pop(name, None)
            world.hear(world.locks.ended(name))
            world.open(name)
        elif what < 0.97:
            reopen(world, name, asked, holds)
        else:
            epoch += 1
            rank = {each: (since_ms, 0) for each, (since_ms, _id) in rank.items()}
            world.locks = Locks(epoch, world.now_ms)
            for each in chance.sample(names, len(names)):
                world.pass_ms(100, renewing=tuple(world.locks.sessions))
                reopen(world, each, asked, holds)
            world.pass_ms(SYNC_TTL_MS, renewing=tuple(names))
        look()
    for _ in range(20):
        for name in list(holds):
            world.give(name, holds.pop(name))
        look()
    assert not asked and not holds


def reopen(world: World, name: str, asked: dict[str, tuple[int, int]], holds: dict[str, Token]) -> None:
    held = (Held("lock", "a", holds[name], 1, 0, "main"),) if name in holds else ()
    waiting = ()
    if name in asked:
        id_, since_ms = asked[name]
        waiting = (Waiting(Ask(id_, "take", "lock", "a", "main"), world.now_ms - since_ms),)
    world.open(name, held=held, waiting=waiting)


@pytest.mark.parametrize("parties", [2, 8, 32, 128])
def test_a_barrier_takes_two_messages_for_each_party_however_many_there_are(parties: int) -> None:
    world = World(sessions=parties)
    before = sum(map(len, world.heard.values()))
    world.messages = 0
    for index in range(parties):
        world.ask(f"s{index}", "wait", "barrier", spec=parties)
    assert world.messages == parties and sum(map(len, world.heard.values())) - before == parties
