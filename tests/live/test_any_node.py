"""Any node orders any other (DYSEAC, 1954); what is laid down once is read everywhere; a node that is cut off says how old what it says is.

That no node is needed for it, the first included, is shown where each dies in turn (test_etcd.py, docs/deaths.md).
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.system import wait_for
from tests.live.machines import Lab, Machine

pytestmark = pytest.mark.live

SUBMIT = """
import json, sys
from unios.client import processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.wire.operations import Program
with Connection() as connection:
    programs = [
        Program(argv=(b"/bin/sh", b"-c", f"sleep 0.3; exit {code}".encode()), node=node, resources=Resources(cpu_milli=0))
        for code, node in enumerate(sys.argv[1:], 1)
    ]
    print(json.dumps([processes.submit(connection, program).pid for program in programs]))
"""
WAIT = """
import json, sys
from unios.client import processes
from unios.client.connection import Connection
with Connection() as connection:
    views = [processes.wait(connection, int(pid), timeout_s=60) for pid in sys.argv[1:]]
print(json.dumps([[view.node, view.state, view.exit_code] for view in views]))
"""

LATEST = """
import concurrent.futures
from unios.client.connection import Connection
from unios.client.processes import placement_of
from unios.errors import UniosError
from unios.wire.operations import ListProcesses
from unios.wire.queueing import AskRules
def told(asks):
    try:
        asks(Connection())
        return "answered"
    except UniosError as error:
        return error.code
asked = (
    lambda connection: connection.call("processes.list", ListProcesses(), object),
    lambda connection: placement_of(connection).call("policy", AskRules(), object, timeout_s=20),
    lambda connection: placement_of(connection).call("quotas", AskRules(), object, timeout_s=20),
)
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(*pool.map(told, asked))
"""
"""Once, where the commands ask again for a while."""


def every_pair(machines: list[Machine]) -> None:
    """Have each machine start a process on each, and each wait for all of them: every submitter, executor and waiter."""
    nodes = [f"n{machine.number}" for machine in machines]
    pids = [pid for submitter in machines for pid in json.loads(submitter.run(sys.executable, "-c", SUBMIT, *nodes).stdout)]
    wanted = [[node, "exited", code] for _submitter in machines for code, node in enumerate(nodes, 1)]
    for waiter in machines:
        assert json.loads(waiter.run(sys.executable, "-c", WAIT, *map(str, pids)).stdout) == wanted, waiter.name


def policy(machine: Machine, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = machine.json("policy", *words)
    return found


def stale_ms(machine: Machine) -> int:
    """Return how old what the status of a machine says is."""
    return int(json.loads(machine.unios("status", "--json", check=False).stdout)["stale_ms"])


def test_any_node_orders_any_other_what_is_laid_down_once_is_read_everywhere_and_who_cannot_know_says_so(three: Lab) -> None:
    every_pair(three.machines)
    first, second, third = three.machines
    for name, setter in (("pack", third), ("spread", second)):
        setter.unios("policy", name)
        assert [policy(machine)["name"] for machine in three.machines] == [name] * 3, "the next read, anywhere, is of what was acknowledged"
    third.unios("quota", "somebody", "--processes", "7")
    assert [machine.json("quota", "somebody")[0]["processes"] for machine in three.machines] == [7] * 3
    pid = int(json.loads(first.unios("run", "-d", "--json", "--on", "n2", "--", "sleep", "1000").stdout)["pid"])
    known = wait_for(lambda: third.json("ps", "--stale"), lambda those: pid in [one["pid"] for one in those], "n3 knows of it")
    assert {one["stale_ms"] for one in known} == {0} and stale_ms(third) == 0 and policy(third, "--stale")["stale_ms"] == 0

    third.cut_from(first, second)
    wait_for(lambda: stale_ms(third), bool, "n3 says that it is cut off")
    refused = third.start(sys.executable, "-c", LATEST, stdout=subprocess.PIPE)
    first.unios("policy", "pack")
    says_its_age(third, pid)
    assert refused.communicate(timeout=60)[0].split() == [b"unavailable"] * 3, "who asks for the latest gets it or nothing"
    third.heal()
    wait_for(lambda: stale_ms(third), lambda age_ms: not age_ms, "n3 hears from the store again", 30)
    assert policy(third)["name"] == "pack" and "stale" not in third.unios("nodes").stdout.decode()
    assert {one["stale_ms"] for one in third.json("ps")} <= {0}


def says_its_age(cut_off: Machine, pid: int) -> None:
    """Whatever a node says that is cut off is what it knew, with its age, in text and in JSON."""
    listed = cut_off.json("ps", "--stale")
    assert pid in [one["pid"] for one in listed] and min(one["stale_ms"] for one in listed) > 0
    assert min(one["stale_ms"] for one in cut_off.json("nodes")) > 0
    laid_down = policy(cut_off, "--stale")
    assert laid_down["name"] == "spread" and laid_down["stale_ms"] > 0
    assert cut_off.json("quota", "somebody", "--stale")[0]["processes"] == 7
    for words in (("ps", "--stale"), ("nodes",), ("status",), ("policy", "--stale"), ("quota", "--stale")):
        assert "stale: " in cut_off.unios(*words, check=False).stdout.decode(), words
