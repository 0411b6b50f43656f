"""How the doctor asks the nodes: all at the same time, and none for longer than his patience."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from unios.errors import Unavailable
from unios.shell import doctor, doctor_nodes, main
from unios.wire.operations import NodeInfo

NAMES = ("n1", "n2", "n3")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        (tmp_path / "nodes" / name).mkdir(parents=True)
        (tmp_path / "nodes" / name / "node.json").write_text("{}")
    monkeypatch.setattr(doctor, "CHECKS", ())
    return tmp_path


class Node:
    """A connection to a node, which answers once `ready` says so."""

    def __init__(self, _home: Path, name: str) -> None:
        self.name = name

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def ready(self) -> None:
        pass

    def call(self, op: str, *_args: object, **_options: object) -> Any:
        self.ready()
        if op == "node.links":
            return ()
        return NodeInfo(self.name, "s", "m", 1, "0.1.0", 1, (), 2, "root", True, "127.0.0.1:1", "here", 900, True, "v2")


def findings(home: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main.execute(["doctor", "--json", "--home", str(home)]) == 0
    return {finding["check"]: finding for finding in json.loads(capfd.readouterr().out)}


def test_all_nodes_are_asked_at_the_same_time(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(len(NAMES))

    class Meeting(Node):
        def ready(self) -> None:
            try:
                together.wait(timeout=20)
            except threading.BrokenBarrierError:
                raise Unavailable("they are asked one after the other") from None

    monkeypatch.setattr(doctor_nodes, "Connection", Meeting)
    monkeypatch.setattr(doctor_nodes, "PATIENCE_S", 30.0)
    seen = findings(home, capfd)
    assert all(seen[f"node {name}"]["ok"] for name in NAMES), seen


def test_silent_nodes_are_told_together_and_the_others_are_heard(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    never = threading.Event()

    class Silent(Node):
        def ready(self) -> None:
            if self.name != "n2":
                never.wait()

    monkeypatch.setattr(doctor_nodes, "Connection", Silent)
    monkeypatch.setattr(doctor_nodes, "PATIENCE_S", 0.3)
    monkeypatch.setattr(doctor_nodes, "TOLD_S", 0.1)
    try:
        seen = findings(home, capfd)
        assert seen["node n2"]["ok"]
        for name in ("n1", "n3"):
            assert seen[f"node {name}"]["found"] == f"{name} has not answered within 0.3 s"
        main.execute(["doctor", "--home", str(home)])
        assert "waiting for n1, n3, for at most 0.3 s" in capfd.readouterr().err
    finally:
        never.set()
