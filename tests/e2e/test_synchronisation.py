"""Programs of three nodes synchronise: what each noun promises, and what happens when holders, the service and nodes are killed or stopped."""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest

from tests.e2e.system import System, wait_for
from unios.client.connection import Connection
from unios.client.synchronisation.aio import AsyncEvent, AsyncLock, AsyncQueue, AsyncSemaphore
from unios.client.synchronisation.barrier import Barrier
from unios.client.synchronisation.condition import Condition
from unios.client.synchronisation.election import Election
from unios.client.synchronisation.event import Event
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.rwlock import RWLock
from unios.client.synchronisation.semaphore import BoundedSemaphore, Semaphore
from unios.client.synchronisation.token_guard import TokenGuard
from unios.errors import DataLost, Deadlock, LeaseLost
from unios.limits import SYNC_TTL_MS

NODES = ("n1", "n2", "n3")


def via(system: System, node: str = "n1") -> Connection:
    return Connection(system.home / "home", node)


def manager(system: System) -> tuple[str, int]:
    """Return the node whose service keeps the locks, and that service's Linux pid."""
    for node in NODES:
        try:
            return node, int(json.loads((system.home / "home" / "nodes" / node / "run" / "locks.json").read_text())["pid"])
        except (OSError, ValueError):
            continue
    return "", 0


def program(system: System, node: str, code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a Python program that talks to the system through a node; it reads lines and says some."""
    head = "import os, sys, time\nfrom unios.client.synchronisation.lock import Lock\nfrom unios.client.synchronisation.exchange import Queue\n"
    env = {**system.env, "UNIOS_NODE": node}
    words = [sys.executable, "-u", "-c", head + code, *arguments]
    return subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


HOLD = """
lock = Lock(sys.argv[1])
lock.acquire()
print(*lock.token)
for line in sys.stdin:
    try:
        lock.check() if line.strip() == "check" else lock.release()
        print("ok")
    except Exception as error:
        print(type(error).__name__)
"""


def said(running: "subprocess.Popen[str]") -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def tell(running: "subprocess.Popen[str]", text: str) -> str:
    assert running.stdin is not None
    running.stdin.write(text + "\n")
    running.stdin.flush()
    return said(running)


def token_of(line: str) -> tuple[int, ...]:
    return tuple(map(int, line.split()))


def ended(running: "subprocess.Popen[str]") -> None:
    running.kill()
    running.communicate()


class Beside(threading.Thread):
    """Something done beside the test; `result` waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self.value: Any = self._work()
        except BaseException as error:  # noqa: BLE001 told to who asks
            self.value = error

    def result(self, timeout: float = 30) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "it still waits"
        return self.value


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


def test_a_killed_holders_lock_goes_to_the_next(whole: System) -> None:
    holder = program(whole, "n2", HOLD, "widow")
    before = token_of(said(holder))
    lock = Lock("widow", via=via(whole, "n3"))
    waiting = Beside(lock.acquire)
    ended(holder)
    assert waiting.result(SYNC_TTL_MS / 1000 + 15) is True
    assert lock.token is not None and lock.token > before
    lock.release()


def test_a_holder_stopped_past_its_lease_loses_the_lock_and_its_late_writes_are_refused(whole: System) -> None:
    guard = TokenGuard()
    holder = program(whole, "n2", HOLD, "stopped")
    late = token_of(said(holder))
    guard.admit(late)  # type: ignore[arg-type]
    os.kill(holder.pid, signal.SIGSTOP)
    lock = Lock("stopped", via=via(whole, "n1"))
    assert lock.acquire(timeout=SYNC_TTL_MS / 1000 + 15)
    guard.admit(lock.token)
    os.kill(holder.pid, signal.SIGCONT)
    with pytest.raises(LeaseLost, match="later holder"):
        guard.admit(late)  # type: ignore[arg-type]
    assert tell(holder, "check") == "LeaseLost"
    assert tell(holder, "release") == "LeaseLost"
    lock.check()
    lock.release()
    ended(holder)


def test_a_forked_child_holds_nothing_and_takes_nothing_from_its_parent(whole: System) -> None:
    lock = Lock("family", via=via(whole))
    lock.acquire()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            try:
                lock.release()
            except LeaseLost:
                code = int(Lock("family", via=via(whole)).acquire(blocking=False))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lock.check()
    lock.release()


def test_an_interrupted_wait_leaves_no_lock_behind(whole: System) -> None:
    holder = program(whole, "n2", HOLD, "interrupted")
    said(holder)
    code = """
try:
    Lock("interrupted").acquire()
except KeyboardInterrupt:
    print("interrupted")
sys.stdin.readline()
"""
    waiter = program(whole, "n3", "print('waits')\n" + code)
    said(waiter)
    wait_for(lambda: os.listdir(f"/proc/{waiter.pid}/task"), lambda tasks: len(tasks) > 1, "it asks")
    waiter.send_signal(signal.SIGINT)
    assert said(waiter) == "interrupted"
    assert tell(holder, "release") == "ok"
    lock = Lock("interrupted", via=via(whole))
    assert lock.acquire(timeout=5)
    lock.release()
    ended(waiter)
    ended(holder)


def test_a_killed_service_is_replaced_holders_hold_and_waiters_keep_their_turn(fresh: System) -> None:
    lock = Lock("kept", via=via(fresh, "n2"))
    volatile = Queue("lost", via=via(fresh, "n2"))
    lock.acquire()
    before = lock.token
    volatile.put(1)
    event = Event("set", via=via(fresh, "n3"))
    event.set()
    waiters = [Lock("kept", via=via(fresh, node)) for node in ("n1", "n3")]
    waiting = []
    for waiter in waiters:
        waiting.append(Beside(waiter.acquire))
        wait_for(lambda waiter=waiter: len(waiter.session._pending), bool, "it waits")  # type: ignore[misc]
        waiter.locked()
    _node, pid = manager(fresh)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: manager(fresh)[1], lambda now: now not in (0, pid), "the service is replaced")
    assert event.is_set()
    with pytest.raises(DataLost):
        volatile.qsize()
    assert volatile.empty()
    assert lock.check() == before
    assert waiting[0].is_alive() and waiting[1].is_alive()
    lock.release()
    assert waiting[0].result() is True and waiting[1].is_alive()
    assert waiters[0].token is not None and before is not None and waiters[0].token > before and waiters[0].token.epoch > before.epoch
    waiters[0].release()
    assert waiting[1].result() is True
    waiters[1].release()


def test_the_loss_of_the_managers_node_loses_no_lock_of_the_others(fresh: System) -> None:
    Lock("first", via=via(fresh, "n3")).locked()
    node, _pid = manager(fresh)
    others = [name for name in NODES if name != node]
    holder, waiter = (Lock("kept", via=via(fresh, name)) for name in others)
    holder.acquire()
    before = holder.token
    waiting = Beside(waiter.acquire)
    wait_for(lambda: len(waiter.session._pending), bool, "it waits")
    fresh.power_cut(node)
    wait_for(lambda: manager_elsewhere(fresh, node), bool, "another node keeps the locks", 30)
    assert waiting.is_alive() and holder.check() == before
    holder.release()
    assert waiting.result() is True
    assert waiter.token is not None and before is not None and waiter.token.epoch > before.epoch
    waiter.release()


def manager_elsewhere(system: System, node: str) -> bool:
    return any((system.home / "home" / "nodes" / name / "run" / "locks.json").exists() for name in NODES if name != node)


def test_nobody_hangs_when_there_is_no_system(tmp_path: Path) -> None:
    from unios.errors import Unavailable

    began = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        Lock("nowhere", via=Connection(tmp_path / "none")).acquire()
    assert time.monotonic() - began < 10


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


def test_a_killed_kernel_of_the_managers_node_loses_nothing(fresh: System) -> None:
    far, near = Lock("far", via=via(fresh, "n2")), Lock("near", via=via(fresh, "n1"))
    Lock("first", via=via(fresh, "n1")).locked()
    assert manager(fresh)[0] == "n1"
    far.acquire()
    near.acquire()
    kernel = fresh.nodes()["n1"]["kernel_pid"]
    os.kill(kernel, signal.SIGKILL)
    wait_for(lambda: fresh.nodes()["n1"]["kernel_pid"], lambda pid: pid not in (0, kernel), "the kernel is replaced")
    for lock in (far, near):
        token = lock.check()
        lock.release()
        assert lock.acquire(timeout=20) and lock.token is not None and lock.token > token
        assert lock.token.epoch == token.epoch
        lock.release()


def test_the_service_runs_on_one_node_from_its_first_use_on_and_outlives_its_supervisor(fresh: System) -> None:
    assert manager(fresh) == ("", 0)
    lock = Lock("first", via=via(fresh, "n3"))
    with lock as before:
        assert manager(fresh)[0] == "n3"
        assert [node for node in NODES if (fresh.home / "home" / "nodes" / node / "run" / "locks.json").exists()] == ["n3"]
        supervisor = int(json.loads((fresh.home / "home" / "nodes" / "n3" / "run" / "supervisor.json").read_text())["pid"])
        pid = manager(fresh)[1]
        for each in (supervisor, pid):
            os.kill(each, signal.SIGKILL)
        wait_for(lambda: manager(fresh)[1], lambda now: now not in (0, pid), "the service is replaced")
        assert lock.check() == before
    with lock as after:
        assert after > before


def test_a_program_interrupted_again_and_again_while_it_locks_leaves_the_lock_free_and_none_lost(whole: System) -> None:
    code = """
import signal, random
lock, count = Lock("storm"), 0
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.004))
        if lock.acquire(timeout=5):
            count += 1
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if lock.token is not None:
        lock.release()
print("done", count)
sys.stdin.readline()
"""
    running = [program(whole, node, code) for node in ("n1", "n2")]
    said_last = [said(each) for each in running]
    assert all(line.startswith("done") for line in said_last)
    lock = Lock("storm", via=via(whole, "n3"))
    assert lock.acquire(timeout=10), said_last
    lock.release()
    for each in running:
        ended(each)
