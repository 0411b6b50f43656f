"""Rigs: real systems of three nodes to run workloads on and to break: nodes that share this machine, or pseudo-machines; with either engine."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.e2e.system import UNIOS, System, wait_for
from tests.histories.client import Task
from tests.live.machines import Lab, Machine
from tests.live.witness import Witness
from tests.standstill import signal_all, stop_all
from unios.kernel import linux_pids
from unios.wire.home import NodeFolder

ROOT = Path(__file__).resolve().parents[2]
UP_S = 60.0
PARTS = ("kernel", "supervisor", "guard", "store", "placement", "recovery", "locks", "member")


class Rig:
    """Three nodes. `nodes` are their names."""

    nodes: tuple[str, ...] = ("n1", "n2", "n3")
    cuts = False
    """Whether the network between the nodes can be cut."""
    witness: Witness

    def client(self, task: Task) -> "subprocess.Popen[bytes] | None":
        """Start a client on a node, and tell it what to do; None while the node's machine is down."""
        raise NotImplementedError

    def home(self, node: str) -> str:
        raise NotImplementedError

    def parts(self, node: str) -> dict[str, int]:
        """Return the Linux pids of the node's parts that are known, as this process sees them."""
        raise NotImplementedError

    def everything(self, node: str) -> list[int]:
        """Return all Linux processes of the node, or of its machine."""
        raise NotImplementedError

    def cut_power(self, node: str) -> None:
        raise NotImplementedError

    def power_up(self, node: str) -> None:
        """Have the node there again."""
        raise NotImplementedError

    def cut(self, node: str) -> None:
        """Cut the node from the others."""
        raise NotImplementedError

    def heal(self, node: str) -> None:
        raise NotImplementedError

    def states(self) -> dict[str, str]:
        """Return what the system says of its nodes."""
        raise NotImplementedError

    def story(self) -> str:
        """Return what the system says of the processes that have not ended: for whoever reads of a run that is bad."""
        return ""

    def wait_whole(self) -> None:
        """Return when all nodes are ready."""
        wait_for(self.states, lambda found: [found.get(node) for node in self.nodes] == ["ready"] * len(self.nodes), "all nodes are ready", UP_S)


def _parts(run: Path) -> dict[str, int]:
    found = {}
    for part in PARTS:
        with contextlib.suppress(OSError, ValueError, KeyError):
            found[part] = int(json.loads((run / f"{part}.json").read_bytes())["pid"])
    return found


def _tell(running: "subprocess.Popen[bytes]", task: Task) -> "subprocess.Popen[bytes]":
    assert running.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        running.stdin.write(msgspec.json.encode(task) + b"\n")
        running.stdin.flush()
    return running


class Together(Rig):
    """Nodes of one machine."""

    def __init__(self, system: System, witness: Witness) -> None:
        self._system, self.witness = system, witness
        self._home = system.home / "home"

    def home(self, node: str) -> str:
        return str(self._home)

    def client(self, task: Task) -> "subprocess.Popen[bytes] | None":
        env = {**self._system.env, "UNIOS_NODE": task.node, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        words = [sys.executable, "-m", "tests.histories.client"]
        return _tell(subprocess.Popen(words, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE), task)

    def story(self) -> str:
        listed = self._system.unios("ps", "--json", check=False).stdout
        whys = [self._system.unios("ps", "--why", str(one["pid"]), check=False).stdout.decode() for one in json.loads(listed or b"[]")]
        linux = subprocess.run(["ps", "-eo", "pid,ppid,stat,wchan:20,etimes,args"], capture_output=True, text=True, check=False).stdout
        mine = {str(pid) for node in self.nodes for pid in self.everything(node)}
        return "\n".join([*whys, *(line for line in linux.splitlines() if line.split(maxsplit=1)[0] in mine)])

    def parts(self, node: str) -> dict[str, int]:
        return _parts(self._home / "nodes" / node / "run")

    def everything(self, node: str) -> list[int]:
        return linux_pids.of_node(NodeFolder(self._home / "nodes" / node), linux_pids.parents())

    def cut_power(self, node: str) -> None:
        """All of it stands still before any of it dies: with power nothing sees the end of another."""
        signal_all(signal.SIGKILL, stop_all(lambda: self.everything(node)))

    def power_up(self, node: str) -> None:
        self._system.unios("up", check=False)

    def states(self) -> dict[str, str]:
        done = self._system.unios("nodes", "--json", check=False)
        return {one["name"]: one["state"] for one in json.loads(done.stdout)} if done.returncode == 0 else {}


class Apart(Rig):
    """A node on each of three pseudo-machines."""

    cuts = True

    def __init__(self, lab: Lab, witness: Witness) -> None:
        self._lab, self.witness = lab, witness
        self._machines: dict[str, Machine] = dict(zip(self.nodes, lab.machines, strict=True))

    def home(self, node: str) -> str:
        return Machine.home

    def client(self, task: Task) -> "subprocess.Popen[bytes] | None":
        machine = self._machines[task.node]
        if not machine.is_up:
            return None
        env = [f"PYTHONPATH={ROOT / 'src'}:{ROOT}", f"UNIOS_NODE={task.node}"]
        words = machine.command("env", *env, sys.executable, "-m", "tests.histories.client")
        return _tell(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE), task)

    def parts(self, node: str) -> dict[str, int]:
        machine = self._machines[node]
        inside = _parts(Path(f"/proc/{machine.pid}/root{Machine.home}/nodes/{node}/run"))
        outside = {_inner(pid): pid for pid in machine.pids()}
        return {part: outside[pid] for part, pid in inside.items() if pid in outside}

    def everything(self, node: str) -> list[int]:
        return self._machines[node].pids()

    def cut_power(self, node: str) -> None:
        self._machines[node].die()

    def power_up(self, node: str) -> None:
        machine = self._machines[node]
        if not machine.is_up:
            machine.boot()
        machine.unios("up", check=False)

    def cut(self, node: str) -> None:
        machine = self._machines[node]
        machine.cut_from(*(other for other in self._lab.machines if other is not machine))

    def heal(self, node: str) -> None:
        self._machines[node].heal()

    def states(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, machine in self._machines.items():
            done = machine.run(UNIOS, "nodes", "--json", check=False) if machine.is_up else None
            if done is None or done.returncode:
                return {}
            said = {one["name"]: one["state"] for one in json.loads(done.stdout)}
            found[name] = "ready" if all(said.get(node) == "ready" for node in self.nodes) else f"{name} says {said}"
        return found


def _inner(pid: int) -> int:
    """Return the pid that a process has in its own namespace, or in that of its machine."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return int(numbers[1] if len(numbers) > 1 else numbers[0])
    return 0


@contextlib.contextmanager
def together(engine: str = "") -> Iterator[Rig]:
    """Three nodes of this machine; `engine`: "etcd", or the embedded one."""
    with System() as system:
        witness = Witness(None, system.home)
        try:
            system.unios("up", "--nodes", "3", *(("--store", engine) if engine else ()))
            yield Together(system, witness)
        finally:
            witness.close()


@contextlib.contextmanager
def apart(engine: str = "") -> Iterator[Rig]:
    """Three pseudo-machines; with "etcd" each has a member before this returns."""
    lab = Lab(3)
    witness = None
    try:
        witness = Witness(lab._switch.pid, lab.folder)
        first, *others = lab.machines
        first.unios("up", "--listen", first.address, *(("--store", engine) if engine else ()))
        for machine in others:
            machine.unios("join", first.json("join", "--root")["token"])
        if engine:
            wait_for(
                lambda: sum("keeps the store as well" in one["text"] for one in first.json("events")), lambda count: count == 2, "three vote", 90
            )
        yield Apart(lab, witness)
    finally:
        for machine in reversed(lab.machines):
            if machine.is_up:
                machine.unios("down", "--all", check=False)
        if witness is not None:
            witness.close()
        lab.close()


RIGS = {"together": together, "apart": apart}
