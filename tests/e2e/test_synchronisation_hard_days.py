"""Locks when their holders, their service and its node are killed, stopped, forked or interrupted."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.programs import HOLD, NODES, Beside, ended, manager, program, said, tell, token_of, via
from tests.e2e.system import System, wait_for
from unios.client.connection import Connection
from unios.client.ports import connect_raw
from unios.client.synchronisation.event import Event
from unios.client.synchronisation.exchange import Queue
from unios.client.synchronisation.line import Broken, Line
from unios.client.synchronisation.lock import Lock, RLock
from unios.client.synchronisation.token_guard import TokenGuard
from unios.errors import DataLost, LeaseLost
from unios.synchronisation_limits import SYNC_TTL_MS
from unios.wire.synchronising import PORT, YES, Answer, Ask, Bye, Open, Opened


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


def test_a_forked_child_is_not_taken_for_the_holder_of_its_parents_rlock(whole: System) -> None:
    lock = RLock("heirloom", via=via(whole))
    lock.acquire()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = int(lock.token is not None or any(lock.acquire(blocking=False) for _ in range(2)) or lock.token is not None)
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


def test_a_node_that_was_lost_while_it_kept_the_locks_and_comes_back_keeps_nobody_from_them(fresh: System) -> None:
    holder = program(fresh, "n2", HOLD, "first")
    said(holder)
    ended(holder)
    assert manager(fresh)[0] == "n2"
    fresh.power_cut("n2")
    wait_for(lambda: fresh.nodes()["n2"]["state"], lambda state: state == "lost", "the loss is noticed")
    fresh.unios("up", "--nodes", "3")
    wait_for(lambda: manager(fresh)[0], lambda node: node == "n2", "it begins to keep them again")
    assert Lock("after", via=via(fresh, "n1")).acquire(timeout=30)


def test_nobody_hangs_when_there_is_no_system(tmp_path: Path) -> None:
    from unios.errors import Unavailable

    began = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        Lock("nowhere", via=Connection(tmp_path / "none")).acquire()
    assert time.monotonic() - began < 10


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
end = time.monotonic() + 6
while time.monotonic() < end:
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, random.choice((0.0006, 0.004))))
            if lock.acquire(timeout=5):
                count += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
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


@pytest.mark.parametrize("opened_late", [False, True])
def test_what_a_session_has_said_on_an_earlier_connection_counts_no_more_however_late_it_comes(whole: System, opened_late: bool) -> None:
    """It would be granted to a question that the session has given up: the lock would be held by nobody for as long as the session lives."""
    earlier, later = (Line(connect_raw(via(whole), PORT, wait_ms=5_000)) for _ in range(2))
    turns = [(1, earlier), (2, later)]
    try:
        for turn, line in reversed(turns) if opened_late else turns:
            line.say(Open("an-id-of-its-own", "here", turn=turn))
            if line is later or not opened_late:
                assert isinstance(next(iter(line.listen(time.monotonic() + 5))), Opened)
        earlier.say(Ask(7, "take", "lock", "late"))
        until_s = time.monotonic() + 10
        with pytest.raises(Broken):
            next(told for _ in range(10) for told in earlier.listen(until_s))
        with Lock("late", via=via(whole)):
            pass
        later.say(Ask(8, "take", "lock", "late"))
        assert [message.outcome for message in later.listen(time.monotonic() + 5) if isinstance(message, Answer)] == [YES]
    finally:
        earlier.close()
        later.say(Bye())
        later.close()


def manager_elsewhere(system: System, node: str) -> bool:
    return any((system.home / "home" / "nodes" / name / "run" / "locks.json").exists() for name in NODES if name != node)


def test_several_who_wait_to_put_large_items_wait_on_over_another_connection(whole: System) -> None:
    """What they wait for is more than a message may have."""
    work = Queue("large", 1, via=via(whole))
    work.put(b"first")
    items = [bytes([number]) * (3 << 20) for number in range(3)]
    waiting = [Beside(lambda item=item: work.put(item)) for item in items]
    wait_for(lambda: [one.said for one in list(work.session._pending.values())], lambda said: said == [True] * 3, "all three wait")
    line = work.session._line
    assert line is not None
    line.cut()
    got = [work.get(timeout=20) for _ in range(4)]
    assert got[0] == b"first" and sorted(got[1:]) == items
    assert [one.result(20) for one in waiting] == [None] * 3
