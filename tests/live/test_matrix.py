"""The short form of the fault matrix (docs/matrix.md): some cells of each engine, drawn by the day."""

import datetime

import pytest

from tests.matrix import short
from tests.matrix.__main__ import played, told
from tests.matrix.targets import ENGINES
from tests.matrix.world import missing

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_cell_of_the_day_ends_masked_or_reported(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    if why := missing(engine):
        pytest.skip(f"no fault matrix here: {why}")
    seed = datetime.datetime.now(datetime.UTC).date().toordinal()
    with capsys.disabled():
        print(f"\nfault matrix, {engine}, seed of the day {seed}")
        outcomes = played(engine, short.picked(engine, seed), float("inf"), lambda outcome: told(outcome, as_json=False))
    bad = [short.report(outcome, seed) for outcome in outcomes if outcome.end not in ("masked", "reported")]
    assert not bad, "\n".join(bad)
    assert len(outcomes) == short.EACH[engine]
