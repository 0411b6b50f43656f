"""Figures of peers: those of this run go before the baseline; rates become times; a limit stays on the row."""

import sys
from pathlib import Path

import pytest
from benchmarks.peers import Figure, Peers
from benchmarks.row import Report, Row

from benchmarks import baseline, peers

OURS = Row("a task", 50.0, "us", 9)
TABLE = """
## launch

| | empty_task_sustained (/s) | empty_task_p50 (ms) |
|---|--:|--:|
| ray-task | 2000 | 1.5 |
| dask-task | 500 | - |

## calls

| | call64_p50 (ms) |
|---|--:|
| ray-actor | 0.9 |
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{baseline.SOURCE}.md").write_text(TABLE)
    monkeypatch.setattr(peers, "LAB", tmp_path)
    return tmp_path


def test_a_rate_of_theirs_is_the_limit_of_a_time_of_ours(lab: Path) -> None:
    found = Peers(False)
    found.figures = [Figure("ray-task", "empty_task_sustained", rate, "/s", 2000) for rate in (4000.0, 5000.0, 10_000.0)]
    [ray] = found.rows(OURS, "empty_task_sustained", ("ray-task",), inverse=1e6, at_most=0.25)
    assert (ray.reference, ray.ratio, ray.verdict, ray.against) == (200.0, 0.25, "ok", "ray-task, same run:")
    [slower] = found.rows(Row("a task", 51.0, "us", 9), "empty_task_sustained", ("ray-task",), inverse=1e6, at_most=0.25)
    assert slower.verdict == "MISSED"


def test_without_a_run_the_baseline_is_told_as_such(lab: Path) -> None:
    rows = Peers(False).rows(OURS, "empty_task_sustained", ("ray-task", "dask-task"), inverse=1e6, at_most=0.25)
    assert [(row.reference, row.verdict) for row in rows] == [(500.0, "ok"), (2000.0, "ok")]
    assert all(baseline.LABEL in row.against for row in rows)


def test_what_the_baseline_does_not_have_is_no_row(lab: Path) -> None:
    assert Peers(False).rows(OURS, "empty_task_p50", ("dask-task", "nobody")) == []
    assert baseline.figures(lab / "elsewhere") == {}


def test_figures_of_another_size_are_scaled_in_either_case(lab: Path) -> None:
    found = Peers(False)
    found.figures = [Figure("ray-actor", "call64_p50", 2.0, "ms", 1)]
    assert [row.reference for row in found.rows(OURS, "call64_p50", ("ray-actor",), 0.5)] == [1.0]
    assert [row.reference for row in Peers(False).rows(OURS, "call64_p50", ("ray-actor",), 0.5)] == [0.45]


def test_a_peer_that_could_not_run_is_named_with_its_reason() -> None:
    found, report = Peers(False), Report("tasks")
    found._take({"peer": "ray", "metric": "could_not_run", "note": "1: no\n  module", "value": None, "unit": "", "n": 0})
    found.tell(report)
    assert report.notes[0].startswith("The peers did not run (`--peers` was not given)")
    assert report.notes[1].startswith("ray could not run: 1: no module.")


def test_no_script_of_a_room_stands_before_the_standard_library() -> None:
    """A script's folder is where its imports, and those of the peers, are looked for first."""
    assert {path.stem for path in peers.ROOMS.glob("*.py")} & sys.stdlib_module_names == set()
