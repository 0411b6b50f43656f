"""A system on three pseudo-machines for cells to break: m1 founded it, m2 is the one that suffers, m3 looks on. Built once, used until a cell breaks it."""

import collections
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.e2e.system import wait_for
from tests.live import machines
from tests.live.machines import Lab, Machine, lab

CHECKOUT: Final = Path(__file__).resolve().parent.parent.parent
PARTS: Final = ("supervisor", "guard", "kernel", "placement", "recovery", "locks", "store", "member")
FORKS: Final = "guards, zygotes and inits with a job"
"""They are forks of one another and look alike."""
DISK_MIB: Final = 512
"""With etcd's log there is room for carried folders still."""
WHOLE_S: Final = 60
"""A system that is not whole so long after the fault has gone does not heal by itself."""


def missing(engine: str) -> str:
    """Return why no such world can be built here, or nothing."""
    if why := machines.missing():
        return why
    return "needs etcd and grpcio" if engine == "etcd" and not (shutil.which("etcd") and find_spec("grpc")) else ""


class World:
    """The system. `founder`, `victim` and `observer` are its machines."""

    def __init__(self, built: Lab, engine: str) -> None:
        self.lab, self.engine = built, engine
        self.founder, self.victim, self.observer = built.machines
        self.sitter = 0
        """A process that sits on the machine that suffers, while a cell is played."""
        self._own_groups: set[str] = set()
        """The names of the nodes' groups: the host has others' too."""
        self.told: list[str] = []
        """What a person was told while a fault was applied or taken back: it was reported."""

    @property
    def switch_pid(self) -> int:
        return self.lab._switch.pid

    @property
    def keeper(self) -> Machine:
        """The machine whose store process suffers: the one that has the embedded store, or one of the gateways to etcd."""
        return self.victim if self.engine == "etcd" else self.founder

    @property
    def locks(self) -> Machine:
        """The machine that has the manager of locks."""
        found = [machine for machine in self.lab.machines if machine.is_up and self.named(machine, "unios: locks ")]
        assert found, "nobody manages the locks"
        return found[0]

    def named(self, machine: Machine, beginning: str, within: str = "") -> list[int]:
        """Return the processes, as the machine numbers them, whose command line begins so and holds `within`."""
        lines = [line.split(maxsplit=1) for line in machine.run("ps", "-eo", "pid=,args=").stdout.decode(errors="replace").splitlines()]
        return [int(pid) for pid, words in lines if words.startswith(beginning) and within in words]

    def groups(self, machine: Machine) -> set[Path]:
        """Return the control groups of the machine's node."""
        text = machine.run("cat", f"{machine.home}/nodes/{node(machine)}/cgroup").stdout
        names = {Path(path).name for _kind, path in json.loads(text)}
        self._own_groups |= names
        return {path for path in machines.groups() if path.name in names}

    def host_pid(self, machine: Machine, pid: int) -> int:
        """Return a process of the machine as the host numbers it."""
        for found in machine.pids():
            with contextlib.suppress(OSError):
                numbers = next(line for line in Path(f"/proc/{found}/status").read_text().splitlines() if line.startswith("NSpid:")).split()[1:]
                if len(numbers) > 1 and int(numbers[1]) == pid:
                    return found
        raise ProcessLookupError(f"{machine.name} has no process {pid}")

    def part(self, machine: Machine, name: str) -> int:
        """Return the pid, as the machine numbers it, of a part of its node; 0 if it has none."""
        found = machine.run("cat", f"{machine.home}/nodes/{node(machine)}/run/{name}.json", check=False)
        return int(json.loads(found.stdout)["pid"]) if found.returncode == 0 else 0

    def status(self) -> dict[str, Any]:
        """Return `unios status` as the observer sees it, or why there is none."""
        done = self.observer.unios("status", "--json", check=False, timeout=30)
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {"well": False, "problems": [done.stderr.decode().strip() or "no answer"]}
        return found

    def says(self, machine: Machine, word: str) -> str:
        """Return what `unios status` on a machine says if that holds the word, else nothing."""
        done = machine.unios("status", check=False, timeout=30)
        said = (done.stdout + done.stderr).decode()
        return said if word in said else ""

    def ailing(self) -> str:
        """Return what keeps the system from being whole, or nothing."""
        now = self.status()
        states = {one["name"]: one["state"] for one in now.get("nodes", ())}
        if sorted(states) != ["n1", "n2", "n3"] or set(states.values()) != {"ready"}:
            return f"nodes {states or now.get('problems')}"
        if self.engine == "etcd" and len(now["keepers"]) != 3:
            return f"members {now['keepers']}"
        return "" if now["well"] else f"status is not well: {now['problems']}"

    def census(self) -> dict[str, int]:
        """Return how many there are of everything but spares, which may be more or fewer: processes by kind, mounts, control groups of trees."""
        counts: collections.Counter[str] = collections.Counter()
        spares: set[str] = set()
        for machine in self.lab.machines:
            for pid in machine.pids():
                words = machines.cmdline(pid).decode(errors="replace").replace("\0", " ").strip()
                if words:  # a zombie has none
                    counts[kind(words)] += 1
            root = Path(f"/proc/{machine.pid}")
            counts[f"mounts of {machine.name}"] = len((root / "mounts").read_text().splitlines())
            spares.update(os.listdir(root / f"root{machine.home}/nodes/{node(machine)}/spares"))
        counts[FORKS] -= 2 * len(spares)  # an init and its launcher
        counts["groups"] = len(
            {path.name for path in machines.groups("/*.[0-9]*") if path.is_dir() and path.parent.name in self._own_groups} - spares
        )
        return dict(counts)

    def calm(self) -> dict[str, int]:
        """Return the census of the system at rest: once it has been the same for two seconds."""
        seen: list[tuple[float, dict[str, int]]] = []

        def look() -> float:
            now = self.census()
            if not seen or seen[-1][1] != now:
                seen.append((time.monotonic(), now))
            time.sleep(0.2)
            return time.monotonic() - seen[-1][0]

        wait_for(look, lambda age: age > 2, "nothing starts or ends any more", 30)
        return seen[-1][1]


def kind(words: str) -> str:
    """Return what kind of process a command line is."""
    if words.startswith("unios: "):
        return words.split()[1]
    return FORKS if "unios.kernel.guard" in words else words[:80]


def node(machine: Machine) -> str:
    return f"n{machine.number}"


@contextlib.contextmanager
def world(engine: str) -> Iterator[World]:
    """Build one, and take it away."""
    with lab(3, DISK_MIB) as built:
        for machine in built.machines:
            machine.give_clock()
            machine.clock += (f"PYTHONPATH={CHECKOUT / 'src'}{os.pathsep}{CHECKOUT}",)
        made = World(built, engine)
        made.founder.unios("up", "--listen", made.founder.address, *(["--store", "etcd"] if engine == "etcd" else []))
        for machine in built.machines[1:]:
            machine.unios("join", made.founder.json("join", "--root")["token"])
        for machine in built.machines:
            made.groups(machine)
        _warm(made)
        wait_for(made.ailing, lambda why: not why, "the system is whole", 60)
        try:
            yield made
        finally:
            for machine in reversed(built.machines):
                if machine.is_up:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        machine.unios("down", "--all", check=False, timeout=30)


def _warm(made: World) -> None:
    """Have what is started at its first use: the manager of locks, and on each machine the service that copies what is said there."""
    for machine in made.lab.machines:
        made.founder.unios("run", "--on", node(machine), "echo", "first words")
        wait_for(lambda: made.named(machine, "unios: archive "), bool, "what is said is copied")  # noqa: B023
    made.victim.run(sys.executable, "-c", "import unios\nwith unios.Lock('matrix'): pass")
