"""Which worker gets which task: one world in which workers begin, answer, submit and die in any order, and what must hold in all of them."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core.task_world import DIED, HOSTAGE_MS, World
from unios.core.crews import Crew, plan_crews, smaller
from unios.core.task_states import AHEAD
from unios.core.tasks import FRUITLESS_MAX, OVERTAKEN_MAX, UNBEGUN_MAX


class Machine(RuleBasedStateMachine):
    """Anything may happen at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(3)
        self.world.hire(2, "n1")
        self.world.hire(1, "n2")

    def pick(self, number: int) -> int | None:
        hands = sorted(self.world.hands)
        return hands[number % len(hands)] if hands else None

    @rule(retries=st.integers(0, 2), node=st.sampled_from(["", "n1", "n2", "n3"]))
    def submit(self, retries: int, node: str) -> None:
        self.world.submit(retries, bytes_at={node: 10**9} if node else None)

    @rule(number=st.integers(0, 9))
    def submit_inside(self, number: int) -> None:
        worker = self.pick(number)
        if worker is not None and (running := self.world.hands[worker].running) is not None:
            self.world.submit(0, running[1])

    @rule()
    def crew_is_ready(self) -> None:
        for crew in list(self.world.crews):
            self.world.do(self.world.tasks.crew_ready(crew, self.world.nodes[crew]))

    @rule(number=st.integers(0, 9))
    def worker_is_ready(self, number: int) -> None:
        worker = self.pick(number)
        if worker is not None and not self.world.hands[worker].ready:
            self.world.ready(worker)

    @rule(number=st.integers(0, 9))
    def begin(self, number: int) -> None:
        if (worker := self.pick(number)) is not None:
            self.world.begin(worker)

    @rule(number=st.integers(0, 9))
    def answer(self, number: int) -> None:
        if (worker := self.pick(number)) is not None:
            self.world.answer(worker)

    @rule(number=st.integers(0, 9), known=st.booleans())
    def kill(self, number: int, known: bool) -> None:
        worker = self.pick(number)
        if worker is not None and self.world.hands[worker].ready:
            self.world.kill(worker, known=known)

    @rule(number=st.integers(0, 9), heard=st.booleans())
    def lose_a_crew(self, number: int, heard: bool) -> None:
        crews = sorted(self.world.crews)
        crew = crews[number % len(crews)]
        self.world.do(self.world.tasks.crew_ready(crew, self.world.nodes[crew]))
        for worker in [worker for worker, hand in self.world.hands.items() if hand.crew == crew and not hand.ready]:
            self.world.ready(worker)  # else such losses in a row would break the executor
        del self.world.crews[crew]
        for worker in [worker for worker, hand in self.world.hands.items() if hand.crew == crew]:
            del self.world.hands[worker]
        if heard:
            self.world.tasks.crew_ends(crew)
        self.world.do(self.world.tasks.crew_gone(crew, DIED, now_ms=self.world.now))

    @rule(number=st.integers(1, 30))
    def cancel(self, number: int) -> None:
        if number < self.world.next_task and not self.world.ended[number]:  # cancelled more than once, too
            self.world.cancelled.add(number)
            self.world.do(self.world.tasks.cancelled(number))

    @rule(number=st.integers(1, 30))
    def cancel_unseen(self, number: int) -> None:
        world = self.world
        lies = any(number == task for hand in world.hands.values() for _turn, task in hand.lying)
        if number < world.next_task and not world.ended[number] and not world.runs[number] and not lies and number not in world.known_begun:
            world.cancelled.add(number)
            world.unseen.add(number)

    @rule(number=st.integers(0, 9))
    def cancel_all(self, number: int) -> None:
        if not number:  # seldom
            self.world.cancelled.update(task for task in range(1, self.world.next_task) if not self.world.ended[task])
            self.world.do(self.world.tasks.cleared())

    @precondition(lambda self: self.world.bars)
    @rule()
    def bar(self) -> None:
        self.world.bar()

    @rule()
    def time_passes(self) -> None:
        self.world.now += HOSTAGE_MS
        self.world.do(self.world.tasks.passed(self.world.now))

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert all(count == 1 for count in self.world.ended.values()), self.world.ended

    @invariant()
    def nothing_runs_more_often_than_it_may(self) -> None:
        for task, count in self.world.runs.items():
            assert count <= 1 + self.world.retries[task], task

    @invariant()
    def what_was_dropped_never_ran(self) -> None:
        for task, how in self.world.outcome.items():
            assert how != "dropped" or not self.world.runs[task]

    @invariant()
    def nobody_is_without_work_while_a_task_waits(self) -> None:
        tasks = self.world.tasks
        if tasks.waiting:
            free = [w for w, hand in self.world.hands.items() if hand.ready and not hand.lying and hand.running is None]
            free = [w for w in free if not any(bar.worker == w for bar in self.world.bars)]
            assert not free or tasks._working >= tasks.workers_max

    def teardown(self) -> None:
        self.world.drain()
        assert all(self.world.ended[task] == 1 for task in range(1, self.world.next_task))
        assert not self.world.broken


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestTasks = Machine.TestCase


def world(workers: int, **options: int) -> World:
    made = World(workers, **options)
    made.hire(workers)
    made.staff()
    return made


def test_tasks_begin_in_the_order_in_which_they_came() -> None:
    one = world(2)
    for _ in range(50):
        one.submit()
    one.drain()
    assert one.begun == sorted(one.begun)


def test_what_lies_ahead_of_a_long_task_is_taken_back_for_who_has_nothing_to_do() -> None:
    one = world(2)
    for _ in range(4):
        one.submit()
    first, second = one.hands
    for worker in (first, second):
        one.begin(worker)
    for _ in range(2):  # the second goes on by itself
        one.answer(second)
        one.begin(second)
    assert one.hands[first].lying and not one.bars
    one.now += HOSTAGE_MS
    one.do(one.tasks.passed(one.now))
    one.bar()
    one.begin(second)
    assert one.hands[second].running is not None and len(one.begun) == 4


def test_several_that_are_cancelled_one_after_the_other_behind_a_long_task_never_run() -> None:
    one = world(1)
    one.submit()
    others = [one.submit() for _ in range(5)]
    (worker,) = one.hands
    one.begin(worker)
    for task in others:
        one.cancelled.add(task)
        one.do(one.tasks.cancelled(task))
        while one.bars:
            one.bar()
    one.drain()
    assert all(one.outcome[task] == "dropped" and not one.runs[task] for task in others)


def test_a_worker_that_has_much_to_read_that_was_taken_back_is_given_the_next_and_nothing_ahead_of_it() -> None:
    one = world(1)
    tasks = [one.submit() for _ in range(AHEAD + 5)]
    (hand,) = one.hands.values()
    assert len(hand.lying) == AHEAD + 1
    one.cancelled.add(tasks[1])
    one.do(one.tasks.cancelled(tasks[1]))
    one.bar()  # before it has begun any
    assert len(hand.lying) == AHEAD + 2
    one.drain()


def test_a_bar_that_came_too_late_changes_nothing() -> None:
    one = world(1)
    one.submit()
    two = one.submit()
    (worker,) = one.hands
    one.begin(worker)
    one.cancelled.add(two)
    one.do(one.tasks.cancelled(two))
    one.answer(worker)
    one.begin(worker)
    one.bar()
    one.answer(worker)
    assert one.outcome[two] == "done"


def test_worker_and_parent_that_look_at_the_same_moment_lose_no_task() -> None:
    one = world(1)
    one.submit()
    two = one.submit()
    (worker,) = one.hands
    one.begin(worker)
    one.do(one.tasks.cancelled(two))
    bar = one.bars.pop()
    one.answer(worker)
    one.hands[worker].lying.clear()
    one.do(one.tasks.barred(worker, bar.turn, bar.turn, one.now))  # the parent saw that it was begun, the worker that it is barred
    one.do(one.tasks.refused(worker, bar.turn, one.now))
    one.drain()
    assert one.outcome[two] == "done"


def test_a_call_without_retries_fails_with_its_worker_and_what_lay_ahead_does_not() -> None:
    one = world(1)
    first, second = one.submit(), one.submit()
    (worker,) = one.hands
    one.begin(worker)
    one.kill(worker)
    one.drain()
    assert one.outcome == {first: "failed", second: "done"} and one.runs[second] == 1


def test_a_call_is_made_again_as_often_as_was_asked_and_no_oftener() -> None:
    one = world(1)
    task = one.submit(retries=2)
    for _ in range(3):
        one.staff()
        (worker,) = one.hands
        one.begin(worker)
        one.kill(worker)
    assert one.outcome == {task: "failed"} and one.runs[task] == 3


def test_a_call_that_has_run_and_waits_to_run_again_cannot_be_cancelled() -> None:
    one = world(1)
    task = one.submit(retries=1)
    (worker,) = one.hands
    one.begin(worker)
    one.kill(worker)
    assert one.tasks.waiting == 1
    one.do(one.tasks.cancelled(task))
    one.drain()
    assert one.outcome == {task: "done"} and one.runs[task] == 2


def test_what_lies_ahead_of_a_task_that_waits_for_its_own_is_taken_back_at_once() -> None:
    one = world(1)
    first, second = one.submit(), one.submit()
    (worker,) = one.hands
    one.begin(worker)
    assert not one.bars
    one.submit(parent=first)
    one.bar()
    one.staff()
    (other,) = [hand for id_, hand in one.hands.items() if id_ != worker]
    assert second in [task for _turn, task in other.lying] and not one.bars


def test_what_a_lost_task_has_submitted_is_not_counted_for_the_one_that_runs_in_its_stead() -> None:
    one = world(2)
    outer = one.submit(retries=1)
    (worker,) = [id_ for id_, hand in one.hands.items() if hand.lying]
    one.begin(worker)
    one.submit(parent=outer)
    (other,) = [id_ for id_, hand in one.hands.items() if id_ != worker]
    one.begin(other)
    one.kill(worker)
    one.staff()
    (again,) = [id_ for id_ in one.hands if id_ != other]
    one.begin(again)
    assert one.hands[again].running is not None and one.tasks._working == 2
    one.answer(other)
    one.answer(again)
    assert one.tasks._working == 0 == one.tasks.unfinished


def test_tasks_that_wait_for_their_own_do_not_wait_in_a_ring() -> None:
    one = world(2)
    outer = [one.submit() for _ in range(4)]
    one.staff()
    for worker in list(one.hands):
        one.begin(worker)
    inner = [one.submit(parent=task) for task in list(one.begun)]
    for _ in range(20):  # the outer ones answer only when theirs are done
        one.staff()
        while one.bars:
            one.bar()
        for worker in list(one.hands):
            one.begin(worker)
        for worker, hand in list(one.hands.items()):
            if hand.running is not None and (hand.running[1] in inner or all(one.ended[task] for task in inner)):
                one.answer(worker)
    assert all(one.ended[task] for task in [*outer, *inner])


def test_a_ring_that_no_further_worker_can_break_is_broken_by_an_error() -> None:
    one = world(1, bound=3)
    task = one.submit()
    for _ in range(3):
        one.staff()
        for worker in list(one.hands):
            one.begin(worker)
        task = one.submit(parent=one.begun[-1])
    assert one.outcome == {task: "failed"}


def test_workers_that_all_end_before_they_are_ready_break_the_executor() -> None:
    one = World(1)
    crew = one.hire(1)
    one.do(one.tasks.crew_ready(crew))
    task = one.submit()
    for _ in range(FRUITLESS_MAX):
        (worker,) = one.hands
        one.kill(worker)
    assert one.broken and one.outcome == {task: "failed"} and not one.hands
    late = one.submit()
    assert one.outcome[late] == "failed" and not one.tasks.unfinished


def test_crews_that_all_end_before_a_worker_of_theirs_is_ready_break_the_executor() -> None:
    one = World(1)
    crew = one.hire(1)
    task = one.submit()
    for _ in range(FRUITLESS_MAX):
        one.do(one.tasks.crew_ready(crew))  # and its first fork fails
        one.do(one.tasks.crew_gone(crew, DIED, now_ms=one.now))
        crew += 1
    assert one.broken and one.outcome == {task: "failed"}


def test_a_task_that_ends_every_worker_before_it_begins_is_given_up_and_no_other_is() -> None:
    one = world(1)
    bad, good = one.submit(), one.submit()
    for _ in range(UNBEGUN_MAX):
        one.staff()
        (worker,) = one.hands
        one.kill(worker)
    one.drain()
    assert one.outcome == {bad: "failed", good: "done"} and not one.runs[bad]


@pytest.mark.parametrize("each", [1, 3])
def test_a_worker_has_no_more_tasks_than_it_may_and_then_another_is_forked(each: int) -> None:
    one = world(2)
    one.tasks.each_max = each
    tasks = [one.submit() for _ in range(20)]
    had: Counter[int] = Counter()
    for _ in range(200):
        one.staff()
        for worker, hand in list(one.hands.items()):
            assert had[worker] + len(hand.lying) + bool(hand.running) <= each
            one.begin(worker)
            if hand.running:
                had[worker] += 1
                one.answer(worker)
            if worker in one.retired:
                one.kill(worker)
    assert one.outcome == dict.fromkeys(tasks, "done") and set(had.values()) <= {each, 20 % each, 0, 1, 2} and max(had.values()) == each


def test_what_a_crew_that_has_ended_said_before_counts_and_gets_its_workers_nothing_more() -> None:
    one = World(4)
    crew, _other = one.hire(2), one.hire(1)
    one.staff()
    tasks = [one.submit() for _ in range(20)]
    ours = [id_ for id_, hand in one.hands.items() if hand.crew == crew]
    for worker in ours:
        one.begin(worker)
    lying = [list(one.hands[worker].lying) for worker in ours]
    done = [hand.running[1] for hand in (one.hands[worker] for worker in ours) if hand.running]
    one.tasks.crew_ends(crew)
    for worker in ours:
        one.answer(worker)
    assert [one.hands[worker].lying for worker in ours] == lying and all(one.outcome[task] == "done" for task in done)
    del one.crews[crew]
    for worker in ours:
        del one.hands[worker]
    one.do(one.tasks.crew_gone(crew, DIED, now_ms=one.now))
    one.drain()
    assert all(one.ended[task] == 1 for task in tasks)


def test_a_worker_of_a_crew_that_has_ended_gets_nothing_though_it_had_nothing_to_do() -> None:
    one = world(2)
    outer = one.submit()
    (busy,) = [id_ for id_, hand in one.hands.items() if hand.lying]
    one.begin(busy)
    one.tasks.crew_ends(1)
    child = one.submit(parent=outer)
    assert one.tasks.waiting == 1 and not any(hand.lying for hand in one.hands.values())
    one.hands.clear()
    one.crews.clear()
    one.do(one.tasks.crew_gone(1, DIED, now_ms=one.now))
    one.drain()
    assert one.outcome == {outer: "failed", child: "done"}


def at_three_nodes() -> World:
    one = World(3)
    for node in ("n1", "n2", "n3"):
        one.hire(1, node)
    one.staff()
    return one


def node_of(one: World, task: int) -> str:
    (crew,) = [hand.crew for hand in one.hands.values() if task in [lies for _turn, lies in hand.lying]]
    return one.nodes[crew]


def test_a_task_goes_to_the_free_worker_at_its_data() -> None:
    for node in ("n3", "n1", "n2"):
        one = at_three_nodes()
        assert node_of(one, one.submit(bytes_at={node: 10**9})) == node
    one = at_three_nodes()
    assert node_of(one, one.submit(bytes_at={"elsewhere": 10**9})) == "n1"


def test_nobody_waits_for_the_worker_at_his_data_and_no_worker_is_without_work() -> None:
    one = at_three_nodes()
    tasks = [one.submit(bytes_at={"n2": 10**9}) for _ in range(3)]
    assert sorted(node_of(one, task) for task in tasks) == ["n1", "n2", "n3"]


def test_who_becomes_free_gets_what_is_near_before_what_is_not_but_overtaking_ends() -> None:
    one = at_three_nodes()
    for _ in range(3 * (AHEAD + 1)):  # everybody has all that he may have
        one.submit()
    far = one.submit(bytes_at={"n2": 10**9})
    near = [one.submit(bytes_at={"n1": 10**9}) for _ in range(OVERTAKEN_MAX + 5)]
    (first,) = [worker for worker, hand in one.hands.items() if one.nodes[hand.crew] == "n1"]
    for _ in range(OVERTAKEN_MAX + 2 + AHEAD):
        one.begin(first)
        one.answer(first)
    begun = [task for task in one.begun if task in near or task == far]
    assert begun[:5] == near[:5] and far in begun and begun.index(far) == OVERTAKEN_MAX


def test_workers_are_divided_by_cores_and_none_asks_for_more_than_there_is() -> None:
    plans = plan_crews(7, [2, 4, 1], cpu_milli=1_000, memory_bytes=10, single=False)
    assert sorted(plans) == [Crew(1, 1_000, 10), Crew(2, 2_000, 20), Crew(4, 4_000, 40)]
    assert plan_crews(5, [2], cpu_milli=1_000, memory_bytes=0, single=False) == [Crew(5, 2_000, 0)]
    assert plan_crews(2, [2], cpu_milli=1_000, memory_bytes=0, single=True) == [Crew(1, 1_000, 0)] * 2


def test_a_crew_without_room_is_divided_until_it_is_one_and_that_waits_or_is_modest() -> None:
    assert smaller(Crew(3, 2_000, 30), at_least_milli=1_000) == [Crew(2, 1_333, 20), Crew(1, 666, 10)]
    assert smaller(Crew(1, 1_000, 0), at_least_milli=1_000) == []
    assert smaller(Crew(1, 1_000, 0), at_least_milli=0) == [Crew(1, 0, 0)]
