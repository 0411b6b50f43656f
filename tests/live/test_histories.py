"""Histories of clients on three pseudo-machines with etcd on each, while parts and machines die, stand still and are cut off: one machine could have
answered so."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.histories import run
from tests.histories.rigs import apart
from tests.live import machines

pytestmark = pytest.mark.live
SECONDS = 12


def test_what_clients_on_three_machines_see_while_these_break_is_what_one_machine_could_have_told_them(tmp_path: Path) -> None:
    if why := machines.missing() or ("" if shutil.which("etcd") and find_spec("grpc") else "etcd or grpcio is not installed"):
        pytest.skip(f"no pseudo-machines on etcd here: {why}")
    with apart("etcd") as rig:
        report = run.run(rig, 7117, SECONDS, tmp_path)
    assert not report.bad, str(report)
    assert len(report.faults) >= 3 and all(counts["ok"] >= 10 for counts in report.counts.values()), report
