"""What can be wrong with the network between machines: rules that drop, and a relay in user space that delays, since netem is missing."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.live.machines import Machine, sh
from tests.matrix.targets import Target
from tests.matrix.world import World

Undo = Callable[[], None]
_TABLE: Final = "matrix"
BOTH: Final = ("input", "output")


def drop(machine: Machine, others: Iterable[Machine], ports: Sequence[int] | None, *, hooks: Sequence[str] = BOTH, percent: int = 100) -> None:
    """Drop what comes from (input) or goes to (output) the others, on these ports or on all, or some per cent of it, instead of what was dropped before."""
    verdict = "drop" if percent >= 100 else f"numgen random mod 100 < {percent} drop"
    lines = [f"add table inet {_TABLE}", f"delete table inet {_TABLE}", f"add table inet {_TABLE}"]
    for hook in hooks:
        lines.append(f"add chain inet {_TABLE} {hook} {{ type filter hook {hook} priority 0; }}")
        for other in others:
            address = f"ip {'saddr' if hook == 'input' else 'daddr'} {other.address}"
            matches = [address] if ports is None else [f"{address} tcp {side} {{ {', '.join(map(str, ports))} }}" for side in ("sport", "dport")]
            lines += [f"add rule inet {_TABLE} {hook} {match} {verdict}" for match in matches]
    machine.run("nft", "-f", "-", input="\n".join(lines).encode())


def heal(machine: Machine) -> None:
    machine.run("nft", "-f", "-", input=f"add table inet {_TABLE}\ndelete table inet {_TABLE}\n".encode())


def others(world: World, machine: Machine) -> list[Machine]:
    return [one for one in world.lab.machines if one is not machine]


def ports(world: World, target: Target) -> Sequence[int] | None:
    """Return the ports of a target's talk; None: all that its machine says."""
    return None if target.ports is None else target.ports(world)


def dropping(hooks: Sequence[str] = BOTH, percent: int = 100) -> Callable[[World, Target], Undo]:
    def apply(world: World, target: Target) -> Undo:
        machine = target.machine(world)
        drop(machine, others(world, machine), ports(world, target), hooks=hooks, percent=percent)
        return lambda: heal(machine)

    return apply


def by_turns(moves: Callable[[World, Target], Iterable[Callable[[], None]]], every_s: float) -> Callable[[World, Target], Undo]:
    """Return a fault that makes one move after the other, in a thread, until it is taken back."""

    def apply(world: World, target: Target) -> Undo:
        over = threading.Event()

        def go_on() -> None:
            for move in moves(world, target):
                move()
                if over.wait(every_s):
                    return

        thread = threading.Thread(target=go_on)
        thread.start()

        def undo() -> None:
            over.set()
            thread.join()
            heal(target.machine(world))

        return undo

    return apply


def flaps(world: World, target: Target) -> Iterable[Callable[[], None]]:
    """Cut off and not, for ever."""
    machine, which = target.machine(world), ports(world, target)
    while True:
        yield lambda: drop(machine, others(world, machine), which)
        yield lambda: heal(machine)


def swizzle(world: World, target: Target) -> Iterable[Callable[[], None]]:
    """Cut off from one machine after the other, and let back to them one by one in another order."""
    machine, which = target.machine(world), ports(world, target)
    draw = random.Random(world.victim.number)
    while True:
        order = others(world, machine)
        draw.shuffle(order)
        gone: list[Machine] = []
        for step in (*((one, True) for one in order), *((one, False) for one in reversed(order))):
            gone = [*gone, step[0]] if step[1] else [one for one in gone if one is not step[0]]
            yield lambda now=tuple(gone): drop(machine, now, which)  # type: ignore[misc]


def slow(delay_ms: int) -> Callable[[World, Target], Undo]:
    """Put a relay between a machine and the bridge that holds each frame for so long, in both directions."""

    def apply(world: World, target: Target) -> Undo:
        machine = target.machine(world)
        inside = ["nsenter", "--target", str(world.switch_pid), "--net"]
        port, near, far = (f"{letter}{machine.number}" for letter in "pqr")
        sh(*inside, "ip", "link", "add", near, "type", "veth", "peer", "name", far)
        for words in (f"{near} up", f"{port} nomaster", f"{far} master br0 up"):
            sh(*inside, "ip", "link", "set", *words.split())
        settings = json.dumps({"ends": [port, near], "delay_ms": delay_ms, "ports": ports(world, target) and list(ports(world, target) or ())})
        relay = subprocess.Popen([*inside, sys.executable, Path(__file__).with_name("relay.py"), settings], stdin=subprocess.DEVNULL)

        def undo() -> None:
            relay.kill()
            relay.wait()
            sh(*inside, "ip", "link", "delete", near)
            sh(*inside, "ip", "link", "set", port, "master", "br0")

        return undo

    return apply
