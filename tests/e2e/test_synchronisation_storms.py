"""What synchronises programs, used by programs that are interrupted again and again: nothing stays taken, and nothing is lost or there twice."""

import contextlib
import queue
import subprocess

from tests.e2e.programs import Beside, ended, program, said, via
from tests.e2e.system import System
from unios.client.synchronisation.barrier import Barrier
from unios.client.synchronisation.condition import Condition
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.rwlock import RWLock
from unios.client.synchronisation.semaphore import BoundedSemaphore, Semaphore

HEAD = """
import queue, random, signal, threading
import unios
interrupts = 0
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
def storm(work):
    global interrupts
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, random.choice((0.0006, 0.004))))
            work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
end = time.monotonic() + 4
"""
TAIL = """
print("interrupted", interrupts)
sys.stdin.readline()
"""


def stormed(system: System, nodes: tuple[str, ...], code: str) -> "list[subprocess.Popen[str]]":
    return [program(system, node, HEAD + code + TAIL) for node in nodes]


def outlived(running: "subprocess.Popen[str]") -> list[str]:
    """Return what it said before its end; it was interrupted often, and ended well."""
    lines = []
    while (line := said(running)) and not line.startswith("interrupted"):
        lines.append(line)
    assert int(line.split()[1]) > 20, lines
    return lines


def fed(work: Queue, running: "list[subprocess.Popen[str]]", patience_s: float) -> int:
    """Put numbers in until each program has said that its storm is over, and then an end for each; return how many numbers."""
    put = 0
    stop: list[object] = []
    watching = [Beside(lambda each=each: (said(each), stop.append(each))) for each in running]  # type: ignore[misc]
    while len(stop) < len(running):
        try:
            work.put(put, timeout=patience_s)
            put += 1
        except queue.Full:
            continue
    for each in watching:
        each.result()
    for _ in running:
        work.put(None)
    return put


def test_a_lock_released_or_acquired_while_it_storms_is_free_or_its_object_says_that_it_is_held(whole: System) -> None:
    running = stormed(
        whole,
        ("n1", "n2"),
        """
locks = [Lock("storm"), unios.RLock("storm")]
inner = unios.RWLock("storm")
def work():
    lock = random.choice(locks)
    with lock:
        side = random.choice((inner.read, inner.write))
        side.acquire()
        side.release()
while time.monotonic() < end:
    storm(work)
    for each in (inner.read, inner.write, *locks):
        while each.token is not None:
            each.release()
""",
    )
    for each in running:
        outlived(each)
    lock, inner = RLock("storm", via=via(whole, "n3")), RWLock("storm", via=via(whole, "n3"))
    assert lock.acquire(timeout=10) and inner.write.acquire(timeout=10)
    lock.release()
    inner.write.release()
    for each in running:
        ended(each)


def test_each_item_of_a_queue_is_got_once_by_getters_that_are_interrupted(whole: System) -> None:
    running = stormed(
        whole,
        ("n1", "n2"),
        """
work, got, beside = unios.Queue("storm", 50), [], []
def steady():
    while (item := work.get()) is not None:
        beside.append(item)
thread = threading.Thread(target=steady)
thread.start()
def get():
    got.append(work.get(timeout=0.5))
while time.monotonic() < end:
    try:
        storm(get)
    except queue.Empty:
        pass
print("storm over")
thread.join()
print(*got, *beside)
""",
    )
    work = Queue("storm", 50, via=via(whole, "n3"))
    put = fed(work, running, patience_s=1)
    got = [int(word) for each in running for line in outlived(each) for word in line.split()]
    back = list[int]()  # what was granted to one who had been interrupted by then is put back a moment later, perhaps when all others have ended
    with contextlib.suppress(queue.Empty):
        while len(back) <= len(running):
            back.append(work.get(timeout=0.5))
    assert sorted(got + back) == list(range(put)) and len(back) <= len(running)
    for each in running:
        ended(each)


def test_units_and_signals_of_semaphores_are_as_many_as_before_the_storm(whole: System) -> None:
    running = stormed(
        whole,
        ("n1", "n2"),
        """
seats, signals, threads_on = unios.BoundedSemaphore("storm seats", 3), unios.Semaphore("storm signals", 0), [True]
def steady():
    while threads_on:
        with seats:
            signals.release()
            signals.acquire()
thread = threading.Thread(target=steady)
thread.start()
held = [False, False]
def sit():
    held[0] = seats.acquire()
def take():
    held[1] = signals.acquire(timeout=1)
while time.monotonic() < end:
    storm(sit)
    storm(take)
    for index, semaphore in enumerate((seats, signals)):
        if held[index]:
            held[index] = False
            semaphore.release()
threads_on.clear()
thread.join()
""",
    )
    signals = Semaphore("storm signals", 0, via=via(whole, "n3"))
    signals.release(2)
    for each in running:
        outlived(each)
    seats = BoundedSemaphore("storm seats", 3, via=via(whole, "n3"))
    assert [seats.acquire(timeout=5) for _ in range(3)] == [True] * 3 and not seats.acquire(timeout=0.3), seats._asked("locked", spec=3)
    assert [signals.acquire(timeout=5) for _ in range(2)] == [True] * 2 and not signals.acquire(timeout=0.3), signals._asked("locked", spec=0)
    for _ in range(3):
        seats.release()
    for each in running:
        ended(each)


def test_a_storm_at_a_condition_leaves_its_lock_free_and_at_a_barrier_nobody_waiting_for_ever(whole: System) -> None:
    running = stormed(
        whole,
        ("n1", "n2"),
        """
filled, barrier = unios.Condition("storm"), unios.Barrier("storm", 3, action=lambda: None)
def work():
    with filled:
        filled.wait(random.choice((0.001, 0.05)))
        filled.notify()
def meet():
    try:
        barrier.wait(0.5)
    except threading.BrokenBarrierError:
        barrier.reset()
while time.monotonic() < end:
    storm(random.choice((work, meet)))
    while filled.token is not None:
        filled.release()
""",
    )
    barrier, on = Barrier("storm", 3, action=lambda: None, via=via(whole, "n3")), [True]

    def meet() -> int:
        met = 0
        while on:
            try:
                barrier.wait()
                met += 1
            except Exception:  # noqa: BLE001 broken: it is made whole
                barrier.reset()
        return met

    meeting = Beside(meet)
    for each in running:
        outlived(each)
    on.clear()
    barrier.abort()
    met = meeting.result()
    assert isinstance(met, int), met
    filled = Condition("storm", via=via(whole, "n3"))
    assert filled.acquire(timeout=10)
    filled.release()
    for each in running:
        ended(each)


def test_cancelled_waits_of_tasks_leave_nothing_taken_and_lose_nothing(whole: System) -> None:
    running = [
        program(
            whole,
            node,
            """
import asyncio, random, unios
lock, work, seats = unios.AsyncLock("tasks"), unios.AsyncQueue("tasks", 20), unios.AsyncSemaphore("tasks", 2)
got = []
async def one():
    await asyncio.sleep(0)
    what = random.randrange(3)
    if what == 0:
        async with lock:
            await asyncio.sleep(0)
    elif what == 1:
        got.append(await work.get(timeout=random.choice((0.001, 0.5))))
    else:
        async with seats:
            await asyncio.sleep(0)
async def main():
    end = time.monotonic() + 4
    while time.monotonic() < end:
        task = asyncio.create_task(one())
        await asyncio.sleep(random.uniform(0.0002, random.choice((0.002, 0.02))))
        task.cancel()
        try:
            await task
        except (asyncio.CancelledError, __import__("queue").Empty):
            pass
    print("storm over")
    while (item := await work.get()) is not None:
        got.append(item)
    print(*got)
asyncio.run(main())
sys.stdin.readline()
""",
        )
        for node in ("n1", "n2")
    ]
    put = fed(Queue("tasks", 20, via=via(whole, "n3")), running, patience_s=0.2)
    assert sorted(int(word) for each in running for word in said(each).split()) == list(range(put))
    lock, seats = Lock("tasks", via=via(whole, "n3")), BoundedSemaphore("tasks", 2, via=via(whole, "n3"))
    assert lock.acquire(timeout=10), lock._asked("locked")
    assert [seats.acquire(timeout=5) for _ in range(2)] == [True, True], seats._asked("locked", spec=2)
    lock.release()
    seats.release(2)
    for each in running:
        ended(each)
