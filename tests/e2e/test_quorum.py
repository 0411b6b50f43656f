"""A system that runs its own etcd: members come by themselves, each node may be lost, and what cannot be is said."""

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.e2e.system import System, wait_for

if shutil.which("etcd") is None or find_spec("grpc") is None:
    pytest.skip("etcd or grpcio is not installed", allow_module_level=True)


@pytest.fixture
def system() -> Iterator[System]:
    with System() as built:
        yield built


def keepers(system: System) -> tuple[str, ...]:
    """As `status` says, which ends with 1 while the store does not answer."""
    return tuple(json.loads(system.unios("status", "--json", check=False).stdout).get("keepers", ()))


def voting(system: System, count: int) -> None:
    """Wait until so many members have begun to vote, as the events say."""

    def told() -> int:
        return sum("keeps the store as well" in one["text"] for one in system.json("events"))

    wait_for(told, lambda found: found == count, f"{count} have been told", 40)


def as_state(system: System, node: str) -> Any:
    return system.nodes()[node]["state"]


def test_three_members_come_by_themselves_and_any_node_may_be_lost(system: System) -> None:
    system.unios("up", "--nodes", "3", "--store", "etcd")
    voting(system, 2)
    assert keepers(system) == ("n1", "n2", "n3")
    stays = system.run_detached("sleep", "1000", options=("--on", "n2"))
    moves = system.run_detached("sleep", "1000")
    for victim in ("n1", "n3"):
        system.power_cut(victim)
        wait_for(lambda: system.unios("run", "--", "true", check=False, timeout=60).returncode, lambda code: code == 0, "programs run", 30)
        assert system.process(stays)["incarnation"] == 1
        system.wait_process(moves, lambda one: one["state"] == "running", "runs")
        system.unios("up")
        wait_for(lambda: as_state(system, victim), lambda state: state == "ready", f"{victim} is back", 30)  # noqa: B023 it is called in this round
    system.unios("kill", str(stays), str(moves))
    assert keepers(system) == ("n1", "n2", "n3")


def test_it_shrinks_in_order_and_the_only_copy_cannot_leave(system: System) -> None:
    system.unios("up", "--nodes", "3", "--store", "etcd")
    voting(system, 2)
    system.unios("leave", "--node", "n3")
    wait_for(lambda: keepers(system), lambda found: found == ("n1",), "one keeps the store", 40)
    refused = system.unios("leave", "--node", "n1", check=False)
    assert refused.returncode == 1 and b"n1 has the only copy of the system's store" in refused.stderr
    assert any("the store has one copy, on n1" in note for note in system.json("status")["notes"])
    system.unios("down", "--all")
    system.unios("up")  # with another engine than the one that it has it does not begin
    wrong = system.unios("up", "--store", "etcd://127.0.0.1:1/other", check=False)
    assert wrong.returncode == 1 and b"which it runs itself" in wrong.stderr
    assert system.unios("run", "--", "echo", "still").stdout == b"still\n"
