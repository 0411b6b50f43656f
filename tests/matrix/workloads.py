"""What goes on while a fault holds. To add one: a program in drivers/ that uses `work.repeat`, and a line in WORKLOADS."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

from tests.e2e.system import UNIOS, wait_for
from tests.live.machines import Machine
from tests.matrix.world import World, node

STOP: Final = "/var/matrix.stop"
REPORTED: Final = frozenset({"unavailable", "no-room", "disk-full", "outcome-unknown", "peer-restarted", "lease-lost", "data-lost"})
"""Errors that tell what was lost, or that nothing was done. What is none of these and not "ok" is a defect."""
ENDS_S: Final = 120
"""Longer than any driver waits for anything."""


@dataclass(frozen=True)
class Workload:
    """`program`: its driver. `steps`: the names of what it repeats. `beside`: so many of it at a time. `server`: a driver that runs as a process of the system."""

    name: str
    program: str
    steps: tuple[str, ...]
    beside: int = 1
    server: str = ""


WORKLOADS: Final = (
    Workload("processes", "processes", ("bound", "free")),
    Workload("calls", "calls", ("once", "idempotent"), server="server"),
    Workload("tasks", "tasks", ("map",)),
    Workload("locks", "locks", ("lock",), beside=2),
    Workload("carries", "carries", ("carry",)),
)


class Step(NamedTuple):
    """One step of a driver: its workload and name, when it began and ended (CLOCK_MONOTONIC, one for all machines), and how."""

    name: str
    began: float
    ended: float
    how: str
    text: str


class Running:
    """The drivers of all workloads on one machine, and the servers that they need."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._world, self._machine = world, machine
        machine.run("rm", "-f", STOP, STOP + ".guarded")
        self._servers = [_serve(world, each.server) for each in WORKLOADS if each.server]
        self._drivers: list[tuple[str, subprocess.Popen[bytes], IO[bytes]]] = []
        for each in WORKLOADS:
            for number in range(each.beside):
                self._begin(each, number)
        self.expected = {f"{each.name} {number}: {step}" for each in WORKLOADS for number in range(each.beside) for step in each.steps}

    def _begin(self, workload: Workload, number: int) -> None:
        told = (self._world.lab.folder / f"{workload.name}.{number}").open("ab")
        words = [
            "env",
            f"MATRIX_STOP={STOP}",
            f"MATRIX_VICTIM={node(self._world.victim)}",
            sys.executable,
            "-m",
            f"tests.matrix.drivers.{workload.program}",
        ]
        driver = subprocess.Popen(self._machine.command(*words), stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.STDOUT)
        self._drivers.append((f"{workload.name} {number}", driver, told))

    def steps(self) -> list[Step]:
        """Return every step that has ended, and as "alien" what a driver said besides."""
        found = []
        for name, _driver, told in self._drivers:
            said = Path(told.name).read_bytes()  # by its name: who reads through what the driver writes to moves the place where it writes
            for line in said.decode(errors="replace").splitlines(keepends=True):
                if not line.endswith("\n"):
                    continue
                try:
                    fields = json.loads(line)
                    found.append(Step(f"{name}: {fields['name']}", fields["began"], fields["ended"], fields["how"], fields["text"]))
                except (ValueError, TypeError, KeyError):
                    found.append(Step(f"{name}: stray", 0, 0, "alien", line.strip()))
        return found

    def silent_since(self, moment: float) -> set[str]:
        """Return the steps of which none that began after `moment` has succeeded."""
        return self.expected - {step.name for step in self.steps() if step.how == "ok" and step.began > moment}

    def wait_for_all(self, moment: float, timeout_s: float) -> str:
        """Wait until every step has succeeded again after `moment`; return which have not."""
        deadline = time.monotonic() + timeout_s
        while (silent := self.silent_since(moment)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return ", ".join(sorted(silent))

    def stop(self) -> list[str]:
        """Let the drivers end what they do, end the servers; return those that did not end by themselves."""
        self._machine.run("touch", STOP)
        hung, deadline = [], time.monotonic() + ENDS_S
        for name, driver, _told in self._drivers:
            try:
                driver.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                hung.append(name)
                driver.kill()
                driver.wait()
        for pid in self._servers:
            self._world.observer.unios("kill", "-KILL", str(pid), check=False)
        return hung


def _serve(world: World, program: str) -> int:
    """Start a server on the victim, if the placement of the day can be led there, free to move; return its pid once it serves."""
    weights = [start(world, "sleep", "1000", on=name) for name in ("n1", "n3")]
    pid = start(world, sys.executable, "-m", f"tests.matrix.drivers.{program}")
    for weight in weights:
        world.observer.unios("kill", str(weight))
    wait_for(lambda: process(world, pid)["state"], lambda state: state == "running", "the server runs", 30)
    return pid


def start(world: World, *words: str, on: str = "") -> int:
    """Start a process that needs little; return its pid."""
    where = ("--on", on) if on else ()
    done = world.observer.run(UNIOS, "run", "-d", "--json", "--cpus", "0.1", *where, "--", *words)
    return int(json.loads(done.stdout)["pid"])


def process(world: World, pid: int) -> dict[str, object]:
    found: dict[str, object] = next(one for one in json.loads(world.observer.unios("ps", "-a", "--json").stdout) if one["pid"] == pid)
    return found
