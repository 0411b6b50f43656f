"""Whole machines fail: power cuts, partitions, and processes that stand still for longer than their lease."""

import json
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.system import UNIOS, wait_for
from tests.live.machines import Lab, Machine, cmdline, is_frozen
from tests.live.witness import SEND, Witness
from unios.limits import LEASE_TTL_MS

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
    echoed = first.run("sh", "-c", "head -c 500000 /dev/zero | tr '\\0' x | " + f"{UNIOS} run --on n3 -- wc -c")
    assert echoed.stdout.strip() == b"500000"


def test_a_machine_without_power_is_lost_and_its_process_runs_elsewhere(three: Lab, witness: Witness) -> None:
    first, _second, third = three.machines
    pid, victim = start_away_from(first, three, sys.executable, "-c", SEND)
    home = f"n{victim.number}"
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
    assert out.returncode in (1, 75)
    wait_for(lambda: _lease_ms(second), lambda left: left < -LEASE_TTL_MS, "n2 has been cut off for longer than a lease lasts")
    assert second.run("sh", "-c", "pgrep -fc 'echo [x]'").stdout.strip() == b"1"  # nothing may be claimed, and nothing is killed
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


def start_away_from(first: Machine, lab: Lab, *argv: str) -> tuple[int, Machine]:
    """Start a program on another machine than the store's; return its pid and that machine."""
    start(first, "sleep", "1000", options=("--on", "n1"))  # so that the least loaded is another
    pid = start(first, *argv)
    home = wait_process(first, pid, "runs", state="running")["node"]
    assert home != "n1"
    return pid, lab.machines[int(home[1:]) - 1]


def senders(machine: Machine) -> list[int]:
    """Return the host pids of the programs of a machine that send to the witness."""
    return [pid for pid in machine.pids() if SEND.encode() in cmdline(pid)]


def _lease_ms(machine: Machine) -> int:
    """Return what is left of the lease of the machine's node; below 0 it is cut off."""
    script = "from unios.client import nodes;from unios.client.connection import Connection;print(nodes.info(Connection()).lease_ms)"
    return int(machine.run(sys.executable, "-c", script).stdout)


@pytest.mark.parametrize("stopped", ["with its programs", "its own processes only"])
def test_a_machine_that_stood_still_for_longer_than_its_lease(three: Lab, witness: Witness, stopped: str) -> None:
    """SIGSTOP for longer than the lease, and on again. What unios itself takes is never stale. What an outside witness gets:

    - the programs stand still with the rest: nothing stale. They run again after their inits: let go all at once, a program may have an effect in the
      moment before its init has frozen it.
    - the programs run on: nobody is there to freeze them (docs/processes.md, what "never twice" covers), so while the inits stand still the witness may
      get stale effects. None once the inits run again and have ended what is stale.
    """
    first, second, _third = three.machines
    pid, victim = start_away_from(first, three, sys.executable, "-c", SEND)
    home = f"n{victim.number}"
    wait_for(witness.seen, lambda seen: (pid, 1) in {(p, i) for _t, p, i in seen}, "the witness hears of it")
    running = senders(victim)
    own = [each for each in victim.unios_pids() if each not in running]
    programs = running if stopped == "with its programs" else []
    assert own and running
    victim.signal_all(signal.SIGSTOP, own + programs)
    again = wait_process(first, pid, "runs elsewhere", state="running", incarnation=2)
    folder = f"{victim.home}/nodes/{home}/trees/{pid}.1"
    kept = victim.run("sh", "-c", f"cat {folder}/out.* | wc -c").stdout
    witness.wait_for_more(pid, 2, 50)
    assert witness.stale() == [] or not programs
    victim.signal_all(signal.SIGCONT, own)
    wait_for(lambda: not senders(victim) or is_frozen(pid, 1), bool, "the init has frozen the old tree, or killed it")
    victim.signal_all(signal.SIGCONT, programs)
    wait_for(lambda: nodes(first)[home]["state"], lambda state: state == "ready", "it is back")
    wait_for(lambda: senders(victim), lambda left: not left, "the old tree is dead")
    stale = witness.stale()
    assert stale == [] or not programs
    witness.wait_for_more(pid, 2, 50)
    assert witness.stale() == stale, "a stale effect after the old tree was dead"
    after = victim.run("sh", "-c", f"test -d {folder} && cat {folder}/out.* | wc -c || echo gone").stdout
    assert after in (kept, b"gone\n"), "the stream took bytes of a stale incarnation"
    now = process(first, pid)
    assert (now["node"], now["incarnation"]) == (again["node"], 2)
    assert set(second.unios("logs", str(pid)).stdout.split()) == {b"2"}
