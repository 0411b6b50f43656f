"""Ticks fall on the multiples of their period, whatever the hour and the phase."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.pairs import bounded
from unios.wire.ticks import at_each_tick, tick_or, until_next


@given(st.floats(0, 1e7), st.sampled_from([0.25, 0.75, 1.0]), st.floats(0, 0.25))
def test_a_tick_falls_on_a_multiple_of_its_period_and_is_to_come(now: float, period: float, phase: float) -> None:
    wait = until_next(now, period, phase)
    assert 0 < wait <= period
    turns = (now + wait - phase) / period
    assert abs(turns - round(turns)) < 1e-5


def test_the_ticks_of_longer_periods_are_ticks_of_the_shorter_one() -> None:
    for number in range(1, 9):
        at = 0.1 + number * 1.0
        assert until_next(at - 0.001, 0.25, 0.1) < 0.0011


def test_what_is_done_at_each_tick_is_done_until_it_fails_or_is_cancelled() -> None:
    async def work() -> None:
        done: list[int] = []

        def step() -> None:
            done.append(0)
            if len(done) == 3:
                raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"):
            await at_each_tick(0.01, step)
        assert len(done) == 3
        again = asyncio.create_task(at_each_tick(0.01, lambda: done.append(1)))
        while len(done) < 6:
            await asyncio.sleep(0.001)
        again.cancel()
        count = len(done)
        await asyncio.wait([again])
        await asyncio.sleep(0.05)  # five ticks in which nothing must happen
        assert len(done) == count

    bounded(work)


def test_a_wait_ends_with_its_event_or_with_the_tick_and_leaves_no_timer() -> None:
    async def work() -> None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        began = loop.time()
        await tick_or(event, 0.02)
        assert event.is_set() and loop.time() - began <= 5
        event.clear()
        loop.call_soon(event.set)
        await tick_or(event, 1_000.0)
        assert all(handle.cancelled() for handle in loop._scheduled if handle.when() > loop.time() + 30)  # type: ignore[attr-defined]

    bounded(work)
