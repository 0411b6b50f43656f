"""Three pseudo-machines with a member of etcd on each, run elsewhere or by the system itself: no machine is needed, the one that founded it included."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.e2e.system import wait_for
from tests.live import machines
from tests.live.machines import Lab, Machine, lab
from tests.live.test_any_node import every_pair
from tests.live.test_moving import change_address

pytestmark = pytest.mark.live
Restart = Callable[[Machine], None]
"""Bring back what a machine had besides unios."""


def member(machine: Machine, members: list[Machine]) -> None:
    """Start the machine's member; it ends with the machine."""
    peers = ",".join(f"{one.name}=http://{one.address}:2380" for one in members)
    flags = {
        "name": machine.name,
        "data-dir": "/var/etcd",
        "listen-client-urls": f"http://{machine.address}:2379,http://127.0.0.1:2379",
        "advertise-client-urls": f"http://{machine.address}:2379",
        "listen-peer-urls": f"http://{machine.address}:2380",
        "initial-advertise-peer-urls": f"http://{machine.address}:2380",
        "initial-cluster": peers,
        "max-txn-ops": "1024",
        "max-request-bytes": "8388608",
    }
    words = " ".join(f"--{name}={value}" for name, value in flags.items())
    machine.run("sh", "-c", f"etcd {words} >/var/etcd.log 2>&1 </dev/null & echo started")


@contextlib.contextmanager
def three() -> Iterator[Lab]:
    why = machines.missing() or ("" if shutil.which("etcd") and find_spec("grpc") else "etcd or grpcio is not installed")
    if why:
        pytest.skip(f"no pseudo-machines on etcd here: {why}")
    with lab(3) as built:
        try:
            yield built
        finally:
            for machine in built.machines:
                if machine.is_up:
                    machine.unios("down", "--all", check=False)


def start(machine: Machine, *words: str, on: str = "") -> int:
    where = ("--on", on) if on else ()
    return int(json.loads(machine.unios("run", "-d", "--json", *where, "--", *words).stdout)["pid"])


def process(machine: Machine, pid: int) -> dict[str, Any]:
    return next(one for one in json.loads(machine.unios("ps", "-a", "--json").stdout) if one["pid"] == pid)


def state(machine: Machine, node: str) -> str:
    return str({one["name"]: one["state"] for one in machine.json("nodes")}[node])


def one_dies(built: Lab, victim: Machine, restart: Restart) -> None:
    """Kill a machine whole; the others go on, and it comes back."""
    others = [machine for machine in built.machines if machine is not victim]
    pids = [start(others[0], "sleep", "1000", on=f"n{machine.number}") for machine in built.machines]
    moving = start(victim, "sleep", "1000")
    victim.die()
    began = time.monotonic()
    done = None
    while done is None or done.returncode:  # said honestly while etcd has no leader
        done = others[0].unios("run", "--", "true", check=False)
        assert time.monotonic() - began < 30, done.stderr
    every_pair(others)
    for pid, machine in zip(pids, built.machines, strict=True):
        if machine is not victim:
            assert process(others[1], pid)["incarnation"] == 1, "it ran on, and was not started again"
    found = wait_for(lambda: process(others[1], moving), lambda one: one["state"] == "running", "it runs", 30)
    assert found["node"] != f"n{victim.number}"
    victim.boot()
    restart(victim)
    victim.unios("up")
    wait_for(lambda: state(others[0], f"n{victim.number}"), lambda found: found == "ready", "it is back", 30)
    for pid in (*pids, moving):
        with contextlib.suppress(AssertionError):
            others[0].unios("kill", str(pid))


def test_any_machine_may_die_the_founder_included() -> None:
    with three() as built:
        first, *others = built.machines
        for machine in built.machines:
            member(machine, built.machines)
        hosts = ",".join(f"{machine.address}:2379" for machine in built.machines)
        first.unios("up", "--listen", first.address, "--store", f"etcd://{hosts}/lab")
        for machine in others:
            machine.unios("join", first.json("join", "--root")["token"])
        for victim in built.machines:
            one_dies(built, victim, lambda machine: member(machine, built.machines))


def three_vote(first: Machine) -> None:
    def voting() -> int:
        return sum("keeps the store as well" in one["text"] for one in first.json("events"))

    wait_for(voting, lambda count: count == 2, "three vote", 60)


def answering(machine: Machine) -> list[str]:
    return sorted(
        one["node"] for one in json.loads(machine.unios("store", "status", "--json", check=False).stdout).get("members", ()) if one["answers"]
    )


def test_nor_is_any_needed_where_the_system_runs_etcd_itself() -> None:
    with three() as built:
        first, second, third = built.machines
        first.unios("up", "--listen", first.address, "--store", "etcd")
        for machine in (second, third):
            machine.unios("join", first.json("join", "--root")["token"])

        three_vote(first)
        for victim in built.machines:
            one_dies(built, victim, lambda _machine: None)
        assert first.json("status")["keepers"] == ["n1", "n2", "n3"]
        for leaver, submitter, waiter in ((first, first, third), (second, third, first)):
            passes_on_request(leaver, submitter, waiter)


def passes_on_request(leaver: Machine, submitter: Machine, waiter: Machine) -> None:
    """A job, and what waits for its end, go on when a node is told to stop: whichever it is, also the one that has run the queue."""
    job = start(submitter, "sleep", "1000")
    then = int(json.loads(submitter.unios("run", "-d", "--json", "--after", f"{job}:ended", "--", "sh", "-c", "exit 5").stdout)["pid"])
    leaver.unios("down")
    ran = wait_for(lambda: process(waiter, job), lambda one: one["state"] == "running" and one["node"] != f"n{leaver.number}", "the job runs", 30)
    assert ran["incarnation"] <= 2
    waiter.unios("kill", str(job))
    assert waiter.unios("wait", str(then), check=False).returncode == 5
    leaver.unios("up")
    wait_for(lambda: state(waiter, f"n{leaver.number}"), lambda found: found == "ready", "it is back", 30)


def test_a_member_is_found_at_its_machines_new_address_and_a_gateway_that_knows_no_member_asks_other_machines() -> None:
    with three() as built:
        first, second, third = built.machines
        first.unios("up", "--listen", first.address, "--store", "etcd")
        for machine in (second, third):
            machine.unios("join", first.json("join", "--root")["token"])
        three_vote(first)
        change_address(third, "10.99.0.33")
        # what it tells clients, and that it answers there: the old address is gone
        wait_for(lambda: answering(first), lambda found: found == ["n1", "n2", "n3"], "n3's member is reached", 60)
        wait_for(
            lambda: [one["text"] for one in first.json("events")],
            lambda told: any("the member of the store on n3" in one for one in told),
            "told",
            30,
        )
        first.die()
        wait_for(
            lambda: second.unios("run", "--", "true", check=False).returncode, lambda code: code == 0, "the other two decide, at that address", 60
        )

        third.run("sh", "-c", 'sed -i \'s/"members":\\[[^]]*\\]/"members":["10.99.0.99:1"]/\' /var/unios/store/cluster.json')
        gateway = json.loads(third.run("cat", "/var/unios/nodes/n3/run/store.json").stdout)["pid"]
        third.run("kill", "-9", str(gateway))
        wait_for(lambda: state(second, "n3"), lambda found: found != "ready", "n3 has lost the store", 30)
        wait_for(lambda: state(second, "n3"), lambda found: found == "ready", "n3 has found it again", 60)
        assert "10.99.0.99" not in third.run("cat", "/var/unios/store/cluster.json").stdout.decode()
