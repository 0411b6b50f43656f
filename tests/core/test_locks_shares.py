"""What one user may take of the manager of locks: over it he is told what he has to do, and the others go on. What is counted is counted to the end."""

import random

import pytest

from tests.core.test_locks import World
from unios.core import roster, things
from unios.core.grants import FAULT, NO, NOWAIT, YES, Answer, Ask, Held, Known, Open, Over, Renew, Token, Waiting, Withdraw
from unios.core.locks import Locks
from unios.synchronisation_limits import (
    SYNC_ACTOR_BYTES_MAX,
    SYNC_ITEM_BYTES,
    SYNC_NAME_BYTES_MAX,
    SYNC_TTL_MS,
    SYNC_USER_ANSWERS_BYTES_MAX,
    SYNC_USER_BYTES_MAX,
    SYNC_USER_PLACES_MAX,
    SYNC_USER_SESSIONS_MAX,
    SYNC_USER_THINGS_MAX,
)

KEYS = ("lock", "rwlock", "semaphore", "event", "barrier", "queue", "election")


class Two:
    """A manager with a session of ann and one of bob; `privileged` may do everything in the system."""

    def __init__(self, *, privileged: str = "", epoch: int = 1, grace_ms: int = 0) -> None:
        self.locks = Locks(epoch, 0, grace_ms=grace_ms)
        self._ids = 0
        for user in ("ann", "bob"):
            self.locks.open(user, Open(user, user), 0, is_privileged=user == privileged)

    def ask(self, user: str, op: str, kind: str, name: str = "a", **more: object) -> Answer | None:
        """Ask, and return the answer if there is one."""
        self._ids += 1
        out = self.locks.asked(user, Ask(self._ids, op, kind, name, **more), 0)  # type: ignore[arg-type]
        return next((one for _session, one in out if isinstance(one, Answer) and one.id == self._ids), None)

    def refusal(self, user: str, op: str, kind: str, name: str = "a", **more: object) -> str:
        answer = self.ask(user, op, kind, name, **more)
        return answer.text if answer is not None and answer.outcome == FAULT else ""


def test_a_user_has_a_share_of_the_sessions_and_is_told_who_has_to_end() -> None:
    two = Two()
    for index in range(SYNC_USER_SESSIONS_MAX - 1):
        two.locks.open("ann", Open(f"s{index}", "x"), 0)
    ((_session, over),) = two.locks.open("ann", Open("one too many", "x"), 0)
    assert isinstance(over, Over) and "ann has" in over.text and "programs of that user have to end" in over.text
    assert len(two.locks.open("bob", Open("b", "x"), 0)) == 1 and "b" in two.locks.sessions
    two.locks.ended("s0")
    two.locks.open("ann", Open("another", "x"), 0)
    assert "another" in two.locks.sessions


def test_a_user_has_a_share_of_the_things_in_use_and_is_told_what_has_to_be_given_back() -> None:
    two = Two()
    for index in range(SYNC_USER_THINGS_MAX):
        assert two.ask("ann", "set", "event", f"e{index}") is not None
    text = two.refusal("ann", "set", "event", "one more")
    assert text.startswith("unavailable:ann has") and "clear events" in text and "that user" in text
    assert two.ask("bob", "set", "event").outcome == YES  # type: ignore[union-attr]
    two.locks.ended("ann")
    two.locks.open("ann", Open("ann", "ann"), 0)
    two.ask("ann", "clear", "event", "e0")
    two.locks.ended("ann")
    two.locks.open("ann", Open("ann", "ann"), 0)
    assert two.refusal("ann", "set", "event", "one more") == ""


def test_a_user_has_a_share_of_the_places_also_at_one_lock_and_who_gives_back_lets_another_in() -> None:
    two = Two()
    granted = [two.ask("ann", "take", "rwlock") for _ in range(SYNC_USER_PLACES_MAX)]
    text = two.refusal("ann", "take", "rwlock")
    assert text.startswith("unavailable:ann has") and "give some back" in text
    for op, kind in (("take", "lock"), ("wait", "event"), ("get", "queue"), ("take", "semaphore")):
        assert two.refusal("ann", op, kind).startswith("unavailable:"), (op, kind)
    assert two.refusal("ann", "wait", "barrier", spec=2).startswith("unavailable:")
    assert two.ask("ann", "wait", "barrier", spec=1).outcome == YES  # type: ignore[union-attr]
    assert two.ask("ann", "set", "event").outcome == YES  # type: ignore[union-attr]
    assert two.ask("ann", "wait", "event").outcome == YES  # type: ignore[union-attr]
    assert two.ask("bob", "take", "rwlock").outcome == YES  # type: ignore[union-attr]
    assert granted[0] is not None
    two.ask("ann", "give", "rwlock", spec=1, number=granted[0].number)
    assert two.refusal("ann", "take", "rwlock") == ""


def test_at_the_limit_of_places_a_queue_is_emptied_and_its_putters_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(things, "SYNC_USER_PLACES_MAX", 2)
    two = Two()
    for data in (b"1", b"2", b"3"):
        two.ask("ann", "put", "queue", spec=1, data=data)
    assert two.refusal("ann", "put", "queue", spec=1, data=b"4").startswith("unavailable:")
    got = [two.ask("ann", "get", "queue", spec=1, flags=NOWAIT) for _ in range(4)]
    assert [one.data for one in got if one is not None and one.outcome == YES] == [b"1", b"2", b"3"] and got[-1].outcome == NO  # type: ignore[union-attr]


def test_a_user_has_a_share_of_the_bytes_in_queues_and_empty_items_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Two()
    large = b"x" * (4 * 1024 * 1024)
    count = 0
    while not (text := two.refusal("ann", "put", "queue", f"q{count % 7}", data=large)):
        count += 1
    assert count == SYNC_USER_BYTES_MAX // (len(large) + SYNC_ITEM_BYTES)
    assert text.startswith("unavailable:ann has") and "take items out" in text
    assert two.ask("bob", "put", "queue", data=large).outcome == YES  # type: ignore[union-attr]
    assert two.ask("ann", "get", "queue", "q0").outcome == YES  # type: ignore[union-attr]
    assert two.refusal("ann", "put", "queue", "q0", data=large) == ""
    monkeypatch.setattr(things, "SYNC_USER_BYTES_MAX", 10 * SYNC_ITEM_BYTES)
    small = Two()
    assert [small.refusal("ann", "put", "queue", f"q{index}")[:12] for index in range(11)] == 10 * [""] + ["unavailable:"]


def test_who_may_do_everything_has_the_bound_of_all_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(things, "SYNC_USER_THINGS_MAX", 1)
    monkeypatch.setattr(things, "SYNC_THINGS_MAX", 3)
    two = Two(privileged="ann")
    assert [two.refusal(user, "take", "lock", name) for user, name in (("ann", "a"), ("ann", "b"), ("bob", "c"))] == ["", "", ""]
    assert "limit of one user" in two.refusal("bob", "take", "lock", "d")
    text = two.refusal("ann", "take", "lock", "d")
    assert text.startswith("unavailable:all users together have 3") and "some of them" in text


def test_what_waits_for_a_manager_to_begin_counts_as_if_it_had_come_in() -> None:
    two = Two(epoch=2, grace_ms=SYNC_TTL_MS)
    large = b"x" * (4 * 1024 * 1024)
    count = 0
    while not two.refusal("ann", "put", "queue", data=large):
        count += 1
    assert count == SYNC_USER_BYTES_MAX // (len(large) + SYNC_ITEM_BYTES)
    two.locks.ended("ann")
    assert two.locks._things.bytes.all == two.locks._things.places.all == 0
    two.locks.open("ann", Open("ann", "ann"), 0)
    for _ in range(SYNC_USER_PLACES_MAX):
        assert two.ask("ann", "put", "queue") is None
    assert two.refusal("ann", "put", "queue").startswith("unavailable:") and two.ask("bob", "put", "queue") is None


def test_answers_that_nobody_hears_are_kept_up_to_a_share_and_who_cannot_be_told_again_hears_that() -> None:
    world = World()
    large = b"x" * (4 * 1024 * 1024)
    ids = []
    for _ in range(2 * SYNC_USER_ANSWERS_BYTES_MAX // len(large)):
        world.ask("s0", "put", "queue", data=large)
        ids.append(world.ask("s0", "get", "queue"))
    kept = world.locks.sessions["s0"].answers
    assert sum(len(answer.data) for answer in kept.values()) < SYNC_USER_ANSWERS_BYTES_MAX and ids[-1] in kept and ids[0] not in kept
    world.open("s0", turn=1, epoch=1, waiting=tuple(Waiting(Ask(id_, "get", "queue", "a"), 0) for id_ in (ids[0], ids[-1])))
    first, last = world.heard["s0"][-2:]  # what is said now
    assert isinstance(first, Answer) and first.text.startswith("outcome-unknown:")
    assert isinstance(last, Answer) and last.data == large


def test_of_those_whose_lease_has_ended_the_user_of_whom_most_is_kept_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "SYNC_GONE_MAX", 4)
    locks = Locks(1, 0, grace_ms=0)
    for at, user in enumerate(["bob", "ann", "ann", "ann", "ann", "ann"]):
        locks.open(user, Open(f"{user}{at}", "x"), at)
    locks.tick(100)
    for now_ms in range(200, 2 * SYNC_TTL_MS, 100):
        locks.tick(now_ms)
    assert locks._roster.gone.has_ended("bob", Open("bob0", "x")) and not locks._roster.gone.has_ended("ann", Open("ann1", "x"))


@pytest.mark.parametrize(
    "more",
    [
        {"actor": "x" * (SYNC_ACTOR_BYTES_MAX + 1)},
        {"op": "wait", "text": "x" * (SYNC_NAME_BYTES_MAX + 1)},
        {"data": b"x"},
        {"kind": "event", "op": "set", "data": b"x"},
        {"kind": "queue", "op": "get", "data": b"x"},
        {"op": "release"},
    ],
)
def test_what_would_be_kept_and_is_no_name_and_no_item_is_refused(more: dict[str, object]) -> None:
    two = Two()
    words: dict[str, object] = {"op": "take", "kind": "lock", "name": "n", **more}
    assert two.refusal("ann", **words).startswith("usage:")  # type: ignore[arg-type]
    assert not two.locks._things


@pytest.mark.parametrize("opened", [Open("s" * 500, "x"), Open("s", "x" * 500), Open("s", "x", linux=("b" * 500, 0, 0, 0))])
def test_a_session_that_is_called_too_long_does_not_begin(opened: Open) -> None:
    locks = Locks(1, 0, grace_ms=0)
    ((_session, over),) = locks.open("ann", opened, 0)
    assert isinstance(over, Over) and not locks.sessions


def test_what_is_said_to_be_held_or_known_under_no_name_is_not_kept() -> None:
    world = World(epoch=2, grace_ms=SYNC_TTL_MS, sessions=0)
    long = "x" * (SYNC_NAME_BYTES_MAX + 1)
    world.open("a", held=(Held("lock", long, Token(1, 1), 1, 0, "x"),))
    assert not world.locks.sessions
    world.open("b", known=(Known("event", long, Token(1, 1), 1),))
    assert world.locks.sessions and not world.locks._things


def test_a_question_that_waits_is_not_asked_under_the_same_number_by_another() -> None:
    two = Two()
    assert two.ask("ann", "get", "queue") is None
    out = two.locks.asked("ann", Ask(two._ids, "take", "lock", "b"), 0)
    assert [one.text[:6] for _session, one in out if isinstance(one, Answer)] == ["usage:"] and two.locks.thing("ann", "lock", "b") is None


@pytest.mark.parametrize("seed", range(20))
def test_what_is_counted_is_what_there_is_whatever_happens(seed: int) -> None:
    dice = random.Random(seed)
    world = World(sessions=3, epoch=2, grace_ms=dice.choice([0, SYNC_TTL_MS]))
    names, number = ["s0", "s1", "s2"], 0
    for _ in range(400):
        name, number = dice.choice(names), number + 1
        if name not in world.locks.sessions:
            world.open(name, turn=number, incarnation=number)
        match dice.choice(["ask", "ask", "ask", "ask", "withdraw", "open", "end", "time"]):
            case "ask":
                kind = dice.choice(KEYS)
                op = dice.choice(
                    ["take", "take", "give", "release", "wait", "notify", "set", "clear", "put", "put", "get", "get", "done", "join", "reset"]
                )
                data = bytes(dice.randrange(9)) if (kind, op) == ("queue", "put") else b""
                token = (
                    {"spec": 2, "number": 0} if op != "give" else {"spec": world.locks.epoch, "number": dice.randrange(1, 2 + world.locks._numbers)}
                )
                world.ask(name, op, kind, dice.choice("ab"), data=data, flags=dice.choice([0, 0, NOWAIT]), text=dice.choice(["", "c"]), **token)
            case "withdraw":
                world.hear(world.locks.withdrawn(name, Withdraw(dice.randrange(1, 2 + world._ids), dice.choice(["", "lock"]), "a")))
            case "open":
                incarnation = world.locks.sessions[name].incarnation + dice.choice([0, 0, 1])
                world.open(name, turn=number, incarnation=incarnation, known=(Known("event", "a", Token(1, number), dice.randrange(2)),))
            case "end":
                world.hear(world.locks.ended(name))
            case _:
                world.pass_ms(1_000, renewing=tuple(dice.sample(names, 2)))
        _count(world.locks)
    world.pass_ms(2 * SYNC_TTL_MS + 1_000)
    _count(world.locks)
    assert not world.locks.sessions and world.locks._things.places.all == sum(one.places for one in world.locks._things.values()) == 0
    assert world.locks._roster._number.all == world.locks._roster._kept.all == 0


def _count(locks: Locks) -> None:
    late = list(locks._deferred._late.values())
    kept = locks._things.values()
    assert locks._things.number.all == locks._things.number["ann"] == len(kept)
    assert locks._things.places.all == sum(one.places for one in kept) + len(late)
    assert locks._things.bytes.all == sum(getattr(one, "held_bytes", 0) for one in kept) + sum(len(one.ask.data) for one in late)
    for one in kept:
        if hasattr(one, "putters"):
            held = sum(len(data) for _number, data in one.items) + sum(len(waiter.ask.data) for waiter in one.putters.values())
            assert one.held_bytes == held + SYNC_ITEM_BYTES * (len(one.items) + len(one.putters))
    assert locks._roster._number.all == len(locks.sessions)
    assert locks._roster._kept.all == sum(roster._cost(answer) for one in locks.sessions.values() for answer in one.answers.values())


def test_answers_that_are_heard_count_no_more() -> None:
    world = World()
    last = world.ask("s0", "put", "queue", data=b"x")
    assert world.locks._roster._kept.all > 0
    world.hear(world.locks.renewed("s0", Renew(1, last), 0))
    assert world.locks._roster._kept.all == 0
