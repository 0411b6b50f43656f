"""The executor on three nodes: what concurrent.futures promises, and what is a distributed system's own."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import unios
from tests.e2e import deeds
from tests.e2e.ports import kill_kernel
from tests.e2e.system import System, wait_for
from unios.client import ports
from unios.client.connection import Connection
from unios.client.listening import Listener
from unios.client.tasks import proofs, talk
from unios.errors import ProtocolError
from unios.wire.operations import Accepted
from unios.wire.parcels import Welcome

pytestmark = pytest.mark.timeout(90)


def executor(system: System, workers: int | None = 3, **options: object) -> unios.Executor:
    return unios.Executor(workers, home=system.home / "home", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pool(whole: System) -> Iterator[unios.Executor]:
    """One executor for the tests that leave it whole."""
    with executor(whole) as made:
        yield made


def alive(system: System) -> list[str]:
    """Return the processes of executors that there are on this machine, in this system."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            ours = entry.name.isdigit() and b"unios.client.tasks.parent" in (entry / "cmdline").read_bytes()
            if ours and str(system.home).encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
    return found


def run_program(system: System, text: str, *arguments: str) -> str:
    """Run a Python program in this system to its end; return what it said."""
    done = subprocess.run([sys.executable, "-c", text, *arguments], env=system.env, capture_output=True, text=True, timeout=80)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def run_and_leave_nothing(system: System, text: str, *arguments: str) -> str:
    """Run a program as `run_program` does, and see that it leaves no process of an executor."""
    before = alive(system)
    said = run_program(system, text, *arguments)
    assert alive(system) == before
    return said


def test_map_returns_what_the_function_returns_in_order_whatever_the_chunks(pool: unios.Executor) -> None:
    for size in (1, 7, 1_000):
        assert list(pool.map(deeds.square, range(300), chunksize=size)) == [x * x for x in range(300)]
    assert list(pool.map(pow, [2, 3, 4], [5, 6])) == [32, 729]
    assert list(pool.map(deeds.square, [])) == []


def test_map_with_a_buffer_takes_no_more_of_its_input_than_that(pool: unios.Executor) -> None:
    results = pool.map(deeds.square, itertools.count(), buffersize=4)
    assert list(itertools.islice(results, 100)) == [x * x for x in range(100)]


def test_a_result_that_is_late_is_a_timeout_and_what_was_not_begun_is_cancelled(pool: unios.Executor, tmp_path: Path) -> None:
    results = pool.map(deeds.mark_and_wait, [str(tmp_path)] * 12, map(str, range(12)), timeout=0.5)
    with pytest.raises(TimeoutError):
        list(results)
    (tmp_path / "go").touch()
    assert pool.submit(abs, -1).result() == 1
    assert len(list(tmp_path.iterdir())) < 13


def test_lambdas_closures_and_keyword_arguments_go(pool: unios.Executor) -> None:
    offset = 10
    assert pool.submit(lambda x, *, y: x + y + offset, 1, y=2).result() == 13
    assert list(pool.map(lambda x: x + offset, range(3))) == [10, 11, 12]


def test_a_closure_is_sent_as_it_is_when_it_is_submitted(pool: unios.Executor) -> None:
    seen = 0

    def look() -> int:
        return seen

    for seen in range(3):
        assert pool.submit(look).result() == seen


def test_arguments_are_those_of_the_moment_of_submission(pool: unios.Executor) -> None:
    data = bytearray(b"a" * 1_000_000)
    futures = [pool.submit(bytes, pickle.PickleBuffer(data)) for _ in range(3)]
    data[:] = b"b" * 1_000_000
    assert all(future.result() == b"a" * 1_000_000 for future in futures)


def test_as_completed_and_wait_see_the_futures(pool: unios.Executor) -> None:
    futures = [pool.submit(deeds.square, x) for x in range(20)]
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures, timeout=20)) == [x * x for x in range(20)]
    assert not concurrent.futures.wait(futures, timeout=20).not_done


def test_an_exception_comes_with_its_notes_and_the_traceback_of_the_worker(pool: unios.Executor) -> None:
    error = pool.submit(deeds.fail, "").exception()
    assert isinstance(error, KeyError) and error.args == ("no such key", 7) and error.__notes__ == ["first note", "second note"]
    assert "deeds.py" in str(error.__cause__) and "in fail" in str(error.__cause__)
    assert isinstance(pool.submit(deeds.fail, "exit").exception(), SystemExit)
    with pytest.raises(KeyError):
        list(pool.map(deeds.fail, ["", ""]))


def test_an_exception_that_cannot_be_made_again_says_so_and_what_it_was(pool: unios.Executor) -> None:
    error = pool.submit(deeds.fail, "odd").exception()
    assert isinstance(error, pickle.PicklingError) and "Odd" in str(error) and "1 and 2" in str(error)


def test_what_cannot_be_pickled_is_named_at_once(pool: unios.Executor) -> None:
    lock = threading.Lock()
    at_once = pool.submit(print, {"a": [1, lock]})
    assert at_once.done() and "[0][0]['a'][1]" in str(at_once.exception())
    with pytest.raises(pickle.PicklingError, match="the function"):
        pool.submit(lambda: lock).result(0)
    with pytest.raises(pickle.PicklingError, match="the result of make_stubborn, a Stubborn, cannot be pickled: TypeError: it will not"):
        pool.submit(deeds.make_stubborn).result()


def test_a_worker_that_dies_fails_its_own_call_only_and_says_how_it_ended(pool: unios.Executor) -> None:
    others = [pool.submit(deeds.slowly, x) for x in range(200)]
    killed, left = pool.submit(deeds.die, signal.SIGKILL), pool.submit(os._exit, 3)
    error = killed.exception()
    assert isinstance(error, unios.WorkerLost) and isinstance(error, concurrent.futures.BrokenExecutor)
    assert error.why == "died" and "signal 9 (SIGKILL) on node n" in str(error)
    assert "exit code 3" in str(left.exception())
    assert [future.result() for future in others] == [x * x for x in range(200)]


def test_a_worker_that_dies_in_the_middle_of_its_answer_has_not_answered(pool: unios.Executor) -> None:
    error = pool.submit(deeds.half_an_answer).exception()
    assert isinstance(error, unios.WorkerLost) and "SIGKILL" in str(error)
    assert list(pool.map(deeds.square, range(30))) == [x * x for x in range(30)]


def test_a_lost_call_is_made_again_if_that_was_asked(whole: System, tmp_path: Path) -> None:
    with executor(whole, retries=1) as pool:
        assert pool.submit(deeds.die_once, str(tmp_path / "a")).result() == "the second time"
        assert isinstance(pool.submit(deeds.die, signal.SIGTERM).exception(), unios.WorkerLost)


def test_a_worker_that_linux_kills_for_want_of_memory_is_told_from_one_that_was_killed(whole: System) -> None:
    with executor(whole, 1, memory=200 * 1024**2) as pool:
        error = pool.submit(deeds.eat, 600 * 1024**2).exception()
        assert isinstance(error, unios.WorkerLost) and error.why == "memory", error
        assert pool.submit(abs, -1).result() == 1


def test_a_call_whose_arguments_are_too_large_for_every_worker_fails_and_says_that_it_was_memory(whole: System) -> None:
    with executor(whole, 1, memory=100 * 1024**2) as pool:
        error = pool.submit(len, bytes(300 * 1024**2)).exception()
        assert isinstance(error, unios.WorkerLost) and error.why == "memory" and "never begun" in str(error), error
        assert pool.submit(abs, -1).result() == 1


def test_a_task_that_forks_and_comes_back_twice_is_answered_once(pool: unios.Executor) -> None:
    for _ in range(6):
        before, after = pool.submit(deeds.fork_and_come_back).result(20)
        assert before == after
    assert list(pool.map(deeds.square, range(100), timeout=20)) == [x * x for x in range(100)]


def test_a_map_that_is_read_after_the_shutdown_is_whole_or_says_that_it_is_not(whole: System) -> None:
    with executor(whole, 1) as pool:
        whole_map, part = pool.map(deeds.square, range(9)), pool.map(deeds.square, range(9), buffersize=3)
    assert list(whole_map) == [x * x for x in range(9)]
    assert list(itertools.islice(part, 3)) == [0, 1, 4]
    with pytest.raises(RuntimeError, match="before all of the map's input was taken"):
        next(part)


def test_a_program_with_thousands_of_descriptors_has_an_executor(whole: System) -> None:
    text = (
        "import os, resource, unios\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))\n"
        "held = [os.dup(0) for _ in range(1500)]\n"
        "with unios.Executor(2) as pool:\n"
        "    assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))\n"
        "print(held[-1] > 1024)\n"
    )
    assert run_program(whole, text) == "True\n"


def test_a_task_can_be_cancelled_until_it_has_begun_and_then_never_runs(whole: System, tmp_path: Path) -> None:
    with executor(whole, 2) as pool:
        futures = [pool.submit(deeds.mark_and_wait, str(tmp_path), str(number)) for number in range(12)]
        wait_for(lambda: len(list(tmp_path.iterdir())), lambda count: count == 2, "two have begun")
        cancelled = [future.cancel() for future in futures]
        assert cancelled.count(False) == 2 and all(future.cancelled() == told for future, told in zip(futures, cancelled, strict=True))
        gone = [future for future, told in zip(futures, cancelled, strict=True) if told]
        assert not concurrent.futures.wait(gone, timeout=20).not_done and len(gone) == 10
        (tmp_path / "go").touch()
        begun = {future.result() for future in futures if not future.cancelled()}
        assert pool.submit(abs, -3).result() == 3
    assert {path.name for path in tmp_path.iterdir()} == {"go", *begun}


def test_a_task_that_runs_is_told_that_it_was_cancelled_and_the_next_one_was_not(whole: System, tmp_path: Path) -> None:
    with executor(whole, 1) as pool:
        future = pool.submit(deeds.until_cancelled, str(tmp_path))
        wait_for(lambda: (tmp_path / "begun").exists(), bool, "it has begun")
        assert not future.cancel() and future.result(20) == "told"
        assert not pool.submit(unios.cancelling).result(20) and not unios.cancelling()


def test_a_long_task_keeps_nothing_from_those_who_have_nothing_to_do(whole: System, tmp_path: Path) -> None:
    with executor(whole, 2) as pool:
        long = pool.submit(deeds.mark_and_wait, str(tmp_path), "long")
        assert [future.result(20) for future in [pool.submit(deeds.square, x) for x in range(50)]] == [x * x for x in range(50)]
        assert not long.done()
        (tmp_path / "go").touch()
        assert long.result() == "long"


def test_tasks_submit_to_their_own_executor_and_to_others(whole: System) -> None:
    with executor(whole, 2) as pool:
        assert list(pool.map(deeds.sum_of_squares, [pool] * 12, range(12))) == [sum(x * x for x in range(n)) for n in range(12)]
        assert pool.submit(deeds.fibonacci, pool, 7).result(60) == 13
        assert pool.submit(deeds.with_an_executor_of_its_own, 5).result(60) == [0, 1, 4, 9, 16]


def test_an_executor_inside_the_tasks_of_another_is_refused(whole: System) -> None:
    with executor(whole, 1) as one, executor(whole, 1) as other, pytest.raises(unios.CallerError, match="its own tasks"):
        other.submit(deeds.sum_of_squares, one, 3).result(60)


def test_an_asyncio_program_awaits_what_its_executor_does(pool: unios.Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(pool, deeds.square, x) for x in range(50)))

    assert asyncio.run(main()) == [x * x for x in range(50)]


def test_a_parent_that_is_killed_takes_its_workers_along_and_others_are_had(whole: System) -> None:
    with executor(whole, 1) as pool:
        pid, there = pool.submit(os.getpid).result(), len(alive(whole))
        error = pool.submit(deeds.end_the_parent).exception(60)
        assert isinstance(error, unios.WorkerLost) and error.why == "died" and "signal 9" in str(error), error
        assert pool.submit(os.getpid).result(60) != pid
        wait_for(lambda: len(alive(whole)), lambda count: count == there, "there are as many processes as before")


def test_an_initializer_runs_once_in_each_worker(whole: System) -> None:
    with executor(whole, 3, initializer=deeds.remember, initargs=(7,)) as pool:
        assert all(found == [7] for found in [pool.submit(deeds.remembered).result() for _ in range(20)])


def test_an_initializer_that_fails_breaks_the_executor_and_says_why(whole: System) -> None:
    with executor(whole, 2, initializer=deeds.fail, initargs=("",)) as pool:
        error = pool.submit(abs, -1).exception()
        assert isinstance(error, unios.ExecutorBroken) and isinstance(error, concurrent.futures.BrokenExecutor) and "no such key" in str(error)
        assert isinstance(error.__cause__, KeyError)
        with pytest.raises(unios.ExecutorBroken, match="initializer"):
            pool.submit(abs, -1)


def test_results_of_tens_of_megabytes_come_whole(pool: unios.Executor) -> None:
    assert pool.submit(deeds.large, 60_000_000).result() == bytes(60_000_000)
    assert pool.submit(len, bytes(30_000_000)).result() == 30_000_000


def test_shutdown_leaves_no_process_no_descriptor_and_no_thread(whole: System) -> None:
    with executor(whole) as pool:  # once before: what is imported and opened once for all is
        pool.submit(abs, -1).result()
    before = len(os.listdir("/proc/self/fd")), threading.active_count(), alive(whole)
    for _ in range(3):
        with executor(whole) as pool:
            assert len(list(pool.map(abs, range(50)))) == 50
            pool.submit(deeds.die, signal.SIGKILL).exception()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count(), alive(whole)) == before


def test_after_shutdown_nothing_is_taken_and_what_was_taken_is_done(whole: System) -> None:
    pool = executor(whole, 1)
    futures = [pool.submit(deeds.slowly, x) for x in range(50)]
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(abs, [1])
    assert [future.result() for future in futures] == [x * x for x in range(50)]
    pool.shutdown()


def test_shutdown_cancels_what_waits_if_it_shall(whole: System, tmp_path: Path) -> None:
    pool = executor(whole, 1)
    futures = [pool.submit(deeds.mark_and_wait, str(tmp_path), str(number)) for number in range(10)]
    wait_for(lambda: (tmp_path / "0").exists(), bool, "the first has begun")
    pool.shutdown(wait=False, cancel_futures=True)
    wait_for(lambda: [future.cancelled() for future in futures], lambda gone: gone == [False] + 9 * [True], "all others are cancelled")
    (tmp_path / "go").touch()
    pool.shutdown()
    assert futures[0].result() == "0"


def test_a_hundred_thousand_queued_tasks_take_little_memory_and_all_are_done(whole: System) -> None:
    text = (
        "import unios, resource\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "with unios.Executor(2) as pool:\n"
        "    pool.submit(abs, 1).result(); before = rss()\n"
        "    futures = [pool.submit(abs, -x) for x in range(100_000)]\n"
        "    grown = rss() - before\n"
        "    assert [future.result() for future in futures] == list(range(100_000))\n"
        "print(grown)\n"
    )
    assert int(run_program(whole, text)) < 400_000_000


def test_a_program_that_forks_goes_on_and_its_child_is_told_to_make_its_own(whole: System) -> None:
    text = (
        "import os, time, unios\n"
        "pool = unios.Executor(2)\n"
        "assert pool.submit(abs, -1).result() == 1\n"
        "pending = [pool.submit(time.sleep, 1) for _ in range(9)]\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    for future in pending:\n"
        "        for ask in (future.result, future.exception):\n"
        "            try: ask()\n"
        "            except RuntimeError as error: assert 'forked' in str(error)\n"
        "            else: os._exit(2)\n"
        "    try: pool.submit(abs, -1)\n"
        "    except RuntimeError as error: assert 'forked' in str(error)\n"
        "    else: os._exit(1)\n"
        "    pool.shutdown()\n"
        "    with unios.Executor(1) as own: os._exit(own.submit(abs, -7).result())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))\n"
        "pool.shutdown()\n"
    )
    assert run_program(whole, text) == "7\n"


def test_signals_during_calls_change_nothing(whole: System) -> None:
    text = (
        "import signal, unios\n"
        "seen = []\n"
        "signal.signal(signal.SIGALRM, lambda *_: seen.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)\n"
        "with unios.Executor(2) as pool:\n"
        "    assert list(pool.map(abs, range(-2000, 0))) == list(range(2000, 0, -1))\n"
        "    assert [pool.submit(abs, -x).result() for x in range(100)] == list(range(100))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "assert len(seen) > 20\n"
    )
    run_program(whole, text)


def test_a_program_that_just_ends_leaves_nothing_and_its_tasks_are_done(whole: System, tmp_path: Path) -> None:
    text = "import sys, pathlib, unios\npool = unios.Executor(2)\nfor x in range(9): pool.submit(pathlib.Path(sys.argv[1], str(x)).touch)\n"
    run_and_leave_nothing(whole, text, str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 9


def test_a_program_that_is_killed_leaves_no_worker(whole: System) -> None:
    before = alive(whole)
    text = (
        "import os, unios, time\npool = unios.Executor(2)\nf = pool.submit(time.sleep, 600)\npool.submit(abs, 1).result()\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], env=whole.env, timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: alive(whole), lambda found: found == before, "its workers have ended")


def test_garbage_on_its_port_and_strangers_change_nothing(whole: System) -> None:
    with executor(whole, 1) as pool, Connection(whole.home / "home") as connection:
        assert pool.submit(abs, -1).result() == 1
        socks: list[socket.socket] = []
        for said in (b"", b"\xff" * 100, b"\0\0\0\2\x93\1", pickle.dumps(1), b"\0\0\0\1\xc0"):
            socks.append(ports.connect_raw(connection, pool._port))
            socks[-1].sendall(said)
        assert list(pool.map(abs, range(20))) == list(range(20))
        for sock in socks:
            sock.close()


def test_a_worker_unpickles_nothing_of_a_stranger_who_listens_under_the_name_of_its_executor(whole: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIOS_HOME", str(whole.home / "home"))
    with Connection() as connection:
        listener = Listener(connection, "executor/impostor")
        opened: list[talk.Talk] = []

        def pretend() -> None:
            accepted = wait_for(lambda: _accepted(listener), bool, "somebody connects")
            assert accepted is not None
            opened.append(talk.Talk(accepted[1]))
            opened[0].hear()
            body = pickle.dumps(1)
            opened[0].say(Welcome((len(body),), b"x" * 32), [body])

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(ProtocolError, match="not the executor"):
            talk.reach("executor/impostor", proofs.new_secret(), 1, 1, "n1")
        thread.join()
        opened[0].end()
        listener.close()


def _accepted(listener: Listener) -> tuple[Accepted, socket.socket] | None:
    try:
        return listener.accept()
    except BlockingIOError:
        return None


def test_an_executor_without_a_system_breaks_and_says_so(tmp_path: Path) -> None:
    with unios.Executor(1, home=tmp_path) as pool, pytest.raises(unios.ExecutorBroken, match="unios up"):
        pool.submit(abs, 1).result(60)  # it says so here or there, as it is broken before or after


def test_an_executor_whose_workers_cannot_start_breaks_and_says_why(whole: System) -> None:
    with executor(whole, 1, interpreter="/nowhere/python") as pool:
        error = pool.submit(abs, 1).exception(60)
        assert isinstance(error, unios.ExecutorBroken) and "/nowhere/python" in str(error)
    with executor(whole, 1, interpreter="/bin/false") as pool:
        error = pool.submit(abs, 1).exception(60)
        assert isinstance(error, unios.ExecutorBroken) and "exit code 1" in str(error), error


def test_an_executor_that_is_broken_leaves_no_process_though_nobody_shuts_it_down(whole: System) -> None:
    before = alive(whole), threading.active_count()
    pool = executor(whole, 2, initializer=deeds.fail, initargs=("",))
    assert isinstance(pool.submit(abs, 1).exception(60), unios.ExecutorBroken)
    wait_for(lambda: (alive(whole), threading.active_count()), lambda now: now == before, "its processes have ended")
    pool.shutdown()


@pytest.mark.parametrize("wrong", [{"env": {"A": 1}}, {"retries": 0.5}, {"memory": "1"}, {"initializer": 1}])
def test_options_of_a_wrong_kind_are_refused_at_once(whole: System, wrong: dict[str, object]) -> None:
    before = threading.active_count()
    with pytest.raises(TypeError):
        executor(whole, **wrong)
    with pytest.raises(TypeError):
        executor(whole, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_workers"):
        executor(whole, 0)
    assert threading.active_count() == before


def test_an_executor_that_nobody_has_any_more_ends(whole: System) -> None:
    before = alive(whole), threading.active_count()
    assert executor(whole, 1).submit(abs, -4).result() == 4
    wait_for(lambda: (alive(whole), threading.active_count()), lambda now: now == before, "its workers have ended")


@pytest.mark.parametrize("node", ["n1", "n3"])
def test_a_node_that_is_lost_in_the_middle_of_a_map_costs_no_item(fresh: System, node: str) -> None:
    with executor(fresh, 6, retries=3) as pool:
        results = pool.map(deeds.slowly, range(10_000))
        found = list(itertools.islice(results, 1_000))
        fresh.power_cut(node)
        found += results
        assert found == [x * x for x in range(10_000)]


@pytest.mark.parametrize(("end", "why"), [(System.power_cut, "node"), (kill_kernel, "connection")])
def test_a_call_that_is_lost_with_its_node_or_the_way_there_says_which(
    fresh: System, tmp_path: Path, end: Callable[[System, str], object], why: str
) -> None:
    with executor(fresh, 1, node="n2") as pool:
        future = pool.submit(deeds.mark_and_wait, str(tmp_path), "a")
        wait_for(lambda: (tmp_path / "a").exists(), bool, "it has begun")
        end(fresh, "n2")
        error = future.exception(30)
        assert isinstance(error, unios.WorkerLost) and error.why == why and "n2" in str(error), error
        pool.shutdown(wait=False, cancel_futures=True)
