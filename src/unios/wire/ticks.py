"""Ticks: sleeping to the next multiple of a period, so that what a process does now and then wakes it once and not once each.

A process at rest costs what its wake-ups cost. The multiples are counted from a moment of each process's own: processes of one machine do not all
wake at the same time. Kernels and the store are in step: the renewals that the kernels of a machine send at their ticks wake the store once for all,
and pings that cross wake each side once. The store counts from a little later: what it does now and then it does when renewals have woken it.
A tick is late by the loop's delay and never early; after a pause it comes once, not for each that was missed.
"""

import asyncio
import os
from collections.abc import Callable


def until_next(now_s: float, period_s: float, phase_s: float) -> float:
    """Return how long it is to the next multiple of `period_s` after `now_s`, counted from `phase_s`; more than 0."""
    return period_s - (now_s - phase_s) % period_s or period_s  # a remainder may be rounded up to the period itself


_in_step: float | None = None


def keep_step(after_s: float = 0.0) -> None:
    """Count from the machine's own zero in this process, or from so long after it, as all do that have called this."""
    global _in_step
    _in_step = after_s


def phase() -> float:
    """Return the moment from which this process counts, in s."""
    return os.getpid() % 97 / 97 * 0.25 if _in_step is None else _in_step


def delay(period_s: float) -> float:
    """Return how long it is to this process's next tick of that period, in s."""
    return until_next(asyncio.get_running_loop().time(), period_s, phase())


async def at_each_tick(period_s: float, work: Callable[[], None]) -> None:
    """Call `work` now and at each tick of that period; ends by cancellation, or with what `work` raised. Nothing wakes but the call: no task takes a step."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    handle: asyncio.TimerHandle | None = None

    def go() -> None:
        nonlocal handle
        try:
            work()
        except BaseException as error:  # noqa: BLE001 told below
            if not ended.done():
                ended.set_exception(error)
            return
        handle = loop.call_later(delay(period_s), go)

    go()
    try:
        await ended
    finally:
        if handle is not None:
            handle.cancel()


async def tick(period_s: float) -> None:
    """Sleep to the next tick of that period."""
    await asyncio.sleep(delay(period_s))


async def tick_or(event: asyncio.Event, period_s: float) -> None:
    """Wait until the event is set, which the next tick of that period does too. A third of the steps of `wait_for`, which makes a task and a future."""
    handle = asyncio.get_running_loop().call_later(delay(period_s), event.set)
    try:
        await event.wait()
    finally:
        handle.cancel()
