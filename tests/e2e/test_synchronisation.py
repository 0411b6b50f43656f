"""Programs of three nodes synchronise: what each noun promises, as `threading` and `queue` have it."""

import asyncio
import os
import queue
from pathlib import Path
from threading import BrokenBarrierError

import pytest

from tests.e2e.programs import NODES, Beside, ended, program, said, via
from tests.e2e.system import System, wait_for
from unios.client.synchronisation.aio import AsyncEvent, AsyncLock, AsyncQueue, AsyncSemaphore
from unios.client.synchronisation.barrier import Barrier
from unios.client.synchronisation.condition import Condition
from unios.client.synchronisation.election import Election
from unios.client.synchronisation.event import Event
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.rwlock import RWLock
from unios.client.synchronisation.semaphore import BoundedSemaphore, Semaphore
from unios.errors import Deadlock


def test_programs_of_all_nodes_take_turns(whole: System, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    code = """
lock = Lock("turns")
for _ in range(100):
    with lock:
        value = int(open(sys.argv[1]).read())
        open(sys.argv[1], "w").write(str(value + 1))
"""
    running = [program(whole, node, code, str(counter)) for node in NODES for _ in range(2)]
    assert [each.wait(60) for each in running] == [0] * 6
    for each in running:
        each.communicate()
    assert counter.read_text() == "600"


def test_a_lock_behaves_as_that_of_threading(whole: System) -> None:
    one, other = (Lock("alike", via=via(whole, node)) for node in ("n1", "n2"))
    with one as token:
        assert one.token == token and one.locked() and other.locked()
        assert not other.acquire(blocking=False)
        assert not other.acquire(timeout=0.05)
        with pytest.raises(RuntimeError):
            other.release()
        with pytest.raises(ValueError, match="timeout"):
            other.acquire(blocking=False, timeout=1)
    assert not one.locked() and one.token is None
    assert other.acquire(timeout=5)
    assert other.token is not None and other.token > token
    other.release()
    again = RLock("alike", via=via(whole, "n3"))
    with again, again:
        assert not one.acquire(blocking=False)
    assert one.acquire(timeout=5)  # a release waits for nobody: it may still be on its way
    one.release()


def test_readers_share_and_a_writer_is_alone(whole: System) -> None:
    one, other = (RWLock("pages", via=via(whole, node)) for node in ("n1", "n2"))
    with one.read:
        with other.read:
            assert not other.write.acquire(blocking=False)
        assert one.locked()
    with one.write:
        assert not other.read.acquire(timeout=0.05)
    assert other.write.acquire(timeout=5)
    other.write.release()


def test_semaphores_count_over_all_nodes(whole: System) -> None:
    one, other = (Semaphore("seats", 2, via=via(whole, node)) for node in ("n1", "n3"))
    assert one.acquire() and other.acquire() and not other.acquire(blocking=False)
    one.release()
    assert other.acquire(timeout=5)
    one.release(2)
    bounded = BoundedSemaphore("bounded", 1, via=via(whole, "n2"))
    with bounded:
        pass
    with pytest.raises(ValueError, match="more often"):
        bounded.release()


def test_an_event_wakes_all_and_stays_set(whole: System) -> None:
    events = [Event("go", via=via(whole, node)) for node in NODES]
    assert not events[0].wait(0.05)
    waiting = [Beside(lambda event=event: event.wait(20)) for event in events]  # type: ignore[misc]
    events[2].set()
    assert [each.result() for each in waiting] == [True] * 3 and events[0].is_set()
    events[1].clear()
    assert not events[0].is_set()


def test_a_condition_hands_items_from_node_to_node(whole: System) -> None:
    giver, taker = (Condition("items", via=via(whole, node)) for node in ("n1", "n2"))
    items: list[int] = []

    def take() -> int:
        with taker:
            assert taker.wait_for(lambda: items, 20)
            return items.pop()

    taking = [Beside(take) for _ in range(2)]
    for number in (1, 2):
        with giver:
            items.append(number)
            giver.notify()
    assert sorted(each.result() for each in taking) == [1, 2]
    with giver:
        assert giver.wait(0.05) is False
    with pytest.raises(RuntimeError):
        giver.notify()


def test_a_barrier_lets_all_nodes_through_together_and_breaks_as_that_of_threading(whole: System) -> None:
    acted: list[int] = []
    barriers = [Barrier("start", 3, lambda: acted.append(1), via=via(whole, node)) for node in NODES]
    for _ in range(3):
        waiting = [Beside(barrier.wait) for barrier in barriers]
        assert sorted(each.result() for each in waiting) == [0, 1, 2]
    assert len(acted) == 3 and barriers[0].n_waiting == 0
    patient = Beside(barriers[0].wait)
    wait_for(lambda: barriers[1].n_waiting, lambda count: count == 1, "one waits")
    with pytest.raises(BrokenBarrierError):
        barriers[1].wait(0.05)
    assert isinstance(patient.result(), BrokenBarrierError) and barriers[2].broken
    barriers[2].reset()
    assert not barriers[0].broken


def test_programs_whose_first_use_of_anything_is_a_barrier_meet_there(whole: System) -> None:
    code = """
import unios
print(unios.Barrier("first", 3).wait())
"""
    running = [program(whole, node, code) for node in NODES]
    assert sorted(said(each) for each in running) == ["0", "1", "2"]
    for each in running:
        ended(each)


def test_a_queue_carries_objects_between_nodes_with_the_exceptions_of_queue(whole: System) -> None:
    one, other = (Queue("work", 2, via=via(whole, node)) for node in ("n1", "n2"))
    with pytest.raises(queue.Empty):
        other.get(timeout=0.05)
    one.put({"a": [1, 2]})
    one.put(b"x" * 3_000_000)
    with pytest.raises(queue.Full):
        one.put(3, block=False)
    assert one.full() and other.qsize() == 2
    assert other.get() == {"a": [1, 2]} and len(other.get()) == 3_000_000
    joining = Beside(one.join)
    other.task_done()
    other.task_done()
    assert joining.result() is None
    with pytest.raises(ValueError, match="too many"):
        other.task_done()


def test_of_those_who_stand_one_leads_and_the_next_when_it_resigns(whole: System) -> None:
    one, other = (Election("chief", via=via(whole, node)) for node in ("n1", "n2"))
    assert one.leader() is None and one.stand(5) and one.leads
    found = other.leader()
    assert found is not None and str(os.getpid()) in found.who and found.token == one.token
    standing = Beside(other.stand)
    one.resign()
    assert standing.result() and other.leads and not one.leads
    other.resign()


def test_a_deadlock_over_three_nodes_is_found_and_names_everybody(whole: System) -> None:
    code = """
mine, theirs = Lock(sys.argv[1]), Lock(sys.argv[2])
mine.acquire()
print("holds")
sys.stdin.readline()
try:
    theirs.acquire()
    theirs.release()
    print("got it")
except Exception as error:
    print(type(error).__name__, error)
mine.release()
"""
    running = [program(whole, node, code, f"d{index}", f"d{(index + 1) % 3}") for index, node in enumerate(NODES)]
    assert [said(each) for each in running] == ["holds"] * 3
    for each in running:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    lines = [said(each) for each in running]
    for each in running:
        each.communicate()
    told = [line for line in lines if line.startswith("Deadlock")]
    assert len(told) == 1 and lines.count("got it") == 2
    assert all(str(each.pid) in told[0] for each in running) and all(f"lock d{index}" in told[0] for index in range(3))
    with Lock("alone", via=via(whole)), pytest.raises(Deadlock):
        Lock("alone", via=via(whole)).acquire()


def test_tasks_of_one_loop_wait_without_blocking_it_and_a_cancelled_wait_leaves_nothing(whole: System) -> None:
    async def work() -> None:
        lock, other = AsyncLock("tasks", via=via(whole, "n1")), AsyncLock("tasks", via=via(whole, "n2"))
        async with lock as token:
            assert lock.check() == token and await other.locked()
            assert not await other.acquire(timeout=0) and not await other.acquire(timeout=0.05)
            waiting = asyncio.ensure_future(other.acquire())
            while not other._thing.session._pending:
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert await other.acquire(timeout=5) and other.token is not None and other.token > token
        other.release()
        event, seats, work = (
            AsyncEvent("atasks", via=via(whole)),
            AsyncSemaphore("aseats", 1, via=via(whole, "n3")),
            AsyncQueue("awork", 1, via=via(whole)),
        )
        going = asyncio.ensure_future(event.wait(20))
        await event.set()
        assert await going and await event.is_set()
        await event.clear()
        async with seats:
            assert not await seats.acquire(timeout=0.05)
        await work.put({"a": 1}, timeout=5)
        with pytest.raises(queue.Full):
            await work.put(2, timeout=0)
        assert await work.qsize() == 1 and await work.get() == {"a": 1}
        await work.task_done()
        await work.join()
        with pytest.raises(queue.Empty):
            await work.get(timeout=0.05)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_deadlock_of_tasks_is_found(whole: System) -> None:
    async def work() -> None:
        locks = [AsyncLock(f"t{index}", via=via(whole, "n2")) for index in range(2)]
        both = asyncio.Barrier(2)

        async def take(first: AsyncLock, name: str) -> str:
            async with first:
                await both.wait()
                second = AsyncLock(name, via=via(whole, "n2"))
                try:
                    await second.acquire()
                except Deadlock as error:
                    return str(error)
                second.release()
                return ""

        said = await asyncio.gather(take(locks[0], "t1"), take(locks[1], "t0"))
        assert sorted(map(bool, said)) == [False, True] and "a deadlock of 2" in max(said)

    asyncio.run(asyncio.wait_for(work(), 60))
