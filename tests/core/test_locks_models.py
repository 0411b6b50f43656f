"""The manager of locks against plain models of what `threading` and `queue` mean, on schedules that hypothesis makes up."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_locks import World
from unios.core.grants import BROKEN, KINDS, NO, TIMED, YES, Ask, Held, Known, Open, Token, Waiting, Withdraw
from unios.core.locks import Locks

SESSIONS = 4
WHO = st.integers(0, SESSIONS - 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(["wait", "wait", "wait", "give up", "die", "reset", "abort"]), WHO), max_size=40))
def test_nobody_leaves_a_barrier_early_and_a_round_is_whole_or_broken(parties: int, steps: list[tuple[str, int]]) -> None:
    world = World(sessions=SESSIONS)
    inside: dict[int, str] = {}
    broken = False
    for what, index in steps:
        name, before = f"s{index}", dict(inside)
        if what == "wait":
            inside[world.ask(name, "wait", "barrier", spec=parties, flags=TIMED)] = name
            outcome = BROKEN if broken else YES if len(inside) == parties else None
        elif what == "give up":
            mine = [id_ for id_, who in inside.items() if who == name]
            world.hear(world.locks.withdrawn(name, Withdraw(mine[0] if mine else 999)))
            outcome = BROKEN if mine else None
            broken = broken or bool(mine)
        elif what == "die":
            dying = name in inside.values()
            world.hear(world.locks.ended(name))
            world.open(name)
            inside = {id_: who for id_, who in inside.items() if who != name}
            outcome = BROKEN if dying else None
            broken = broken or dying
        else:
            world.ask(name, what, "barrier", spec=parties)
            outcome = BROKEN
            broken = what == "abort"
        if outcome is None:
            assert all(world.answer(who, id_) is None for id_, who in inside.items()), (what, before)
            continue
        answers = [world.answer(who, id_) for id_, who in inside.items()]
        assert [answer.outcome if answer else None for answer in answers] == [outcome] * len(answers)
        if outcome == YES:
            assert sorted(answer.value for answer in answers if answer) == list(range(parties))
        inside = {}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["wait", "wait", "notify", "notify", "give up"]), WHO, st.integers(1, 3)), max_size=40))
def test_each_notification_wakes_who_has_waited_longest_and_none_is_lost(steps: list[tuple[str, int, int]]) -> None:
    world = World(sessions=SESSIONS)
    waiting: deque[tuple[str, int]] = deque()
    notified: list[tuple[str, int]] = []
    given_up: list[tuple[str, int]] = []
    for at, (what, index, count) in enumerate(steps):
        name, actor = f"s{index}", f"thread {at}"
        if what == "give up":
            if waiting:
                given_up.append(waiting.popleft())
                world.hear(world.locks.withdrawn(given_up[-1][0], Withdraw(given_up[-1][1])))
                drain(world, given_up[-1:])
            continue
        taken = world.token(name, world.ask(name, "take", actor=actor))
        assert taken is not None
        if what == "wait":
            id_ = world.ask(name, "wait", actor=actor, number=taken.number, spec=taken.epoch, text="c", flags=TIMED)
            waiting.append((name, id_))
        else:
            world.ask(name, "notify", actor=actor, size=count, text="c")
            woken = [waiting.popleft() for _ in range(min(count, len(waiting)))]
            notified += woken
            world.give(name, taken)
            drain(world, woken)
    assert [world.answer(*one).value for one in notified] == [1] * len(notified)  # type: ignore[union-attr]
    assert [world.answer(*one).value for one in given_up] == [0] * len(given_up)  # type: ignore[union-attr]
    assert all(world.answer(*one) is None for one in waiting)


def drain(world: World, woken: list[tuple[str, int]]) -> None:
    """Let each of them have the lock, in that order, and give it back."""
    for name, id_ in woken:
        answer = world.answer(name, id_)
        assert answer is not None and answer.outcome == YES, "it has its turn"
        world.give(name, Token(1, answer.number))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2), st.lists(st.tuples(st.sampled_from(["put", "put", "get", "get", "give up"]), WHO), max_size=50))
def test_items_come_out_in_the_order_of_putting_to_getters_in_the_order_of_asking(length_max: int, steps: list[tuple[str, int]]) -> None:
    world = World(sessions=SESSIONS)
    puts: list[tuple[str, int, bytes]] = []
    gets: list[tuple[str, int]] = []
    for at, (what, index) in enumerate(steps):
        name, data = f"s{index}", b"%d" % at
        if what == "put":
            puts.append((name, world.ask(name, "put", "queue", spec=length_max, data=data), data))
        elif what == "get":
            gets.append((name, world.ask(name, "get", "queue", spec=length_max)))
        else:
            open_ = [one for one in (*puts, *gets) if one[0] == name and world.answer(*one[:2]) is None]
            for one in open_[:1]:
                world.hear(world.locks.withdrawn(one[0], Withdraw(one[1])))
                assert (told := world.answer(*one[:2])) is not None and told.outcome == NO
        accepted = [one for one in puts if (found := world.answer(*one[:2])) and found.outcome == YES]
        served = [found for one in gets if (found := world.answer(*one)) and found.outcome == YES]
        assert [found.data for found in served] == [one[2] for one in accepted][: len(served)]
        pending = sum(world.answer(*one[:2]) is None for one in puts), sum(world.answer(*one) is None for one in gets)
        inside = len(accepted) - len(served)
        assert not (pending[1] and inside), "who waits to get would find something"
        assert not (pending[0] and length_max and inside < length_max), "who waits to put would find room"
        assert not length_max or inside <= length_max


OPS = [
    "take",
    "give",
    "release",
    "back",
    "wait",
    "notify",
    "locked",
    "set",
    "clear",
    "is_set",
    "acted",
    "abort",
    "reset",
    "put",
    "get",
    "done",
    "join",
    "size",
    "x",
]
NUMBERS = st.integers(-2, 3)
ASKS = st.builds(
    Ask,
    NUMBERS,
    st.sampled_from(OPS),
    st.sampled_from([*KINDS, "x"]),
    st.sampled_from(["a", "b", ""]),
    st.sampled_from(["main", "other"]),
    NUMBERS,
    NUMBERS,
    st.integers(0, 15),
    NUMBERS,
    st.just("c"),
    st.sampled_from([b"", b"data"]),
)
TOKENS = st.builds(Token, NUMBERS, NUMBERS)
HELDS = st.builds(Held, st.sampled_from([*KINDS, "x"]), st.just("a"), TOKENS, NUMBERS, NUMBERS, st.just("main"))
KNOWNS = st.builds(Known, st.sampled_from([*KINDS, "x"]), st.just("a"), TOKENS, NUMBERS)
OPENS = st.builds(
    Open,
    st.sampled_from(["s0", "s1"]),
    st.just("l"),
    held=st.tuples(HELDS),
    known=st.tuples(KNOWNS),
    waiting=st.tuples(st.builds(Waiting, ASKS, NUMBERS)),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1), st.lists(st.one_of(st.tuples(WHO, ASKS), st.tuples(WHO, OPENS), st.tuples(WHO, NUMBERS)), max_size=40))
def test_whatever_sessions_say_the_manager_goes_on_and_keeps_nothing_of_those_that_have_ended(grace: int, steps: list[tuple[int, object]]) -> None:
    locks = Locks(2, 0, grace_ms=grace * 3_000)
    now_ms = 0
    for index in range(2):
        locks.open("ann", Open(f"s{index}", "l"), now_ms)
    for index, said in steps:
        now_ms += 100
        if isinstance(said, Ask):
            locks.asked(f"s{index}", said, now_ms)
        elif isinstance(said, Open):
            locks.open("ann", said, now_ms)
        else:
            assert isinstance(said, int)
            locks.withdrawn(f"s{index}", Withdraw(said, "lock", "a"))
        locks.tick(now_ms)
    for _ in range(100):
        now_ms += 100
        locks.tick(now_ms)
    assert not locks.sessions and not locks._things.ledger and not locks._blocked
    for thing in locks._things.values():
        assert not list(thing.waiters())
