"""Beating: who waits for events beats, in time and without an event; who does not wait does not."""

import asyncio
import itertools
import math
import os
import selectors
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios.wire import beating, ticks
from unios.wire.beating import LATEST, BeatingLoop, BeatingSelector, beat_while_turning

PERIOD_S = 0.01


@pytest.fixture
def selector() -> Iterator[BeatingSelector]:
    with BeatingSelector() as made:
        yield made


def wait_past(at_s: float) -> None:
    """Be busy until then."""
    while time.monotonic() < at_s:
        pass


def test_it_beats_while_nothing_happens_and_what_happens_ends_the_wait(selector: BeatingSelector) -> None:
    read, write = os.pipe()
    beats: list[float] = []

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 5:
            os.write(write, b"!")

    try:
        selector.register(read, selectors.EVENT_READ)
        selector.begin(beat, PERIOD_S)
        assert [key.fd for key, _mask in selector.select(None)] == [read]
        assert len(beats) == 5 and beats[4] - beats[1] > 2.5 * PERIOD_S
    finally:
        os.close(read)
        os.close(write)


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 0.25), st.lists(st.floats(0, 3), max_size=5))
def test_whenever_it_begins_and_however_late_it_is_each_wait_is_one_wait(began: float, phase: float, work: list[float]) -> None:
    """In virtual time, in periods of 1 s: no beat is missed by more than LATEST, and none is waited for with empty waits."""
    clock, waits, beats = [began], list[float](), list[float]()

    def wait(_self: object, timeout: float) -> list[object]:
        waits.append(timeout)
        clock[0] += max(0.0, timeout)
        return []

    with pytest.MonkeyPatch.context() as patch, BeatingSelector() as selector:
        patch.setattr(beating, "phase", lambda: phase)
        patch.setattr(time, "monotonic", lambda: clock[0])
        patch.setattr(selectors.EpollSelector, "select", wait)
        selector.begin(lambda: beats.append(clock[0]), 1.0)
        for busy_s in work:
            clock[0] += busy_s
            waits.clear()
            before = clock[0]
            selector.select(10.0)
            assert len(waits) <= 13 and min(waits) >= 0 and min(waits[1:-1]) > 0.15 and clock[0] - before >= 10 - 1e-6
            woken = [before, *(at for at in beats if at >= before)]
            assert all(after - at <= LATEST + 1e-6 for at, after in itertools.pairwise(woken)) and len(woken) >= 10


def test_a_timeout_ends_the_wait_when_it_is_due_whatever_the_beats(selector: BeatingSelector) -> None:
    beats: list[None] = []
    selector.begin(lambda: beats.append(None), PERIOD_S)
    began = time.monotonic()
    assert selector.select(4.5 * PERIOD_S) == []
    assert time.monotonic() - began >= 4.5 * PERIOD_S - 0.001 and 2 <= len(beats) <= 6


def test_who_does_not_wait_does_not_beat_and_beats_once_when_he_does_again(selector: BeatingSelector) -> None:
    beats: list[None] = []
    selector.begin(lambda: beats.append(None), PERIOD_S)
    wait_past(time.monotonic() + 5 * PERIOD_S)
    assert len(beats) == 1
    selector.select(0)
    assert len(beats) == 2


def test_before_it_is_begun_and_after_its_end_it_is_a_selector_like_any(selector: BeatingSelector) -> None:
    beats: list[None] = []
    assert selector.select(0) == []
    selector.begin(lambda: beats.append(None), PERIOD_S)
    selector.end()
    wait_past(time.monotonic() + 2 * PERIOD_S)
    assert selector.select(2 * PERIOD_S) == [] and len(beats) == 1


def test_a_loop_beats_between_its_timers_without_a_round_for_each_beat() -> None:
    beats: list[None] = []

    async def main() -> int:
        loop = asyncio.get_running_loop()
        end = beat_while_turning(PERIOD_S, lambda: beats.append(None))
        rounds = 0
        while len(beats) < 20:
            rounds += 1
            done: asyncio.Future[None] = loop.create_future()
            loop.call_later(10 * PERIOD_S, done.set_result, None)
            await done
        end()
        return rounds

    with asyncio.Runner(loop_factory=BeatingLoop) as runner:
        assert runner.run(main()) <= 3


def test_processes_in_step_count_from_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "_in_step", None)
    monkeypatch.setattr(os, "getpid", lambda: 97 * 40 + 48)
    assert 0 < ticks.phase() < 0.25
    ticks.keep_step()
    assert ticks.phase() == 0
    ticks.keep_step(0.01)
    assert ticks.phase() == 0.01


def test_a_process_that_is_woken_shortly_before_beats_then_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time: an event each second, and the beats' own moments a little later, as with the store and the renewals."""
    clock, waits, beats = [0.5], list[float](), list[float]()

    def wait(_self: object, timeout: float) -> list[str]:
        waits.append(timeout)
        event_s = float(math.floor(clock[0]) + 1)
        found = ["event"] if event_s <= clock[0] + timeout else []
        clock[0] = event_s if found else clock[0] + timeout
        return found

    monkeypatch.setattr(beating, "phase", lambda: 0.03)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(selectors.EpollSelector, "select", wait)
    with BeatingSelector() as selector:
        selector.begin(lambda: beats.append(clock[0]), 1.0)
        for _ in range(3):  # until it has found its step
            selector.select(None)
        waits.clear()
        beats.clear()
        for _ in range(10):
            assert selector.select(None) == ["event"]
    assert len(waits) == len(beats) == 10
