"""Time limits: when a program began, as Linux says."""

import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unios.kernel import runfiles, time_limits
from unios.kernel.clocks import boot_ms
from unios.kernel.time_limits import TICKS_PER_S, TimeLimits

INIT = 10


@pytest.fixture
def child() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process.pid
    process.kill()
    process.wait()


def began(monkeypatch: pytest.MonkeyPatch, children: dict[int, list[int]], launchers: set[int]) -> int:
    monkeypatch.setattr(time_limits, "is_launcher", lambda pid: pid in launchers)
    return TimeLimits(cast(Any, SimpleNamespace()))._start_of(INIT, children)


def test_a_program_began_when_it_was_started_whoever_its_parent_is(monkeypatch: pytest.MonkeyPatch, child: int) -> None:
    launcher, start = os.getpid(), runfiles.start_of(child) * 1_000 // TICKS_PER_S
    assert began(monkeypatch, {INIT: [launcher], launcher: [child]}, {launcher}) == start
    assert began(monkeypatch, {INIT: [child]}, set()) == start, "its launcher was killed"


def test_a_launcher_that_has_had_other_programs_says_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = boot_ms()
    assert began(monkeypatch, {INIT: [1]}, {1}) >= before, "its program has ended: counted from now"
