"""What a program of its own, in its `__main__`, may expect of executors: its initializer's globals, and a second executor beside the first."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import System
from tests.e2e.test_executor import run_and_leave_nothing
from unios.client.tasks import surroundings
from unios.client.tasks.values import pack

pytestmark = pytest.mark.timeout(90)
INITIALIZER = """
import unios
table, kept, number = None, {}, 1
def prepare(value):
    global table, made
    table = made = value
    kept["value"] = value
def helper(): return table, dict(kept), made
def look(_): return helper(), table, number
if __name__ == "__main__":
    with unios.Executor(2, initializer=prepare, initargs=("set",)) as pool:
        for number in (1, 2):
            assert list(pool.map(look, range(2))) == [(("set", {"value": "set"}, "set"), "set", number)] * 2
        assert pool.submit(lambda function: function(0), look).result()[1] == "set"
    with unios.Pool(1, prepare, ("other",)) as pool:
        assert pool.map(look, [0]) == [(("other", {"value": "other"}, "other"), "other", 2)]
"""
SECOND = """
import multiprocessing, unios
def child(queue):
    with unios.Executor() as mine: queue.put(mine.submit(abs, -3).result(30))
if __name__ == "__main__":
    with unios.Executor() as first, unios.Executor() as second:
        assert first.submit(abs, -1).result(30) == 1
        assert list(second.map(abs, range(-20, 0), timeout=30)) == list(range(20, 0, -1))
        for method in METHODS:
            context = multiprocessing.get_context(method)
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            assert queue.get(timeout=30) == 3
            process.join(30)
"""
NESTED = """
import joblib, unios
unios.register_joblib()
def inner(count):
    unios
    return sum(joblib.Parallel(n_jobs=2, backend="unios")(joblib.delayed(pow)(x, 2) for x in range(count)))
with joblib.parallel_config("unios", n_jobs=-1):
    assert joblib.Parallel()(joblib.delayed(inner)(count) for count in range(5)) == [0, 0, 1, 5, 14]
with unios.Executor() as pool:
    assert pool.submit(abs, -1).result(30) == 1
"""


def test_functions_of_the_program_find_the_globals_that_its_initializer_has_set(whole: System) -> None:
    run_and_leave_nothing(whole, INITIALIZER)


def test_an_executor_does_not_wait_for_cores_that_another_of_its_program_keeps(whole: System) -> None:
    run_and_leave_nothing(whole, SECOND.replace("METHODS", "['fork']"))


def test_in_an_embedded_system_no_executor_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIOS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "second.py"
    program.write_text(SECOND.replace("METHODS", "['fork', 'spawn']"))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=80)
    assert done.returncode == 0, done.stderr


def test_tasks_of_joblib_know_the_backend_too_and_workers_that_it_keeps_hold_up_nobody(whole: System) -> None:
    run_and_leave_nothing(whole, NESTED)


def test_what_an_initializer_only_reads_stays_with_each_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_kept", {})
    names: dict[str, object] = {"__name__": "__main__", "read": 1, "bound": 1}
    exec("def prepare():\n global bound\n bound = read + 1\ndef look(): return read, bound\n", names)
    surroundings.call(pack((names["prepare"], ()), "it"))
    names["read"] = 5
    assert surroundings.loads(pack(names["look"], "it"))() == (5, 2)
