"""A machine that boots with systemd: its nodes are there again after `unios enable`, and go in order when they are told to."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.system import wait_for
from tests.live import rebooting
from tests.live.rebooting import Rebooting

pytestmark = [pytest.mark.live, pytest.mark.skipif(bool(rebooting.missing()), reason=rebooting.missing())]


@pytest.fixture
def machine() -> Iterator[Rebooting]:
    made = Rebooting()
    try:
        made.boot()
        yield made
    finally:
        made.close()


def processes(machine: Rebooting) -> dict[int, dict[str, Any]]:
    done = machine.unios("ps", "--all", "--json", check=False)
    return {view["pid"]: view for view in json.loads(done.stdout)} if done.returncode == 0 else {}


def test_what_ran_when_the_power_went_runs_again_when_the_machine_is_back(machine: Rebooting) -> None:
    machine.unios("up", "--nodes", "2")
    assert b"the next boot starts them" in machine.unios("enable").stdout
    runs = int(machine.unios("run", "-d", "--on", "n1", "sleep", "1000").stdout)
    said = int(machine.unios("run", "-d", "--on", "n2", "echo", "before the power went").stdout)
    wait_for(lambda: processes(machine), lambda seen: seen[said]["state"] == "exited" and seen[runs]["state"] == "running", "one has ended")
    machine.power_cut()
    machine.boot()
    seen = wait_for(
        lambda: processes(machine),
        lambda seen: bool(seen) and seen[runs]["state"] == "running" and seen[runs]["incarnation"] == 2,
        "it runs again",
        60,
    )
    assert seen[said]["state"] == "exited"
    assert machine.unios("logs", str(said)).stdout == b"before the power went\n"
    assert b"all is well" in machine.unios("status").stdout
    (unit,) = [line.split()[0] for line in machine.run("systemctl", "list-units", "--no-legend", "--plain", "unios-*").stdout.decode().splitlines()]
    machine.run("systemctl", "stop", unit)
    assert machine.unios("ps", check=False).returncode == 75, "stopped in order, nothing runs"
    assert b"unios:" not in machine.run("ps", "-eo", "args").stdout
    machine.run("systemctl", "start", unit)
    assert b"all is well" in machine.unios("status").stdout


def test_who_is_no_longer_enabled_does_not_come_back(machine: Rebooting) -> None:
    machine.unios("up")
    machine.unios("enable")
    machine.unios("disable")
    machine.power_cut()
    machine.boot()
    assert machine.unios("ps", check=False).returncode == 75
