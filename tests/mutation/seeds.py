"""Runs seeds of the simulation against mutants that mutmut has made; run in its folder `mutants`, with that folder's `src` and itself on the path.

mutmut's mutants of a function are all in one module, and the environment's MUTANT_UNDER_TEST says which one is called. So one process imports everything
once and forks a child for each mutant. Only seeds that call the mutated function are run. A mutant is killed if a run breaks an invariant, raises, or takes
longer than CPU_S: it is in a loop.
"""

import json
import os
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from mutmut.state import state

from tests.sim.kinds import judge, schedule

KILLED: Final = {1, 3, 24, -24, 36, 152, 255, -11, -9}
"""mutmut's exit codes of tests that have failed, or never ended."""
CPU_S: Final = 40
NAMES: Final = "src/unios/core/*.py.meta"
KINDS: Final = {"log": ("logs",), "lea": ("nodes", "watch")}
"""By the first letters of a module which kinds of runs are for it; else nodes."""
UNDER_TEST: Final = "MUTANT_UNDER_TEST"
Runs = list[tuple[str, int]]


def mutants(every: bool, sample: int) -> dict[str, list[str]]:
    """Return the names of the mutants that tests have not killed, or of `every` one, by the function that they are of; at most `sample` of a module."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path().glob(NAMES)):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        names = [name for name, code in codes.items() if every or code not in KILLED]
        if sample:
            names = random.Random(path.name).sample(names, min(sample, len(names)))
        for name in names:
            found.setdefault(name.rpartition("__mutmut_")[0], []).append(name)
    return found


def kinds_of(function: str) -> tuple[str, ...]:
    return KINDS.get(function.split(".")[2][:3], ("nodes",))


def reached(kinds: set[str], seeds: int) -> dict[str, Runs]:
    """Return for each function the runs that call it."""
    os.environ[UNDER_TEST] = "stats"
    found: dict[str, Runs] = {}
    for seed in range(seeds):
        for kind in sorted(kinds):
            state()._stats.clear()
            broken = judge(schedule(kind, seed))
            assert not broken, (kind, seed, broken)
            for function in state()._stats:
                found.setdefault(function, []).append((kind, seed))
    return found


def verdict(name: str, runs: Runs) -> str:
    """Fork a child that runs them with that mutant; return how it was killed, "" if it was not."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        os.environ[UNDER_TEST] = name
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = 0
        try:
            code = next((1 + at for at, (kind, seed) in enumerate(runs) if judge(schedule(kind, seed))), 0)
        except BaseException:  # noqa: BLE001 the mutant has broken something
            code = 1
        os._exit(min(code, 250))
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.WEXITSTATUS(status)
    return "{} {}".format(*runs[code - 1]) if code else ""


def judged(parts: list[str], seeds: int, jobs: int, every: bool, sample: int) -> Iterator[tuple[str, str, int]]:
    """Yield each mutant whose name begins with one of `parts`, how it was killed, and how many runs there were that could."""
    of = {
        function: names
        for function, names in mutants(every, sample).items()
        if any(function.startswith(f"unios.core.{part}") for part in parts or [""])
    }
    runs = reached({kind for function in of for kind in kinds_of(function)}, seeds)
    todo = [(name, [run for run in runs.get(function, []) if run[0] in kinds_of(function)]) for function, names in of.items() for name in names]
    with ThreadPoolExecutor(jobs) as pool:
        for (name, mine), how in zip(todo, pool.map(lambda job: verdict(*job) if job[1] else "", todo), strict=True):
            yield name, how, len(mine)


def main(parts: list[str], seeds: int, jobs: int, every: bool, sample: int, out: Path) -> None:
    """Judge the mutants and write what came of it; what the file has of others stays."""
    found = json.loads(out.read_text()) if out.exists() else {}
    done: Counter[bool] = Counter()
    for name, how, count in judged(parts, seeds, jobs, every, sample):
        found[name] = {"by": how, "runs": count}
        done[bool(how)] += 1
        if done.total() % 50 == 0:
            out.write_text(json.dumps(found, indent=1))
            print(f"{done.total()} mutants, {done[True]} killed", file=sys.stderr)
    out.write_text(json.dumps(found, indent=1))
