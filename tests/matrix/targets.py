"""What a fault can hit: each process of a system, and the machine as a whole. To add one: a line in TARGETS.

`pids` are as the machine numbers them. `ports`: the TCP ports of its talk with other machines; None if it has no network of its own. `records`: files, below
UNIOS_HOME, from which a successor learns what was; the parts `readers` are killed with it, so that somebody has to read them.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.system import wait_for
from tests.live.machines import Machine
from tests.matrix.world import World, node

ENGINES: Final = ("sqlite", "etcd")
LINK_PORT: Final = 7117


@dataclass(frozen=True)
class Target:
    """`on` is the machine that has it (an attribute of World: victim, founder, keeper, locks). `whole`: the machine itself.
    `not_here`: why a fault, by name, cannot hit it alone. `beyond`: what `unios status` on its machine has to say of a
    fault of which no system can recover by itself."""

    name: str
    on: str = "victim"
    pids: Callable[[World, Machine], Sequence[int]] = lambda _world, _machine: ()
    ports: Callable[[World], Sequence[int]] | None = None
    records: tuple[str, ...] = ()
    readers: tuple[str, ...] = ("supervisor",)
    engines: tuple[str, ...] = ENGINES
    whole: bool = False
    not_here: dict[str, str] = field(default_factory=dict)
    beyond: dict[str, str] = field(default_factory=dict)

    def machine(self, world: World) -> Machine:
        found: Machine = getattr(world, self.on)
        return found


def part(name: str) -> Callable[[World, Machine], Sequence[int]]:
    return lambda world, machine: [pid] if (pid := world.part(machine, name)) else []


def zygote(world: World, machine: Machine) -> Sequence[int]:
    """The child of the guard that is no init: it is in the machine's pid namespace itself."""
    guard = world.part(machine, "guard")
    children = machine.run("cat", f"/proc/{guard}/task/{guard}/children").stdout.split()
    spaces = {pid: machine.run("readlink", f"/proc/{int(pid)}/ns/pid", check=False).stdout for pid in (*children, str(guard).encode())}
    return [int(pid) for pid in children if spaces[pid] == spaces[str(guard).encode()]]


def sitter_init(world: World, machine: Machine) -> Sequence[int]:
    """The init of the process that sits on the victim during every cell."""
    text = machine.run("sh", "-c", f"cat {machine.home}/nodes/{node(machine)}/trees/{world.sitter}.*/tree.json").stdout
    return [int(json.loads(text)["init_pid"])]


def members(which: int) -> Callable[[World], Sequence[int]]:
    """The ports of all members: for each other (0) or for gateways (1)."""

    def ports(world: World) -> Sequence[int]:
        found = []
        for machine in world.lab.machines:
            done = machine.run("cat", f"{machine.home}/nodes/{node(machine)}/etcd/offer.json", check=False)
            if done.returncode == 0:
                offer = json.loads(done.stdout)
                found.append(int(offer[("peer", "client")[which]]))
        return found

    return ports


def porter(world: World, machine: Machine) -> Sequence[int]:
    """One that lays a folder out or collects from it just now; there is one only while it works."""
    return wait_for(lambda: world.named(machine, sys.executable, "unios.kernel.porter"), bool, "a porter works", 30)


def etcd(world: World, machine: Machine) -> Sequence[int]:
    return world.named(machine, shutil.which("etcd") or "etcd") or world.named(machine, "etcd")


_NESTED: Final = "its wall clock is its machine's: see there"
_GO: Final = "etcd asks Linux for the time and not libc, where the clock is moved"
_BRIEF: Final = "it lives for a moment, and has done its work before this would be felt"

TARGETS: Final = (
    Target("supervisor", pids=part("supervisor"), records=("nodes/{node}/run/supervisor.json",)),
    Target("guard", pids=part("guard"), records=("nodes/{node}/run/guard.json",)),
    Target("kernel", pids=part("kernel"), ports=lambda _world: [LINK_PORT], records=("nodes/{node}/run/kernel.json", "nodes/{node}/lease")),
    Target("placement", pids=part("placement"), records=("nodes/{node}/run/placement.json",)),
    Target("recovery", pids=part("recovery"), records=("nodes/{node}/run/recovery.json",)),
    Target("locks", on="locks", pids=part("locks"), records=("nodes/{node}/run/locks.json",)),
    Target("store", on="keeper", pids=part("store"), records=("store/store.db",), engines=("sqlite",), beyond={"corrupt record": "store.db"}),
    Target("gateway", on="keeper", pids=part("store"), ports=members(1), records=("store/cluster.json",), engines=("etcd",)),
    Target("member", pids=part("member"), engines=("etcd",)),
    Target("etcd", pids=etcd, ports=members(0), records=("nodes/{node}/etcd/*/member/wal/*.wal",), engines=("etcd",), not_here={"clock": _GO}),
    Target("zygote", pids=zygote),
    Target("init", pids=sitter_init, records=("nodes/{node}/trees/{sitter}.*/tree.json",), readers=("guard",), not_here={"clock": _NESTED}),
    Target("porter", pids=porter, not_here={"clock": _BRIEF, "slow disk": _BRIEF}),
    Target("machine", whole=True, records=("nodes/{node}/node.json",)),
    Target("first machine", on="founder", whole=True, records=("system.json",)),
)
