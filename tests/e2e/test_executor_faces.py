"""The executor where people already are: joblib's backend, `multiprocessing.Pool`'s methods, and what docs/executor.md shows."""

import contextlib
import multiprocessing
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import unios
from tests.e2e import deeds
from tests.e2e.system import System
from tests.e2e.test_executor import run_and_leave_nothing, run_program

pytestmark = pytest.mark.timeout(90)
PAGE = Path(__file__).parents[2] / "docs" / "executor.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_what_the_page_shows_runs(whole: System, tmp_path: Path, number: int) -> None:
    run_program(whole, f"import os; os.chdir({str(tmp_path)!r})\n" + EXAMPLES[number])


def test_a_forest_of_scikit_learn_is_the_same_as_with_loky(whole: System) -> None:
    text = (
        "import joblib, unios\n"
        "from sklearn.datasets import make_classification\n"
        "from sklearn.ensemble import RandomForestClassifier\n"
        "unios.register_joblib()\n"
        "X, y = make_classification(500, 10, random_state=0)\n"
        "def fit(backend):\n"
        "    with joblib.parallel_config(backend):\n"
        "        return RandomForestClassifier(n_estimators=24, n_jobs=8, random_state=1).fit(X, y).predict_proba(X)\n"
        "print((fit('loky') == fit('unios')).all())\n"
    )
    assert run_program(whole, text) == "True\n"


def test_joblib_keeps_its_workers_for_the_next_call_and_brings_exceptions(whole: System) -> None:
    text = (
        "import joblib, os, unios\n"
        "from joblib import Parallel, delayed\n"
        "unios.register_joblib()\n"
        "with joblib.parallel_config('unios', n_jobs=2, retries=1):\n"
        "    pids = [set(Parallel()(delayed(os.getpid)() for _ in range(40))) for _ in range(2)]\n"
        "    assert pids[0] & pids[1], pids\n"
        "    try: Parallel()(delayed(divmod)(1, x) for x in range(3))\n"
        "    except ZeroDivisionError: pass\n"
        "    else: raise SystemExit('no exception')\n"
        "    assert Parallel()(delayed(pow)(x, 2) for x in range(200)) == [x * x for x in range(200)]\n"
        "    assert list(Parallel(return_as='generator')(delayed(pow)(x, 2) for x in range(9))) == [x * x for x in range(9)]\n"
    )
    run_and_leave_nothing(whole, text)


def test_calls_of_joblib_in_several_threads_do_not_take_each_others_workers_away(whole: System) -> None:
    text = (
        "import joblib, threading, unios\n"
        "from joblib import Parallel, delayed\n"
        "from tests.e2e import deeds\n"
        "unios.register_joblib()\n"
        "wrong, ready = [], threading.Barrier(3)\n"
        "def work(jobs):\n"
        "    try:\n"
        "        with joblib.parallel_config('unios', n_jobs=jobs):\n"
        "            for _ in range(3):\n"
        "                ready.wait(30)\n"
        "                assert Parallel(batch_size=1)(delayed(deeds.slowly)(x) for x in range(300)) == [x * x for x in range(300)]\n"
        "    except BaseException as error:\n"
        "        wrong.append(error)\n"
        "        ready.abort()\n"
        "threads = [threading.Thread(target=work, args=(jobs,)) for jobs in (2, 3, 2)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert not wrong, wrong\n"
    )
    run_and_leave_nothing(whole, text)


@pytest.fixture(scope="module")
def pool(whole: System) -> Iterator[unios.Pool]:
    with unios.Pool(2, home=whole.home / "home") as made:
        yield made
    made.join()


def test_a_pool_maps_in_all_its_ways(pool: unios.Pool) -> None:
    squares = [x * x for x in range(50)]
    assert pool.map(deeds.square, range(50)) == squares == pool.map(deeds.square, range(50), chunksize=7)
    assert pool.starmap(pow, [(x, 2) for x in range(50)]) == squares
    assert list(pool.imap(deeds.square, range(50), 3)) == squares == sorted(pool.imap_unordered(deeds.square, range(50)))
    assert pool.apply(pow, (2, 5)) == 32 and pool.apply(int, ("11",), {"base": 2}) == 3
    assert pool.map(deeds.square, []) == [] and list(pool.imap(deeds.square, [])) == []


def test_a_pool_shows_its_maps_where_somebody_looks(whole: System) -> None:
    text = (
        "import unios\n"
        "with unios.Pool(2) as pool:\n"
        "    assert pool.map(abs, range(-30, 0), progress='absolutes') == list(range(30, 0, -1))\n"
        "    assert pool.starmap(pow, [(2, 3)], progress=True) == [8] and pool.map(abs, [-1]) == [1]\n"
        "pool.join()\n"
        "with unios.Executor(1) as executor: assert list(executor.map(abs, range(-9, 0), progress='again')) == list(range(9, 0, -1))\n"
    )
    assert "30/30" not in run_program(whole, text)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        done = subprocess.run([sys.executable, "-c", text], env={**whole.env, "TERM": "xterm"}, stderr=theirs, timeout=60)
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while more := screen.read(65_536):
                said += more
    assert done.returncode == 0, said
    assert b"absolutes 100%" in said and b"30/30" in said and b"1/1" in said and b"again 100%" in said and b"9/9" in said, said
    assert said.count(b"\n") == 3


def test_results_of_a_pool_are_waited_for_and_call_back(pool: unios.Pool, tmp_path: Path) -> None:
    came: list[object] = []
    slow = pool.apply_async(deeds.mark_and_wait, (str(tmp_path), "a"), callback=came.append)
    with pytest.raises(multiprocessing.TimeoutError):
        slow.get(0.01)
    with pytest.raises(ValueError, match="not ready"):
        slow.successful()
    (tmp_path / "go").touch()
    assert slow.get(20) == "a" and slow.successful() and slow.ready() and came == ["a"]
    failed = pool.map_async(deeds.fail, ["", ""], error_callback=came.append)
    failed.wait(20)
    assert not failed.successful() and isinstance(came[1], KeyError)
    with pytest.raises(KeyError):
        failed.get()


def test_one_that_fails_ends_an_imap_there_and_the_others_come(pool: unios.Pool) -> None:
    results = pool.imap(lambda x: 1 // x, [1, 0, -1])
    assert results.next(20) == 1
    with pytest.raises(ZeroDivisionError):
        results.next(20)
    assert next(results) == -1
    with pytest.raises(StopIteration):
        next(results)


def test_a_closed_pool_finishes_and_takes_nothing(whole: System) -> None:
    before = threading.active_count()
    pool = unios.Pool(1, deeds.remember, (3,), home=whole.home / "home")
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    result = pool.apply_async(deeds.remembered)
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(abs, (1,))
    pool.join()
    assert result.get(0) == [3] and threading.active_count() == before


def test_no_two_workers_draw_the_same_random_numbers(whole: System) -> None:
    text = (
        "import os, random, unios\n"
        "from numpy import random as numpy_random\n"
        "def draw(): return os.getpid(), random.random(), float(numpy_random.random())\n"
        "first = {}\n"
        "with unios.Executor(2, node='n1', cpus=0.25) as pool:\n"  # forked from one parent
        "    while len(first) < 2:\n"
        "        for future in [pool.submit(draw) for _ in range(20)]:\n"
        "            pid, *numbers = future.result()\n"
        "            first.setdefault(pid, numbers)\n"
        "(a, b), (c, d) = first.values()\n"
        "assert a != c and b != d\n"
    )
    run_program(whole, text)
