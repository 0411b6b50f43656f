"""What a user sees when parts of a system are killed or hang. Each test breaks a system of its own."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, wait_for
from unios.kernel import linux_pids


def part(system: System, node: str, name: str) -> int:
    """Return the Linux pid of a part of a node, 0 while there is none."""
    try:
        return int(json.loads((system.home / "home/nodes" / node / "run" / f"{name}.json").read_text())["pid"])
    except (OSError, ValueError):
        return 0


def running(system: System, pid: int) -> dict[str, Any]:
    return system.wait_process(pid, lambda p: p["state"] == "running", "runs")


def program_of(system: System, pid: int, incarnation: int = 1) -> int:
    """Return the program's pid as this machine numbers it."""
    record = system.process(pid)
    text = (system.home / "home/nodes" / record["node"] / f"trees/{pid}.{incarnation}/tree.json").read_text()
    children = linux_pids.parents()
    [launcher] = children[json.loads(text)["init_pid"]]
    [program] = children[launcher]
    return program


def test_a_killed_kernel_is_replaced_and_its_sleeper_runs_on(fresh: System) -> None:
    pid = fresh.run_detached("sleep", "1000")
    node = running(fresh, pid)["node"]
    program = program_of(fresh, pid)
    kernel = fresh.nodes()[node]["kernel_pid"]
    os.kill(kernel, signal.SIGKILL)
    wait_for(lambda: fresh.nodes()[node], lambda n: n["kernel_pid"] not in (0, kernel) and n["state"] == "ready", "the kernel is back")
    record = running(fresh, pid)
    assert (record["node"], record["incarnation"]) == (node, 1)
    assert os.path.exists(f"/proc/{program}")
    assert fresh.nodes()[node]["incarnation"] == 1
    fresh.unios("kill", "--node", node, str(pid))
    assert fresh.unios("wait", str(pid), check=False).returncode == 143


def test_output_goes_on_over_the_death_of_the_kernel(fresh: System) -> None:
    pid = fresh.run_detached("sh", "-c", "for i in $(seq 1 40); do echo line $i; sleep 0.05; done")
    node = running(fresh, pid)["node"]
    kernel = fresh.nodes()[node]["kernel_pid"]
    with fresh.start("logs", "-f", str(pid), stdout=subprocess.PIPE, bufsize=0) as reader:
        assert reader.stdout is not None
        first = b"".join(reader.stdout.readline() for _ in range(5))
        os.kill(kernel, signal.SIGKILL)
        rest, _ = reader.communicate(timeout=30)
    assert (first + rest).decode() == "".join(f"line {i}\n" for i in range(1, 41))


def test_a_lost_nodes_sleeper_runs_elsewhere_with_the_same_pid(fresh: System) -> None:
    pid = fresh.run_detached("sleep", "1000")
    node = running(fresh, pid)["node"]
    fresh.power_cut(node)
    record = fresh.wait_process(pid, lambda p: p["state"] == "running" and p["incarnation"] == 2, "runs again")
    assert record["node"] != node
    assert fresh.nodes()[node]["state"] == "lost"
    assert fresh.unios("run", "--node", record["node"], "--", "true").returncode == 0
    fresh.unios("up")
    assert fresh.nodes()[node]["state"] == "ready"
    assert fresh.process(pid)["incarnation"] == 2


def test_the_node_that_hosts_the_store_may_be_lost(fresh: System) -> None:
    """Another node of the machine starts the store again. What was pinned to the lost node waits for it, what was not runs elsewhere."""
    host = next(name for name in fresh.nodes() if part(fresh, name, "store"))
    pinned = fresh.run_detached("sleep", "1000", options=("--on", host))
    assert running(fresh, pinned)["node"] == host
    fresh.power_cut(host)
    record = fresh.wait_process(pinned, lambda p: p["incarnation"] == 2, "is claimed")
    assert (record["state"], record["node"]) == ("pending", "") and host in record["reason"], record
    others = [name for name in ("n1", "n2", "n3") if name != host]
    assert any(part(fresh, name, "store") for name in others)
    for name in others:
        assert fresh.unios("run", "--node", name, "--", "true").returncode == 0
    record = fresh.process(pinned)
    assert (record["state"], record["node"], record["incarnation"]) == ("pending", "", 2), record
    fresh.unios("up")
    record = running(fresh, pinned)
    assert (record["node"], record["incarnation"]) == (host, 2)


@pytest.mark.parametrize("name", ["placement", "recovery", "guard", "store", "supervisor", "kernel"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_each_part_is_replaced_when_it_is_killed_or_hangs(fresh: System, name: str, number: signal.Signals) -> None:
    sleeper = fresh.run_detached("sleep", "1000")
    running(fresh, sleeper)
    node = next(n for n in ("n1", "n2", "n3") if part(fresh, n, name))
    before = part(fresh, node, name)
    os.kill(before, number)

    def successor() -> int:
        return next((pid for n in ("n1", "n2", "n3") if (pid := part(fresh, n, name)) and (name == "store" or n == node) and pid != before), 0)

    wait_for(successor, bool, f"{name} is replaced")
    assert fresh.unios("run", "--", "sh", "-c", "exit 3", check=False).returncode == 3
    record = fresh.wait_process(sleeper, lambda p: p["state"] == "running", "still runs")
    assert record["incarnation"] == 1, record


def test_supervisor_and_guard_killed_at_once_have_successors(fresh: System) -> None:
    sleeper = fresh.run_detached("sleep", "1000", options=("--on", "n2"))
    running(fresh, sleeper)
    killed = [part(fresh, "n2", name) for name in ("supervisor", "guard")]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert fresh.unios("run", "--on", "n2", "--", "sh", "-c", "exit 3", check=False, timeout=20).returncode == 3
    assert not {0, *killed} & {part(fresh, "n2", name) for name in ("supervisor", "guard")}
    record = fresh.wait_process(sleeper, lambda p: p["state"] == "running", "still runs")
    assert record["incarnation"] == 1, record


def test_a_killed_init_takes_its_tree_and_the_record_says_so(fresh: System) -> None:
    pid = fresh.run_detached("sleep", "1000", options=("--restart", "never"))
    node = running(fresh, pid)["node"]
    program = program_of(fresh, pid)
    tree = json.loads((fresh.home / f"home/nodes/{node}/trees/{pid}.1/tree.json").read_text())
    os.kill(tree["init_pid"], signal.SIGKILL)
    record = fresh.wait_process(pid, lambda p: p["state"] == "lost", "is lost")
    assert "init" in record["reason"] and "never" in record["reason"]
    assert not os.path.exists(f"/proc/{program}") or Path(f"/proc/{program}/stat").read_text().split()[2] == "Z"


def test_restart_policies(fresh: System) -> None:
    again = fresh.run_detached("sh", "-c", "exit 3", options=("--restart", "on-failure", "--restarts-max", "2"))
    record = fresh.wait_process(again, lambda p: p["state"] == "exited" and p["incarnation"] == 3, "was started three times")
    assert record["exit_code"] == 3
    assert fresh.unios("wait", str(again), check=False).returncode == 3
    once = fresh.run_detached("sh", "-c", "exit 3", options=("--restart", "never"))
    assert fresh.unios("wait", str(once), check=False).returncode == 3
    assert fresh.process(once)["incarnation"] == 1
    stopped = fresh.run_detached("sleep", "1000", options=("--restart", "always"))
    running(fresh, stopped)
    fresh.unios("kill", str(stopped))
    assert fresh.unios("wait", str(stopped), check=False).returncode == 143
    assert fresh.process(stopped)["incarnation"] == 1


def test_policies_for_a_lost_node(fresh: System) -> None:
    never = fresh.run_detached("sleep", "1000", options=("--on", "n3", "--restart", "never"))
    stop = fresh.run_detached("sleep", "1000", options=("--on", "n3", "--on-partition", "stop"))
    for pid in (never, stop):
        running(fresh, pid)
    fresh.power_cut("n3")
    for pid, word in ((never, "never"), (stop, "stop")):
        record = fresh.wait_process(pid, lambda p: p["state"] == "lost", "is lost")
        assert "n3 was lost" in record["reason"] and word in record["reason"], record


def test_everything_killed_at_once_goes_on_with_up(fresh: System) -> None:
    pids = [fresh.run_detached("sleep", "1000") for _ in range(3)]
    for pid in pids:
        running(fresh, pid)
    for name in fresh.nodes():
        fresh.power_cut(name)
        break
    everything = [pid for node in ("n1", "n2", "n3") for pid in _pids(fresh, node)]
    for pid in everything:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    fresh.unios("up")
    for pid in pids:
        assert fresh.wait_process(pid, lambda p: p["state"] == "running", "runs again")["incarnation"] >= 2


def _pids(system: System, node: str) -> list[int]:
    from unios.kernel import linux_pids
    from unios.wire.home import Home

    return linux_pids.of_node(Home(system.home / "home").node(node))


def test_one_node_is_stopped_in_order_and_its_process_moves(fresh: System) -> None:
    pid = fresh.run_detached("sleep", "1000")
    node = running(fresh, pid)["node"]
    fresh.unios("down", "--node", node)
    record = fresh.wait_process(pid, lambda p: p["state"] == "running" and p["node"] != node, "runs elsewhere")
    assert record["incarnation"] == 2
    seen = fresh.nodes()[node]
    assert seen["state"] == "lost" and "stopped" in seen["reason"] and seen["pids"] == []
    fresh.unios("up")
    assert fresh.nodes()[node]["state"] == "ready"


def test_a_node_leaves_for_good(fresh: System) -> None:
    fresh.unios("leave", "--node", "n3")
    assert wait_for(lambda: fresh.nodes()["n3"]["state"], lambda state: state == "left", "n3 has left") == "left"
    fresh.unios("up")
    assert fresh.nodes()["n3"]["state"] == "left"


def test_two_systems_on_one_machine_do_not_collide(fresh: System) -> None:
    other = System()
    try:
        other.unios("up", "--nodes", "2")
        assert other.unios("run", "--", "sh", "-c", "exit 5", check=False).returncode == 5
        pid = other.run_detached("sleep", "1000")
        assert all(p["pid"] != pid or p["argv"] != ["sleep", "1000"] for p in fresh.json("ps"))
    finally:
        other.close()
    assert fresh.unios("run", "--", "true").returncode == 0


def test_more_nodes_join_a_running_system(fresh: System) -> None:
    fresh.unios("up", "--nodes", "4")
    nodes = fresh.nodes()
    assert sorted(nodes) == ["n1", "n2", "n3", "n4"] and nodes["n4"]["state"] == "ready"
    assert fresh.unios("run", "--node", "n4", "--", "sh", "-c", "exit 4", check=False).returncode == 4
