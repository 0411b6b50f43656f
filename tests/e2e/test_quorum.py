"""A system that runs its own etcd: members come by themselves, each node may be lost, and what cannot be is said."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.e2e.system import System, wait_for
from unios.errors import DiskFull
from unios.store import client

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


def set_quota(system: System, mib: int) -> None:
    path = system.home / "home" / "store" / "cluster.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quota_bytes": mib << 20}))


async def fill(system: System, keys: int) -> int:
    """Write values of 256 KiB, over and over to as many keys, until etcd has no space; return how many it took."""
    store = client.StoreClient(client.at(system.home / "home" / "store"))
    try:
        for written in range(400):
            try:
                await store.put(f"/filled/{written % keys}", bytes(256 * 1024))
            except DiskFull as error:
                return written if "unios compacts its members" in str(error) and "raise quota_bytes" in str(error) else -1
        raise AssertionError("it took everything")
    finally:
        await store.close()


async def forget(system: System) -> None:
    store = client.StoreClient(client.at(system.home / "home" / "store"))
    try:
        await store.delete("/filled/", prefix=True)
    finally:
        await store.close()


def runs(system: System) -> int:
    return system.unios("run", "--", "true", check=False, timeout=60).returncode


def test_an_etcd_without_space_is_given_room_by_itself_and_what_a_person_has_to_do_is_said(system: System) -> None:
    system.unios("up", "--store", "etcd")
    system.unios("down", "--all")
    set_quota(system, 16)
    system.unios("up")
    pid = system.run_detached("sleep", "1000", options=("--on-partition", "keep"))
    assert asyncio.run(fill(system, 2)) > 20
    wait_for(lambda: runs(system), lambda code: code == 0, "what was history is given back", 90)
    assert system.process(pid)["incarnation"] == 1, "nobody was lost by it"
    view = system.json("store", "status")
    assert view["quota_bytes"] == 16 << 20 and max(one["bytes"] for one in view["members"]) < 12 << 20
    assert any("takes writes again" in one["text"] for one in system.json("events"))

    assert asyncio.run(fill(system, 400)) > 20  # records now, which nobody but a person can take away
    said = system.unios("store", "status", check=False)
    assert said.returncode == 1 and b"nospace" in said.stdout
    warned = wait_for(
        lambda: json.loads(system.unios("status", "--json", check=False).stdout)["warnings"],
        lambda found: any("takes no writes" in one for one in found),
        "it is said",
        60,
    )
    assert any("raise quota_bytes" in one for one in warned)
    assert any("alarm nospace" in one["found"] for one in json.loads(system.unios("doctor", "--json", check=False).stdout))
    set_quota(system, 64)
    system.unios("down", "--all", check=False)
    system.unios("up", check=False, timeout=90)
    wait_for(lambda: runs(system), lambda code: code == 0, "there is room again", 90)
    asyncio.run(forget(system))
