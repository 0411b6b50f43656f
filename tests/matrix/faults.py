"""What can go wrong: each fault is applied to a target and taken back by what that returns. To add one: a line in FAULTS."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.live import machines
from tests.matrix import disks, networks
from tests.matrix.targets import Target
from tests.matrix.world import World
from tests.standstill import stop_all

Undo = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """`hold_s`: how long it lasts before it is taken back. `needs`: what a target must have to be hit: "process", "network", "disk" or "records"."""

    name: str
    apply: Callable[[World, Target], Undo]
    hold_s: float
    how: str
    needs: str = "process"
    stays: bool = True
    """Whether there is something to take back from a process; from a machine there always is."""
    not_here: str = ""
    """Why this machine cannot do it."""


def crash(world: World, target: Target) -> Undo:
    machine = target.machine(world)
    if not target.whole:
        _signal(world, target, signal.SIGKILL)
        return lambda: None
    dead = world.groups(machine)
    machine.die()
    machines.remove_groups(dead)  # the machines share the host's, where a dead one's would stay

    def power_on() -> None:
        machine.boot()
        machine.unios("up")

    return power_on


def pause(world: World, target: Target) -> Undo:
    machine = target.machine(world)
    if target.whole:
        pids = stop_all(machine.pids)
        return lambda: machine.signal_all(signal.SIGCONT, pids)
    stopped = _signal(world, target, signal.SIGSTOP)
    return lambda: _send(world, target, signal.SIGCONT, stopped)


def _signal(world: World, target: Target, number: int) -> list[int]:
    pids = list(target.pids(world, target.machine(world)))
    assert pids, f"{target.name} does not run"
    _send(world, target, number, pids)
    return pids


def _send(world: World, target: Target, number: int, pids: list[int]) -> None:
    target.machine(world).run("kill", f"-{number}", *map(str, pids), check=False)  # one that is gone meanwhile is gone


def jump(seconds: int) -> Callable[[World, Target], Undo]:
    """Put the wall clock ahead, or back, while everything runs."""

    def apply(world: World, target: Target) -> Undo:
        machine = target.machine(world)
        if target.whole:
            machine.set_clock(seconds)
            return lambda: machine.set_clock(0)
        pid = _signal(world, target, 0)[0]
        machine.set_clock(seconds, pid)
        return lambda: machine.set_clock(0, pid)

    return apply


HOUR_S: Final = 3600
_NO_BLKIO: Final = disks.missing_controller()

FAULTS: Final = (
    Fault("crash", crash, 5, "SIGKILL; a machine loses its power, and is powered on after that time", stays=False),
    Fault("pause", pause, 4, "SIGSTOP, then SIGCONT"),
    Fault("omission", networks.dropping(percent=30), 6, "30 % of its packets are dropped, in both directions (nftables)", needs="network"),
    Fault("partition", networks.dropping(), 5, "all are", needs="network"),
    Fault("one-way, not heard", networks.dropping(("output",)), 5, "all that it sends are", needs="network"),
    Fault("one-way, deaf", networks.dropping(("input",)), 5, "all that it is sent are", needs="network"),
    Fault("flapping", networks.by_turns(networks.flaps, 0.7), 7, "cut off and not, every 0.7 s", needs="network"),
    Fault(
        "swizzled",
        networks.by_turns(networks.swizzle, 1.5),
        9,
        "cut off from one machine after the other, then let back in another order",
        needs="network",
    ),
    Fault(
        "slow link",
        networks.slow(100),
        6,
        "each frame is held for 100 ms in each direction (a relay in user space: netem is missing)",
        needs="network",
    ),
    Fault(
        "slow disk",
        disks.slow(20),
        6,
        "20 writes a second (block controller of cgroup v1; a process's own writes, not the journal's)",
        not_here=_NO_BLKIO,
    ),
    Fault("disk full", disks.fill, 6, "the machine's disk, to the last byte", needs="disk"),
    Fault("corrupt record", disks.corrupt, 2, "half of its files is overwritten, and it and who reads them are killed", needs="records", stays=False),
    Fault("clock ahead", jump(HOUR_S), 4, "its wall clock, by an hour (a preloaded library: Linux has no wall clock per namespace)"),
    Fault("clock back", jump(-HOUR_S), 4, "likewise"),
)
