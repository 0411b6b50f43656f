"""What the benchmark of tasks has workers do, and the program that has an executor from nothing: `python -m benchmarks.task_parts ours|pool`."""

import json
import sys
import time
from concurrent.futures import Executor


def nothing(_number: int) -> int:
    """An empty task."""
    return 0


def nest(executor: Executor, count: int) -> list[float]:
    """A task that submits `count` empty ones and waits for each; how long each took, in seconds."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        executor.submit(nothing, number).result()
        taken.append(time.perf_counter() - began)
    return taken


def spread(executor: Executor, count: int) -> float:
    """A task that submits `count` empty ones at once and waits for all; seconds."""
    began = time.perf_counter()
    for future in [executor.submit(nothing, number) for number in range(count)]:
        future.result()
    return time.perf_counter() - began


def main() -> None:
    """Print, as JSON, after how many seconds of this program its node was there and its first task done."""
    began = time.perf_counter()
    there = 0.0
    if sys.argv[1] == "ours":
        import unios

        unios.system()
        there = time.perf_counter() - began
        executor: Executor = unios.Executor()
    else:
        from concurrent.futures import ProcessPoolExecutor

        executor = ProcessPoolExecutor()
    with executor:
        executor.submit(abs, -1).result()
        print(json.dumps([there, time.perf_counter() - began]), flush=True)


if __name__ == "__main__":
    main()
