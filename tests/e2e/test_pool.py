"""`unios.Pool` where it ends, as the standard library's does: closed, joined, terminated, left alone, or with its program."""

import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import unios
from tests.e2e import deeds
from tests.e2e.system import System, wait_for
from tests.e2e.test_executor import alive, executor, run_and_leave_nothing

pytestmark = pytest.mark.timeout(90)


def made(system: System, workers: int = 2) -> unios.Pool:
    return unios.Pool(workers, home=system.home / "home")


@pytest.mark.parametrize("ordered", [True, False])
def test_an_imap_that_has_begun_goes_on_when_the_pool_is_closed(whole: System, ordered: bool) -> None:
    pool = made(whole)
    results = (pool.imap if ordered else pool.imap_unordered)(deeds.square, range(300), 2)
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.imap(deeds.square, [1])
    assert sorted(results) == [x * x for x in range(300)]
    pool.join()


def test_what_an_imap_was_given_is_done_before_a_join_returns_though_nobody_reads(whole: System, tmp_path: Path) -> None:
    pool = made(whole)
    pool.imap_unordered(deeds.touch, [str(tmp_path / str(number)) for number in range(100)])
    results = pool.imap(deeds.square, range(100))
    pool.close()
    pool.join()
    assert len(list(tmp_path.iterdir())) == 100
    assert list(results) == [x * x for x in range(100)]


def test_a_pool_that_is_terminated_ends_at_once_whatever_it_does(whole: System, tmp_path: Path) -> None:
    before = alive(whole)
    with made(whole, 1) as pool:
        running = pool.apply_async(deeds.mark_and_wait, (str(tmp_path), "a"))
        waiting = [pool.apply_async(abs, (-1,)) for _ in range(9)]
        endless = pool.imap(deeds.square, iter(int, 1))
        wait_for(lambda: (tmp_path / "a").exists(), bool, "it has begun")
    began = time.monotonic()
    pool.join()
    assert time.monotonic() - began < 10 and alive(whole) == before
    with pytest.raises(unios.ExecutorBroken, match="its workers were killed"):
        running.get(0)
    assert all(not result.successful() for result in waiting)
    assert all(isinstance(error, unios.ExecutorBroken | CancelledError) for error in errors(endless))


def errors(results: object) -> list[BaseException]:
    """Read to the end; return what was raised, result after result."""
    found: list[BaseException] = []
    while True:
        try:
            next(results)  # type: ignore[call-overload]
        except StopIteration:
            return found
        except Exception as error:  # noqa: BLE001
            found.append(error)


def test_a_program_that_ends_does_not_wait_for_the_tasks_of_its_pool(whole: System, tmp_path: Path) -> None:
    text = (
        "import sys, unios\n"
        "from tests.e2e import deeds\n"
        "pool = unios.Pool(1)\n"
        "pool.apply_async(deeds.mark_and_wait, (sys.argv[1], 'a'))\n"
        "pool.apply_async(deeds.touch, (sys.argv[1] + '/b',))\n"
        "deeds.until_there(sys.argv[1] + '/a')\n"
    )
    began = time.monotonic()
    run_and_leave_nothing(whole, text, str(tmp_path))
    assert time.monotonic() - began < 20 and not (tmp_path / "b").exists()


def test_an_executor_whose_workers_are_killed_cancels_what_waits_and_fails_what_runs(whole: System, tmp_path: Path) -> None:
    before = alive(whole)
    pool = executor(whole, 1)
    running = pool.submit(deeds.mark_and_wait, str(tmp_path), "a")
    others = [pool.submit(abs, -1) for _ in range(9)]
    wait_for(lambda: (tmp_path / "a").exists(), bool, "it has begun")
    pool.kill_workers()
    assert isinstance(running.exception(20), unios.ExecutorBroken)
    assert all(other.cancelled() or isinstance(other.exception(20), unios.ExecutorBroken) for other in others)
    with pytest.raises((RuntimeError, unios.ExecutorBroken)):
        pool.submit(abs, 1)
    pool.kill_workers()
    pool.shutdown()
    assert alive(whole) == before


def test_an_executor_that_is_forgotten_leaves_no_descriptor(whole: System) -> None:
    with executor(whole, 1) as pool:  # once before: what is imported and opened once for all is
        assert pool.submit(abs, -1).result() == 1
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        pool = executor(whole, 1)
        assert pool.submit(abs, -4).result() == 4
        del pool
    gc.collect()
    wait_for(
        lambda: (len(os.listdir("/proc/self/fd")), threading.active_count()),
        lambda now: now[0] <= before[0] and now[1] <= before[1],  # fewer: what tests before this one had left has gone meanwhile
        f"no more than before, {before}",
    )


def test_a_future_that_outlives_its_executor_can_be_cancelled_and_wakes_nobody(whole: System) -> None:
    text = (
        "import gc, os, threading, time, unios\n"
        "pool = unios.Executor(1)\n"
        "future = pool.submit(abs, -1)\n"
        "assert future.result() == 1\n"
        "engine = pool._engine\n"
        "del pool; gc.collect()\n"
        "while threading.active_count() > 1: time.sleep(0.001)\n"
        "read, write = os.pipe()\n"
        "engine._asleep = True\n"  # as a thread saw it that was then kept from going on
        "engine.post(engine.stop)\n"
        "assert not future.cancel()\n"
        "os.set_blocking(read, False)\n"
        "try: raise SystemExit(os.read(read, 8))\n"
        "except BlockingIOError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", text], env=whole.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_worker_that_has_had_as_many_tasks_as_it_may_is_replaced(whole: System, tasks: int) -> None:
    with unios.Pool(2, deeds.remember, (5,), tasks, home=whole.home / "home") as pool:
        results = [pool.apply_async(deeds.mark) for _ in range(200)]
        given = [result.get(60) for result in results]
        pool.close()
        pool.join()
    assert max(given.count(worker) for worker in given) <= tasks and len(set(given)) >= 200 // tasks
    with pytest.raises(ValueError, match="maxtasksperchild"):
        unios.Pool(1, maxtasksperchild=0, home=whole.home / "home")
