"""Whole machines fail: power cuts, partitions, and processes that stand still for longer than their lease."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.system import wait_for
from tests.live.machines import Lab, Machine
from tests.live.witness import SEND, Witness

pytestmark = pytest.mark.live


@pytest.fixture
def witness(three: Lab) -> Iterator[Witness]:
    made = Witness(three._switch.pid, three.folder)
    try:
        yield made
    finally:
        made.close()


def start(machine: Machine, *argv: str, options: tuple[str, ...] = ()) -> int:
    return int(json.loads(machine.unios("run", "-d", "--json", *options, "--", *argv).stdout)["pid"])


def process(machine: Machine, pid: int) -> dict[str, Any]:
    return next(p for p in json.loads(machine.unios("ps", "-a", "--json").stdout) if p["pid"] == pid)


def wait_process(machine: Machine, pid: int, what: str, **wanted: object) -> dict[str, Any]:
    return wait_for(lambda: process(machine, pid), lambda p: all(p[name] == value for name, value in wanted.items()), what, 30)


def nodes(machine: Machine) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in machine.json("nodes")}


def test_three_machines_are_one_system(three: Lab) -> None:
    first, second, third = three.machines
    seen = nodes(third)
    assert sorted(seen) == ["n1", "n2", "n3"]
    assert {node["state"] for node in seen.values()} == {"ready"}
    assert len({node["machine"] for node in seen.values()}) == 3
    assert seen["n1"]["pids"] == [] and seen["n3"]["kernel_pid"] in seen["n3"]["pids"]
    assert "share" not in first.unios("status").stdout.decode()
    assert "alone" in second.unios("status").stdout.decode()
    for machine in three.machines:
        done = machine.unios("run", "--on", "n2", "--", "sh", "-c", "hostname; exit 9", check=False)
        assert (done.returncode, done.stdout) == (9, b"m2\n")
    pid = start(first, "sleep", "1000", options=("--on", "n3"))
    second.unios("freeze", str(pid))
    assert process(first, pid)["state"] == "frozen"
    first.unios("thaw", "--node", "n2", str(pid))
    third.unios("kill", "--node", "n1", str(pid))
    assert second.unios("wait", str(pid), check=False).returncode == 143
    big = first.unios("run", "--on", "n2", "--", "sh", "-c", "head -c 3000000 /dev/zero", check=False)
    assert len(big.stdout) == 3_000_000
    echoed = first.run("sh", "-c", "head -c 500000 /dev/zero | tr '\\0' x | " + f"{_unios()} run --on n3 -- wc -c")
    assert echoed.stdout.strip() == b"500000"


def _unios() -> str:
    from tests.e2e.system import UNIOS

    return UNIOS


def test_a_machine_without_power_is_lost_and_its_process_runs_elsewhere(three: Lab, witness: Witness) -> None:
    first, _second, third = three.machines
    pid = start(first, sys.executable, "-c", SEND)
    home = wait_process(first, pid, "runs", state="running")["node"]
    if home == "n1":
        first.unios("kill", "-9", str(pid))
        pid = start(first, sys.executable, "-c", SEND)
        home = wait_process(first, pid, "runs", state="running")["node"]
    victim = three.machines[int(home[1:]) - 1]
    wait_for(witness.seen, lambda seen: any(p == pid for _t, p, _i in seen), "the witness hears of it")
    victim.die()
    record = wait_process(first, pid, "runs again", state="running", incarnation=2)
    assert record["node"] != home
    wait_for(witness.seen, lambda seen: (pid, 2) in {(p, i) for _t, p, i in seen}, "the witness hears of the next incarnation")
    assert nodes(first)[home]["state"] == "lost"
    assert witness.stale() == []
    victim.boot()
    victim.unios("up")
    wait_for(lambda: nodes(first)[home]["state"], lambda state: state == "ready", f"{home} is back")
    assert process(third if victim is not third else first, pid)["incarnation"] == 2
    assert victim.unios("run", "--on", home, "--", "true").returncode == 0


def test_the_machine_of_the_store_loses_power_and_comes_back(three: Lab) -> None:
    first, second, _third = three.machines
    pid = start(second, "sh", "-c", "while :; do echo x; sleep 0.05; done", options=("--on", "n2"))
    wait_process(second, pid, "runs", state="running")
    first.die()
    out = second.unios("status", check=False)
    assert out.returncode in (0, 75)
    time.sleep(2.5)  # longer than the lease: without the store nothing may be claimed, and nothing is killed
    first.boot()
    first.unios("up")
    record = wait_process(first, pid, "runs on", state="running")
    assert (record["node"], record["incarnation"]) == ("n2", 1)
    before = len(second.unios("logs", str(pid)).stdout)
    wait_for(lambda: len(second.unios("logs", str(pid)).stdout), lambda size: size > before, "it has thawed and writes on")
    assert second.unios("run", "--", "true").returncode == 0


def test_a_partition_freezes_before_another_node_claims(three: Lab, witness: Witness) -> None:
    first, second, third = three.machines
    pid = start(first, sys.executable, "-c", SEND, options=("--on", "n3"))
    moving = start(first, sys.executable, "-c", SEND)
    for one in (pid, moving):
        wait_process(first, one, "runs", state="running")
    pids = [start(first, sys.executable, "-c", SEND) for _ in range(2)]
    for one in pids:
        wait_process(first, one, "runs", state="running")
    third.cut_from(first, second)
    wait_for(lambda: nodes(first)["n3"]["state"], lambda state: state == "lost", "n3 is lost")
    here = [p for p in json.loads(first.unios("ps", "--json").stdout) if p["pid"] in (moving, *pids)]
    for p in here:
        wait_process(first, p["pid"], "runs", state="running")
    pinned = process(first, pid)
    assert pinned["state"] == "pending" and "n3" in pinned["reason"], pinned
    third.heal()
    wait_for(lambda: nodes(first)["n3"]["state"], lambda state: state == "ready", "n3 is back")
    assert wait_process(first, pid, "runs again on n3", state="running")["node"] == "n3"
    assert witness.stale() == []


def test_a_node_that_reaches_only_one_other_is_relayed(three: Lab) -> None:
    first, second, third = three.machines
    second.cut_from(third)
    wait_for(
        lambda: _links(second),
        lambda links: links["n3"]["up"] and links["n3"]["via"] == "n1",
        "the link to n3 goes through n1",
    )
    assert second.unios("run", "--on", "n3", "--", "hostname").stdout == b"m3\n"
    assert third.unios("run", "--on", "n2", "--", "hostname").stdout == b"m2\n"
    assert {node["state"] for node in nodes(second).values()} == {"ready"}
    second.heal()
    wait_for(lambda: _links(second), lambda links: links["n3"]["up"] and not links["n3"]["via"], "the link is straight again")
    assert first.unios("run", "--", "true").returncode == 0


def _links(machine: Machine) -> dict[str, dict[str, Any]]:
    script = "import json;from unios.client import nodes;from unios.client.connection import Connection;" + (
        "print(json.dumps({l.node:{'up':l.up,'via':l.via} for l in nodes.links(Connection())}))"
    )
    found: dict[str, dict[str, Any]] = json.loads(machine.run(sys.executable, "-c", script).stdout)
    return found


@pytest.mark.parametrize("programs_too", [True, False], ids=["with its programs", "its own processes only"])
def test_a_machine_that_stood_still_for_longer_than_its_lease(three: Lab, programs_too: bool) -> None:
    """Nothing that unios itself takes is ever stale; a foreign socket may get something in the moment between SIGCONT and the freeze."""
    first, second, _third = three.machines
    pid = start(first, "sh", "-c", 'while :; do echo "$UNIOS_INCARNATION"; sleep 0.01; done')
    record = wait_process(first, pid, "runs", state="running")
    if record["node"] == "n1":
        first.unios("kill", "-9", str(pid))
        pid = start(first, "sh", "-c", 'while :; do echo "$UNIOS_INCARNATION"; sleep 0.01; done')
        record = wait_process(first, pid, "runs", state="running")
    victim = three.machines[int(record["node"][1:]) - 1]
    stopped = victim.pids() if programs_too else victim.unios_pids()
    victim.signal_all(signal.SIGSTOP, stopped)
    again = wait_process(first, pid, "runs elsewhere", state="running", incarnation=2)
    folder = f"{victim.home}/nodes/{record['node']}/trees/{pid}.1"
    kept = victim.run("sh", "-c", f"cat {folder}/out.* | wc -c").stdout
    time.sleep(0.5)
    victim.signal_all(signal.SIGCONT, stopped)
    wait_for(lambda: nodes(first)[record["node"]]["state"], lambda state: state == "ready", "it is back")
    wait_for(lambda: victim.run("sh", "-c", "pgrep -f UNIOS_INCARNATION | wc -l").stdout, lambda n: int(n) <= 2, "the old tree is dead")
    after = victim.run("sh", "-c", f"test -d {folder} && cat {folder}/out.* | wc -c || echo gone").stdout
    assert after in (kept, b"gone\n"), "the stream took bytes of a stale incarnation"
    now = process(first, pid)
    assert (now["node"], now["incarnation"]) == (again["node"], 2)
    lines = set(second.unios("logs", str(pid)).stdout.split())
    assert lines == {b"2"}
