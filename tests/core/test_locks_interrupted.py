"""The manager of locks when an answer is lost with its connection, or comes to somebody who was interrupted: all is done once, and nothing stays taken."""

from tests.core.test_locks import World
from unios.core.grants import BROKEN, FAULT, NO, NOWAIT, YES, Answer, Ask, Waiting, Withdraw
from unios.synchronisation_limits import SYNC_BYTES_MAX, SYNC_QUEUE_BYTES_MAX


def waiting(world: World, id_: int, op: str, kind: str, **more: object) -> tuple[Waiting, ...]:
    """Return what a session says that has not heard the answer to its question when its connection broke."""
    more.setdefault("actor", "main")
    return (Waiting(Ask(id_, op, kind, "a", **more), 1),)  # type: ignore[arg-type]


def test_the_others_at_a_barrier_hear_that_it_broke_when_one_of_them_comes_back_without_waiting_any_more() -> None:
    world = World()
    other = world.ask("s0", "wait", "barrier", spec=3)
    world.ask("s1", "wait", "barrier", spec=3)
    world.open("s1", turn=1)
    answer = world.answer("s0", other)
    assert answer is not None and answer.outcome == BROKEN


def test_a_semaphore_takes_units_back_once_though_its_answer_was_lost_and_a_signal_is_used_up_once() -> None:
    world = World()
    given = world.ask("s0", "release", "semaphore", size=1)
    world.open("s0", turn=1, waiting=waiting(world, given, "release", "semaphore", size=1))
    taken = world.ask("s1", "take", "semaphore")
    assert world.answer("s2", world.ask("s2", "take", "semaphore", flags=NOWAIT)).outcome == NO  # type: ignore[union-attr]
    world.open("s1", turn=1, waiting=waiting(world, taken, "take", "semaphore"))
    assert [message.outcome for message in world.heard["s1"] if isinstance(message, Answer)] == [YES, YES]
    world.ask("s1", "back", "semaphore")
    assert world.answer("s2", world.ask("s2", "take", "semaphore", flags=NOWAIT)).outcome == YES  # type: ignore[union-attr]


def test_an_item_that_comes_back_has_its_old_place_and_is_not_dealt_with() -> None:
    world = World()
    for data in (b"1", b"2", b"3"):
        world.ask("s0", "put", "queue", spec=3, data=data)
    first, second = (world.answer("s1", world.ask("s1", "get", "queue", spec=3)) for _ in range(2))
    assert first is not None and second is not None
    world.ask("s0", "put", "queue", spec=3, data=b"4")
    joining = world.ask("s2", "join", "queue", spec=3)
    for answer, who in ((second, "s1"), (first, "s1")):
        world.ask(who, "back", "queue", spec=3, number=answer.value, data=answer.data)
    out = []
    for _ in range(4):
        assert world.answer("s2", joining) is None
        got = world.answer("s1", world.ask("s1", "get", "queue", spec=3))
        assert got is not None
        out.append(got.data)
        assert world.answer("s1", world.ask("s1", "done", "queue", spec=3)).outcome == YES  # type: ignore[union-attr]
    assert out == [b"1", b"2", b"3", b"4"] and world.answer("s2", joining) is not None


def test_an_item_that_comes_back_is_not_lost_though_the_queues_are_full_meanwhile() -> None:
    world = World()
    large = b"x" * (SYNC_QUEUE_BYTES_MAX // 4)
    count = SYNC_BYTES_MAX // len(large)
    for number in range(count):
        world.ask("s0", "put", "queue", f"q{number}", data=large)
    got = world.answer("s1", world.ask("s1", "get", "queue", "q0"))
    assert got is not None and got.data == large
    for name, outcome in (("instead", YES), ("too much", FAULT)):
        answer = world.answer("s0", world.ask("s0", "put", "queue", name, data=large))
        assert answer is not None and answer.outcome == outcome
    world.ask("s1", "back", "queue", "q0", number=got.value, data=got.data)
    again = world.answer("s1", world.ask("s1", "get", "queue", "q0"))
    assert again is not None and again.data == large


def test_who_waits_no_more_to_put_a_large_item_lets_the_small_ones_behind_it_in() -> None:
    world = World()
    large = b"x" * (SYNC_QUEUE_BYTES_MAX // 4)
    for _ in range(3):
        world.ask("s0", "put", "queue", data=large)
    world.ask("s0", "put", "queue", data=large[1:])
    waits, behind = world.ask("s0", "put", "queue", data=large), world.ask("s1", "put", "queue", data=b"1")
    assert world.answer("s1", behind) is None
    world.hear(world.locks.withdrawn("s0", Withdraw(waits)))
    assert world.answer("s1", behind) is not None


def test_a_lock_granted_to_who_was_interrupted_is_free_as_soon_as_he_says_so_and_no_deadlock_with_himself() -> None:
    world = World()
    first = world.ask("s0", "take")
    world.hear(world.locks.withdrawn("s0", Withdraw(first)))
    other = world.ask("s1", "take")
    assert world.answer("s1", other) is None  # he who waits for the answer has the lock
    world.hear(world.locks.withdrawn("s0", Withdraw(first, "lock", "a")))
    again = world.ask("s0", "take")
    assert world.token("s1", other) is not None and world.answer("s0", again) is None
    world.give("s1", world.token("s1", other))
    assert world.token("s0", again) is not None


def test_a_unit_that_came_to_who_was_interrupted_goes_back_by_its_token_whatever_else_the_session_holds() -> None:
    world = World()
    kept, back = (world.token("s0", world.ask("s0", "take", "semaphore", spec=2)) for _ in range(2))
    world.give("s0", back, kind="semaphore")
    assert world.token("s1", world.ask("s1", "take", "semaphore", spec=2, flags=NOWAIT)) is not None
    world.give("s0", kept, kind="semaphore")
    assert world.token("s1", world.ask("s1", "take", "semaphore", spec=2, flags=NOWAIT)) is not None


def test_a_session_whose_first_question_is_a_barrier_comes_to_it_whole_and_one_that_asks_again_breaks_it() -> None:
    world = World()
    first = world.ask("s0", "wait", "barrier", spec=2)
    never = Waiting(Ask(900, "wait", "barrier", "a", spec=2), 1, again=False)
    world.open("s9", waiting=(never,))
    assert [world.answer(*one).outcome for one in (("s0", first), ("s9", 900))] == [YES, YES]  # type: ignore[union-attr]
    second = world.ask("s0", "wait", "barrier", spec=2)
    world.open("s8", waiting=waiting(world, 901, "wait", "barrier", spec=2))
    assert [world.answer(*one).outcome for one in (("s0", second), ("s8", 901))] == [BROKEN, BROKEN]  # type: ignore[union-attr]


def test_a_release_gives_back_the_unit_that_it_names_and_not_one_on_its_way_to_somebody_else_of_the_session() -> None:
    world = World()
    on_its_way, mine = (world.token("s0", world.ask("s0", "take", "semaphore", spec=2)) for _ in range(2))
    assert mine is not None
    world.ask("s0", "release", "semaphore", spec=2, number=mine.number, text=str(mine.epoch))
    world.give("s0", on_its_way, kind="semaphore")
    assert all(world.token("s1", world.ask("s1", "take", "semaphore", spec=2, flags=NOWAIT)) for _ in range(2))


def test_a_unit_that_is_told_of_again_is_a_unit_also_when_its_answer_is_not_kept_any_more() -> None:
    world = World()
    taken = world.ask("s1", "take", "semaphore", spec=2)
    world.locks.sessions["s1"].answers.clear()
    world.open("s1", turn=1, waiting=waiting(world, taken, "take", "semaphore", spec=2))
    assert [message.value for message in world.heard["s1"] if isinstance(message, Answer)] == [1, 1]
