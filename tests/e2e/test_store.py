"""`unios store`: how the store stands, a backup, and the return to one, on both engines; and a store's file that is lost."""

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.system import System, wait_for


@pytest.fixture
def system() -> Iterator[System]:
    with System() as built:
        yield built


def states(system: System) -> dict[int, str]:
    return {one["pid"]: one["state"] for one in system.json("ps", "-a")}


ETCD = pytest.mark.skipif(shutil.which("etcd") is None or find_spec("grpc") is None, reason="etcd or grpcio is not installed")


@pytest.mark.parametrize("up", [("--nodes", "2"), pytest.param(("--nodes", "1", "--store", "etcd"), marks=ETCD)], ids=["sqlite", "etcd"])
def test_the_store_returns_to_a_backup_while_nodes_are_up_and_processes_are_not(system: System, tmp_path: Path, up: tuple[str, ...]) -> None:
    system.unios("up", *up)
    view = system.json("store", "status")
    assert view["generation"] and view["bytes"] and not view.get("trouble")
    first = system.run_detached("true")
    wait_for(lambda: states(system)[first], lambda state: state == "exited", "it has ended")
    running = system.run_detached("sleep", "1000")
    backup = tmp_path / "backup"
    assert json.loads(system.unios("store", "backup", str(backup), "--json").stdout)["records"]
    refused = system.unios("store", "restore", str(backup), "--yes", check=False)
    assert refused.returncode == 1 and f"processes run or wait ({running})".encode() in refused.stderr
    system.unios("kill", str(running))
    wait_for(lambda: states(system)[running], lambda state: state == "exited", "it has ended")
    later = system.run_detached("true")
    wait_for(lambda: states(system)[later], lambda state: state == "exited", "it has ended")
    nodes = {name: node["incarnation"] for name, node in system.nodes().items()}
    unsure = system.unios("store", "restore", str(backup), check=False)
    assert unsure.returncode == 2 and b"say --yes" in unsure.stderr
    system.unios("store", "restore", str(backup), "--yes")
    assert states(system) == {first: "exited", running: "exited"}
    assert system.json("store", "status")["generation"] != view["generation"]
    assert {name: node["incarnation"] for name, node in system.nodes().items()} == nodes, "no node was lost by it"
    assert system.run_detached("true") > later, "no pid is given twice"
    assert any("restored to the backup" in one["text"] for one in system.json("events"))


def test_a_lost_file_is_made_anew_from_a_backup_and_nothing_runs_twice(system: System, tmp_path: Path) -> None:
    system.unios("up")
    running = system.run_detached("sleep", "1000")
    backup = tmp_path / "backup"
    system.unios("store", "backup", str(backup))
    system.unios("kill", str(running))
    known = system.home / "home" / "system.json"  # a system that is younger than its first note of it does not know that it had a store
    wait_for(lambda: json.loads(known.read_text()).get("generation"), bool, "the machine has noted which store it has")
    system.unios("down", "--all")
    for left in (system.home / "home" / "store").glob("store.db*"):
        left.unlink()
    gone = system.unios("up", check=False, timeout=20)
    assert gone.returncode == 74 and b"is gone, and with it the records" in gone.stderr and b"`unios down` ends it" in gone.stderr, gone
    view = system.unios("store", "status", "--json", check=False)
    assert view.returncode == 1 and "`unios store restore FILE --yes` makes it anew" in json.loads(view.stdout)["trouble"]
    told = system.unios("store", "restore", str(backup), "--yes")
    assert f"{running}".encode() in told.stderr
    wait_for(lambda: system.unios("up", check=False, timeout=60).returncode, lambda code: code == 0, "it is up", 60)
    assert states(system) == {running: "lost"}
    assert system.unios("run", "--", "echo", "back").stdout == b"back\n"


def test_what_is_no_backup_of_this_system_is_refused(system: System, tmp_path: Path) -> None:
    system.unios("up")
    (tmp_path / "none").write_bytes(b"x" * 100)
    for path, said in ((tmp_path / "none", b"is no backup of a store"), (tmp_path / "absent", b"No such file")):
        refused = system.unios("store", "restore", str(path), "--yes", check=False)
        assert refused.returncode == 1 and said in refused.stderr, refused.stderr
    system.unios("store", "backup", str(tmp_path / "ours"))
    with System() as other:
        other.unios("up")
        foreign = other.unios("store", "restore", str(tmp_path / "ours"), "--yes", check=False)
        assert foreign.returncode == 1 and b"is a backup of another system" in foreign.stderr
