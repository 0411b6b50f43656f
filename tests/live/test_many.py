"""A node with a great many processes: too long for the default run. `./test -m long`."""

import os
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e import rest
from tests.e2e.system import System, wait_for
from tests.e2e.test_resource_hard_days import BOMB, FORKS, output
from tests.e2e.test_resources import bounded
from unios.client import nodes, processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.wire.operations import Program

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with rest.two_nodes() as made:
        yield made


@pytest.fixture
def even(system: System) -> Iterator[None]:
    with rest.even(system, 60):
        yield


def test_a_thousand_processes_at_once_on_one_node(system: System, even: None) -> None:
    program = Program(argv=(b"sleep", b"1000"), env=tuple(os.environb.items()), node="n1", resources=Resources(cpu_milli=0))
    with Connection(system.home / "home") as connection:
        pids = [processes.submit(connection, program).pid for _ in range(1_000)]

        def states() -> Counter[str]:
            return Counter(view.state for view in processes.list_processes(connection) if view.pid in set(pids))

        wait_for(states, lambda seen: seen["running"] == 1_000, "all run", 60)
        assert len(nodes.usage(connection, "n1").processes) == 1_000
        assert system.unios("run", "--on", "n1", "echo", "here").stdout == b"here\n"
        for pid in pids:
            processes.signal(connection, pid, 9)
        assert {processes.wait(connection, pid).exit_code for pid in pids} == {137}


def test_a_program_with_ten_thousand_children(system: System, even: None) -> None:
    bounded(system, "pids")
    pid = system.run_detached(sys.executable, "-S", "-c", FORKS, "10000", options=("--on", "n1", "--tasks", "12000"))
    assert "children 10000" in wait_for(lambda: output(system, pid), lambda text: "children" in text, "it has forked", 120)
    assert system.unios("run", "--on", "n1", "echo", "here").stdout == b"here\n"
    system.unios("kill", "-s", "KILL", str(pid))
    assert system.unios("wait", str(pid), check=False).returncode == 137


def test_a_program_that_forks_without_end_up_to_a_large_bound(system: System, even: None) -> None:
    bounded(system, "pids")
    pid = system.run_detached(sys.executable, "-S", "-c", BOMB, options=("--on", "n1", "--tasks", "1000"))

    def size() -> int:
        with Connection(system.home / "home") as connection:
            return max((one.linux_processes for one in nodes.usage(connection, "n1").processes), default=0)

    wait_for(size, lambda found: found > 950, "it is at its bound", 60)
    assert system.unios("run", "--on", "n1", "echo", "here").stdout == b"here\n"
    system.unios("kill", "-s", "KILL", str(pid))
    assert system.unios("wait", str(pid), check=False).returncode == 137
    assert not [event for event in system.json("events") if event["kind"] == "service"], "a part of the node was taken for hung"
