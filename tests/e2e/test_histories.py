"""Histories of clients on three nodes of this machine, while parts of them and whole nodes are killed and stopped: one machine could have answered so."""

from pathlib import Path

from tests.histories import run
from tests.histories.rigs import together

SECONDS = 10


def test_what_clients_on_three_nodes_see_while_these_break_is_what_one_machine_could_have_told_them(tmp_path: Path) -> None:
    with together() as rig:
        report = run.run(rig, 7117, SECONDS, tmp_path)
    assert not report.bad, str(report)
    assert len(report.faults) >= 3 and all(counts["ok"] >= 10 for counts in report.counts.values()), report
