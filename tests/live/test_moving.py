"""Machines that move, sleep, or go for good: nobody has to do anything but say so when one will not come back."""

import json
import os
import signal
import sys
import time

import pytest

from tests.e2e.system import UNIOS, wait_for
from tests.live.machines import Lab, Machine, cmdline
from tests.live.test_machines import nodes, start, wait_process, witness
from tests.live.witness import SEND, Witness
from unios.limits import FLAP_LOSSES

__all__ = ["witness"]

pytestmark = pytest.mark.live


def change_address(machine: Machine, address: str) -> None:
    """As a new lease of DHCP does: the old address goes, another comes."""
    machine.run("ip", "addr", "del", f"{machine.address}/24", "dev", "eth0")
    machine.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    machine.address = address


def test_a_machine_comes_to_another_address(three: Lab) -> None:
    first, second, third = three.machines
    pid = start(first, "sleep", "1000", options=("--on", "n3"))
    change_address(third, "10.99.0.33")
    wait_for(lambda: nodes(first)["n3"]["addresses"], lambda found: found == ["10.99.0.33:7117"], "the new address is told")
    assert second.unios("run", "--on", "n3", "--", "hostname").stdout == b"m3\n"
    wait_process(second, pid, "runs", state="running", node="n3")

    # The machine of the store, which listens at one address only: it is told the new one, the others find it.
    first.unios("down", "--all")
    change_address(first, "10.99.0.11")
    gone = first.unios("up", check=False)
    assert gone.returncode == 75 and b"`unios up --listen ADDRESS` says so" in gone.stderr, gone.stderr.decode()
    said = first.unios("up", "--listen", "10.99.0.11").stderr.decode()
    assert "n1 takes links from other machines at 10.99.0.11:7117" in said
    wait_for(lambda: nodes(second)["n1"]["addresses"], lambda found: found == ["10.99.0.11:7117"], "the store is found again")
    assert second.unios("run", "--on", "n1", "--", "hostname").stdout == b"m1\n"
    assert wait_process(third, pid, "runs on", state="running")["node"] == "n3"


def test_a_node_that_is_gone_for_good_is_removed(three: Lab) -> None:
    first, second, third = three.machines
    refused = first.unios("leave", "--dead", "n2", check=False)
    assert refused.returncode == 1 and b"n2 is there: `unios leave --node n2` makes it leave in order" in refused.stderr
    kept = start(first, "sleep", "4242", options=("--on", "n2", "--on-partition", "keep"))
    wait_process(first, kept, "runs", state="running")

    stolen = "mkdir -p /var/stolen/nodes/n2 && cd /var/unios && cp -r system.json ca /var/stolen && cp nodes/n2/node.* /var/stolen/nodes/n2"
    second.run("sh", "-c", stolen)

    # It sleeps for longer than its lease, is taken for dead, and wakes up.
    own = second.pids()
    second.signal_all(signal.SIGSTOP, own)
    wait_for(lambda: nodes(first)["n2"]["state"], lambda state: state == "lost", "n2 is lost")
    third.unios("leave", "--dead", "n2")
    assert nodes(first)["n2"]["state"] == "left"
    wait_process(first, kept, "is dealt with", state="pending", incarnation=2)
    second.signal_all(signal.SIGCONT, own)
    wait_for(
        lambda: [pid for pid in second.pids() if b"4242" in cmdline(pid) or b"unios" in cmdline(pid)], lambda left: not left, "nothing is left there"
    )
    again = second.unios("up", check=False)
    assert b"join a system with a token" in again.stderr, again.stderr.decode()
    assert nodes(first)["n2"]["state"] == "left"

    # It may come back as anybody does, under its old name too; its processes that wait for it then run there.
    token = first.json("join", "--root")["token"]
    second.unios("join", token, "--name", "n2")
    assert first.unios("run", "--on", "n2", "--", "hostname").stdout == b"m2\n"
    wait_process(first, kept, "runs again", state="running", node="n2")

    # Who has the old certificate has nothing, though its name is a member's again.
    thief = second.run("env", "UNIOS_HOME=/var/stolen", UNIOS, "up", check=False)
    assert thief.returncode == 75 and b"the certificate is of an earlier node called n2" in thief.stderr, thief.stderr.decode()
    assert first.unios("run", "--on", "n2", "--", "true").returncode == 0

    # One that was off while it was removed is told when it comes.
    third.die()
    wait_for(lambda: nodes(first)["n3"]["state"], lambda state: state == "lost", "n3 is lost")
    first.unios("leave", "--dead", "n3")
    third.boot()
    told = third.unios("up", check=False)
    assert b"n3 was taken out of the system" in told.stderr and b"join anew" in told.stderr, told.stderr.decode()


def test_a_node_that_flaps_every_second_causes_no_storm(three: Lab, witness: Witness) -> None:
    """Its link is cut and healed each second, then its kernel killed each second; what ran there runs elsewhere, and stays there."""
    first, second, third = three.machines
    pids = [start(first, sys.executable, "-c", SEND) for _ in range(4)]
    for pid in pids:
        wait_process(first, pid, "runs", state="running")
    before = len(first.json("events"))
    for _ in range(FLAP_LOSSES + 1):
        third.cut_from(first, second)
        time.sleep(1.5)  # the fault itself: longer than a lease
        third.heal()
        time.sleep(1.0)
        assert second.unios("run", "--", "true").returncode == 0
    wait_for(lambda: nodes(first)["n3"]["state"], lambda state: state == "ready", "n3 is back")
    problems = [problem["what"] for problem in json.loads(first.unios("status", "--json", check=False).stdout)["problems"]]
    assert any(what.startswith("n3 comes and goes") for what in problems), problems
    told = [event for event in first.json("events")[before:] if event["node"] == "n3" or "n3" in event["text"]]
    assert len([event for event in told if event["kind"] in ("loss", "node") and not event.get("pid")]) <= 2 * FLAP_LOSSES + 2, told
    records = [wait_process(first, pid, "runs", state="running") for pid in pids]
    assert all(record["incarnation"] <= FLAP_LOSSES + 1 for record in records), records
    assert witness.stale() == []

    moved = {record["pid"]: record["incarnation"] for record in records}
    for _ in range(3):
        os.kill(kernel_of(third), signal.SIGKILL)
        time.sleep(1.0)
    wait_for(lambda: nodes(first)["n3"]["state"], lambda state: state == "ready", "n3 is there")
    assert first.unios("run", "--on", "n3", "--", "true").returncode == 0
    after = {pid: wait_process(first, pid, "runs", state="running")["incarnation"] for pid in pids}
    assert all(after[pid] <= moved[pid] + 1 for pid in pids), (moved, after)
    assert witness.stale() == []


def kernel_of(machine: Machine) -> int:
    """Return the host pid of the machine's kernel, as soon as there is one."""
    found = wait_for(lambda: [pid for pid in machine.pids() if cmdline(pid).startswith(b"unios: kernel")], bool, "a kernel runs")
    return found[0]
