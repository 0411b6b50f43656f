"""The short form of the deaths (docs/deaths.md): a machine of three dies whole with its disk, a new one takes its place, and another dies. Drawn by the day."""

import datetime

import pytest

from tests.deaths.__main__ import played, told
from tests.matrix.world import missing

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
IN_TIME = {"noticed", "elsewhere"}
"""Judged by docs/deaths.md: a machine that does something else as well may be late. What is lost, wrong or done twice is lost at any speed."""


def test_whichever_machine_dies_nothing_that_was_promised_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    if why := missing("etcd"):
        pytest.skip(f"no pseudo-machines on etcd here: {why}")
    seed = datetime.datetime.now(datetime.UTC).date().toordinal()
    with capsys.disabled():
        print(f"\ndeaths, seed of the day {seed}")
        runs = played(seed, [1, 2], float("inf"), told)
    bad = {
        run.number: texts
        for run in runs
        if (texts := {promise: why for promise, why in run.broken.items() if promise not in IN_TIME or "not within" in why[0]})
    }
    assert not bad, f"repeat it: python -m tests.deaths --dry --only {min(bad)} --seed {seed}: {bad}"
    assert len(runs) == 2
