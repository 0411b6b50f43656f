"""Machines that move, sleep, or go for good: nobody has to do anything but say so when one will not come back."""

import signal

import pytest

from tests.e2e.system import wait_for
from tests.live.machines import Lab, Machine, cmdline
from tests.live.test_machines import nodes, start, wait_process

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

    # It sleeps for longer than its lease, is taken for dead, and wakes up.
    own = second.pids()
    second.signal_all(signal.SIGSTOP, own)
    wait_for(lambda: nodes(first)["n2"]["state"], lambda state: state == "lost", "n2 is lost")
    third.unios("leave", "--dead", "n2")
    assert nodes(first)["n2"]["state"] == "left"
    wait_process(first, kept, "is dealt with", state="pending", incarnation=2)
    second.signal_all(signal.SIGCONT, own)
    wait_for(lambda: [pid for pid in second.pids() if b"4242" in cmdline(pid) or b"unios" in cmdline(pid)], lambda left: not left, "nothing is left there")
    again = second.unios("up", check=False)
    assert b"join a system with a token" in again.stderr, again.stderr.decode()
    assert nodes(first)["n2"]["state"] == "left"

    # It may come back as anybody does, under its old name too; its processes that wait for it then run there.
    token = first.json("join", "--root")["token"]
    second.unios("join", token, "--name", "n2")
    assert first.unios("run", "--on", "n2", "--", "hostname").stdout == b"m2\n"
    wait_process(first, kept, "runs again", state="running", node="n2")

    # One that was off while it was removed is told when it comes.
    third.die()
    wait_for(lambda: nodes(first)["n3"]["state"], lambda state: state == "lost", "n3 is lost")
    first.unios("leave", "--dead", "n3")
    third.boot()
    told = third.unios("up", check=False)
    assert b"n3 was taken out of the system" in told.stderr and b"join anew" in told.stderr, told.stderr.decode()
