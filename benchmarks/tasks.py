"""tasks: what an empty task costs through Executor, beside ProcessPoolExecutor in turns and Ray and Dask; an executor from nothing; tasks of tasks.

The standard library's pool is the limit: it has the same two processes per worker, a pipe between them, and nothing of what a system adds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor as Standard
from concurrent.futures import ProcessPoolExecutor

from benchmarks import usage, work
from benchmarks.peers import ROOMS, Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import Call, blocks, interleaved, once, percentile, timed
from benchmarks.system import System
from benchmarks.task_parts import nest, nothing, spread
from unios.client.tasks.executor import Executor

WORKERS = 2
FLOOD = 2_000
"""Empty tasks at once: enough that a start does not count, few enough for Dask."""
TURNS = 9
BLOCKS, IN_BLOCK = 40, 25
ITEMS = 20_000
CHUNKS = (10, 100, 1_000)
STARTS = 9
POOL_LIMIT = 1.3
PEER_SHARE = 0.25
"""Ours is to be four times as fast."""
READY_LIMIT_S = 1.0
PEERS = ("ray", "dask")
TASK_PEERS = ("ray-task", "dask-task")
POOL = "ProcessPoolExecutor, same run:"
WORKER_PART = "workers and their parent"


def run(peers: Peers) -> Report:
    """Measure; the standard library's pool in turns with ours, Ray and Dask after ours."""
    report = Report("tasks", strict=True)
    ready = _from_nothing(report)
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(nothing, range(100)))  # so its workers are forked before this process has other threads
        with System(1) as system:
            system.up()
            with Executor(WORKERS, home=system.home) as executor:
                list(executor.map(nothing, range(100)))
                flood = _floods(report, executor, pool)
                alone = _alone(report, executor, pool)
                _chunks(report, executor, pool)
                nested = _nested(report, executor, alone)
                _by_part(report, system, executor, pool)
        _far(report)
    print("peers", file=sys.stderr)
    peers.run(ROOMS / "tasks.py", PEERS, 400)
    report.rows += [
        *peers.rows(flood, "empty_task_sustained", TASK_PEERS, inverse=1e6, at_most=PEER_SHARE),
        *peers.rows(alone, "empty_task_p50", TASK_PEERS),
        *peers.rows(nested, "nested_task_p50", TASK_PEERS),
        *peers.rows(ready, "system_start", PEERS),
    ]
    report.notes.append(
        f"{WORKERS} workers everywhere. Where a limit is a rate the row shows the time of one, so that a smaller ratio is better everywhere. "
        "A pool's tasks cannot submit to it, and a worker of it that dies breaks it. Ray's and Dask's start: one node, first task done."
    )
    peers.tell(report)
    return report


# from nothing


def _from_nothing(report: Report) -> Row:
    """Add the rows on a program that has an executor where no system runs; return that which the peers' starts are held against."""
    taken: dict[str, list[list[float]]] = {"ours": [], "pool": []}
    for turn in range(STARTS + 1):
        print(f"from nothing, {turn} of {STARTS}", file=sys.stderr)
        for name, found in taken.items():
            phases = _start(name)
            if turn:  # the first finds nothing of the programs in memory
                found.append(phases)
    there, done, whole = (percentile(list(phase), 50) for phase in zip(*taken["ours"], strict=True))
    ready = Row("a program from its start to the result of its first task, no system running, p50", whole, "s", STARTS)
    report.rows += [
        limited(ready.what, whole, "s", STARTS, READY_LIMIT_S),
        limited(ready.what.replace("p50", "slowest"), max(phases[2] for phases in taken["ours"]), "s", STARTS, READY_LIMIT_S),
        Row("of which Python's start, p50", percentile([phases[2] - phases[1] for phases in taken["ours"]], 50), "s", STARTS),
        Row("of which until the node is there, `import unios` included, p50", there, "s", STARTS),
        Row("of which from there to the result (workers are started), p50", done - there, "s", STARTS),
        Row("the same program", whole, "s", STARTS, POOL, percentile([phases[2] for phases in taken["pool"]], 50)),
    ]
    return ready


def _start(name: str) -> list[float]:
    """Return the seconds of a program that has an executor: until its node is there and its first task is done, as it says, and the latter as seen from here."""
    with tempfile.TemporaryDirectory(prefix="unios-bench-") as home:
        env = {key: value for key, value in os.environ.items() if not key.startswith("UNIOS_")} | {"HOME": home}
        began = time.perf_counter()
        with subprocess.Popen([sys.executable, "-m", "benchmarks.task_parts", name], env=env, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            line = program.stdout.readline()
            whole = time.perf_counter() - began
        if program.returncode:
            raise RuntimeError(f"the program that has an executor from nothing exited with {program.returncode}")
    there, done = json.loads(line)
    return [there, done, whole]


# empty tasks


def mapped(executor: Standard) -> Call:
    """Return a flood through `map`, one item a task."""
    return lambda: list(executor.map(nothing, range(FLOOD), chunksize=1))


def submitted(executor: Standard) -> Call:
    """Return a flood through `submit`, all gathered after that."""
    return lambda: [future.result() for future in [executor.submit(nothing, number) for number in range(FLOOD)]]


def _floods(report: Report, executor: Executor, pool: ProcessPoolExecutor) -> Row:
    """Add the rows on many tasks at once; return that which the peers are held against."""
    print(f"{FLOOD} empty tasks at once, {TURNS} turns", file=sys.stderr)
    ways: dict[str, Callable[[Standard], Call]] = {"map, chunksize 1": mapped, "submit, all at once": submitted}
    calls = {f"{way} {whose}": made(one) for way, made in ways.items() for whose, one in (("ours", executor), ("pool", pool))}
    taken = interleaved(calls, TURNS, warm=1)

    def us(name: str) -> float:
        return 1e6 * percentile(taken[name], 50) / FLOOD

    for way in ways:
        report.rows.append(Row(f"an empty task through {way}, p50", us(f"{way} ours"), "us", TURNS, POOL, us(f"{way} pool"), POOL_LIMIT))
    for way in ways:
        what, rate, beside = f"empty tasks through {way}", 1e6 / us(f"{way} ours"), 1e6 / us(f"{way} pool")
        report.rows.append(Row(what, rate, "/s", TURNS, POOL, beside, rate=True))
    way = "submit, all at once"
    return Row(f"an empty task through {way}, p50", us(f"{way} ours"), "us", TURNS)


def _alone(report: Report, executor: Executor, pool: ProcessPoolExecutor) -> Row:
    """Add the rows on one task at a time; return that which the peers are held against."""
    print(f"one task at a time, {BLOCKS} blocks of {IN_BLOCK}", file=sys.stderr)
    taken = blocks({name: timed(_one(one)) for name, one in (("ours", executor), ("pool", pool))}, BLOCKS, IN_BLOCK)
    n = BLOCKS * IN_BLOCK
    for percent in (50, 99):
        ours, beside = (1e6 * percentile(taken[name], percent) for name in ("ours", "pool"))
        at_most = POOL_LIMIT if percent == 50 else None
        report.rows.append(Row(f"one task at a time, submit to result, p{percent}", ours, "us", n, POOL, beside, at_most))
    return Row("one task at a time, submit to result, p50", 1000 * percentile(taken["ours"], 50), "ms", n)


def _one(executor: Standard) -> Call:
    return lambda: executor.submit(nothing, 0).result()


def _chunks(report: Report, executor: Executor, pool: ProcessPoolExecutor) -> None:
    for size in CHUNKS:
        print(f"map over chunks of {size}", file=sys.stderr)
        taken = interleaved({"ours": _in_chunks(executor, size), "pool": _in_chunks(pool, size)}, TURNS, warm=1)
        ours, beside = (1e6 * percentile(taken[name], 50) / ITEMS for name in ("ours", "pool"))
        report.rows.append(Row(f"an item of map over {ITEMS}, chunksize {size}, p50", ours, "us", TURNS, POOL, beside))


def _in_chunks(executor: Standard, size: int) -> Call:
    return lambda: list(executor.map(nothing, range(ITEMS), chunksize=size))


def _nested(report: Report, executor: Executor, alone: Row) -> Row:
    """Add the rows on tasks that tasks submit; return that which the peers are held against."""
    print("tasks of tasks", file=sys.stderr)
    taken = [seconds for _ in range(4) for seconds in executor.submit(nest, executor, 250).result()]
    spreads = [executor.submit(spread, executor, FLOOD).result() for _ in range(3)]
    against = "submitted by the program, same run:"
    row = Row("one task at a time, submitted by a task, p50", 1000 * percentile(taken, 50), "ms", len(taken))
    report.rows += [
        Row(row.what, 1000 * row.value, "us", row.n, against, 1000 * alone.value),
        Row("one task at a time, submitted by a task, p99", 1e6 * percentile(taken, 99), "us", len(taken)),
        Row(f"an empty task of {FLOOD} that a task submits at once, best of 3", 1e6 * min(spreads) / FLOOD, "us", 3),
    ]
    return row


def _far(report: Report) -> None:
    """Rows on workers that are on another node than the program: each task goes through two kernels."""
    print("workers on another node", file=sys.stderr)
    with System(2) as system:
        system.up()
        with Executor(WORKERS, home=system.home, node="n2") as executor:
            floods = [once(submitted(executor)) for _ in range(4)][1:]
            taken = timed(_one(executor))(500)
    report.rows += [
        Row("an empty task, workers on another node, submit, all at once, best of 3", 1e6 * min(floods) / FLOOD, "us", 3),
        Row("one task at a time, workers on another node, submit to result, p50", 1e6 * percentile(taken, 50), "us", len(taken)),
        Row("one task at a time, workers on another node, submit to result, p99", 1e6 * percentile(taken, 99), "us", len(taken)),
    ]


# where the time goes


def merged(used: dict[str, float]) -> dict[str, float]:
    """Return seconds by part as this benchmark names them, the largest first; what is Python's own is a worker, or what workers are forked from."""
    found: dict[str, float] = {}
    for part, seconds in used.items():
        name = WORKER_PART if part.startswith("python") else part
        found[name] = found.get(name, 0.0) + seconds
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def weighty(used: dict[str, float]) -> dict[str, float]:
    """Return those parts that have a hundredth of all or more."""
    total = sum(used.values())
    return {part: seconds for part, seconds in used.items() if seconds and seconds >= total / 100}


def spent(what: str, used: dict[str, float], tasks: int) -> str:
    """Return one sentence: what all parts used for a task, and which of them how much."""
    told = ", ".join(f"{part} {1e6 * seconds / tasks:.0f} us" for part, seconds in weighty(used).items())
    return f"Processor time of {what}: {1e6 * sum(used.values()) / tasks:.0f} us ({told})."


def _by_part(report: Report, system: System, executor: Executor, pool: ProcessPoolExecutor) -> None:
    """Add what a task costs in processor time: an honest limit of the rate, also on a machine that is not ours alone."""
    ways: dict[str, Callable[[Standard], Call]] = {f"a task of {FLOOD} at once": submitted, "a task, one at a time": _many_alone}
    for way, made in ways.items():
        print(f"processor time of {way}", file=sys.stderr)
        used, wall = _ours(system, made(executor))
        beside = _of_pool(made(pool))
        ours_us, pool_us = (1e6 * sum(one.values()) / FLOOD for one in (used, beside))
        report.rows.append(Row(f"processor time of {way}, all parts", ours_us, "us", FLOOD, POOL, pool_us))
        report.rows += [Row(f"of which {part}", 1e6 * seconds / FLOOD, "us", FLOOD) for part, seconds in weighty(used).items()]
        report.notes += [
            f"{spent(way, used, FLOOD)} It took {1e6 * wall / FLOOD:.0f} us on the clock, with {os.cpu_count()} processors.",
            spent(f"{way}, ProcessPoolExecutor", beside, FLOOD),
        ]


def _many_alone(executor: Standard) -> Call:
    return lambda: timed(_one(executor))(FLOOD)


def _ours(system: System, call: Call) -> tuple[dict[str, float], float]:
    """Return the processor seconds of each part, this program by its threads, and how long it took."""
    before, threads = work.snapshot(system), usage.thread_s()
    wall = once(call)
    after, now = work.snapshot(system), usage.thread_s()
    used = work.between(before, after)
    del used[work.CLIENT]  # its threads are
    return merged(used | _grown(threads, now)), wall


def _of_pool(call: Call) -> dict[str, float]:
    pids, threads = usage.children(), usage.thread_s()
    before = usage.processor_s(pids)
    call()
    return merged(_grown(threads, usage.thread_s()) | {"workers": usage.processor_s(pids) - before})


def _grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {f"this program's thread {name}": seconds - before.get(name, 0.0) for name, seconds in after.items()}
