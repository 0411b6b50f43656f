"""Samples: how long calls took, in seconds."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Call = Callable[[], object]


def percentile(values: list[float], percent: float) -> float:
    """Return the value at that rank, as the peers' lab does it: no interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def once(call: Call) -> float:
    """Return how long one call took, in seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def interleaved(calls: dict[str, Call], count: int, warm: int = 3, *, rest_s: float = 0.0) -> dict[str, list[float]]:
    """Time each call `count` times, in turns, so that noise falls on all alike; `warm` turns before that do not count.

    `rest_s`: before each, so that what the one does after its answer does not fall on the other.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm, count):
        for name, call in calls.items():
            time.sleep(rest_s)
            seconds = once(call)
            if turn >= 0:
                taken[name].append(seconds)
    return taken


def timed(call: Call) -> Callable[[int], list[float]]:
    """Return what makes a block of calls and returns how long each took, in seconds."""

    def block(count: int) -> list[float]:
        return [once(call) for _ in range(count)]

    return block


def blocks(calls: dict[str, Callable[[int], list[float]]], count: int, in_block: int) -> dict[str, list[float]]:
    """Return the seconds of `count` blocks of each, in turns; one block before that does not count.

    By blocks, since who has just waited for others finds his memory cold, which is no part of a call.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(count + 1):
        for name, block in calls.items():
            seconds = block(in_block)
            if turn:
                taken[name] += seconds
    return taken


def sustained(calls: list[Call], count: int) -> float:
    """Return runs per second of `count` runs shared by len(calls) threads, each with a call of its own."""
    shares = [count // len(calls) + (index < count % len(calls)) for index in range(len(calls))]

    def work(call: Call, times: int) -> None:
        for _ in range(times):
            call()

    began = time.perf_counter()
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(work, call, times) for call, times in zip(calls, shares, strict=True)]:
            done.result()
    return count / (time.perf_counter() - began)
