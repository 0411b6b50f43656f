"""Nemesis: breaks a system, one thing after the other, and mends it, by a seed. What it does is in the history."""

import signal
import time
from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from tests.histories.rigs import PARTS, Rig
from tests.standstill import signal_all, stop_all

GOES_ON: Final = "goes on"
Sleep = Callable[[float], bool]
"""Wait; True when the time of the run is over."""


class Choice(NamedTuple):
    """A kind of fault and how often it comes."""

    name: str
    weight: int


KINDS = (Choice("kill", 8), Choice("stop", 5), Choice("stand still", 3), Choice("power", 2), Choice("cut", 3))


class Nemesis:
    """Breaks one rig. `note` writes what it does."""

    def __init__(self, rig: Rig, rng: Random, note: Callable[[str], None]) -> None:
        self._rig, self._rng, self._note = rig, rng, note

    def run(self, sleep: Sleep, *, calm_s: tuple[float, float] = (0.3, 2.0)) -> None:
        """Break and mend until `sleep` says that it is over; all is mended then, but may not be well yet."""
        kinds = [kind for kind in KINDS if kind.name != "cut" or self._rig.cuts]
        while not sleep(self._rng.uniform(*calm_s)):
            kind = self._rng.choices(kinds, [one.weight for one in kinds])[0].name
            node = self._rng.choice(self._rig.nodes)
            {"kill": self._kill, "stop": self._stop, "stand still": self._stand_still, "power": self._power, "cut": self._cut}[kind](node, sleep)

    def _kill(self, node: str, _sleep: Sleep) -> None:
        """Kill some parts of a node, mostly one."""
        parts = self._rig.parts(node)
        names = self._rng.sample(PARTS, self._rng.choice([1, 1, 2, 3]))
        found = [name for name in names if name in parts]
        if found:
            self._note(f"kill {' '.join(found)} of {node}")
            signal_all(signal.SIGKILL, [parts[name] for name in found])

    def _stop(self, node: str, sleep: Sleep) -> None:
        parts = self._rig.parts(node)
        name = self._rng.choice(PARTS)
        if name in parts:
            self._note(f"stop {name} of {node}")
            signal_all(signal.SIGSTOP, [parts[name]])
            sleep(self._rng.uniform(0.1, 3))
            signal_all(signal.SIGCONT, [parts[name]])

    def _stand_still(self, node: str, sleep: Sleep) -> None:
        """Everything of a node stands still for longer than a lease, or less."""
        self._note(f"{node} stands still")
        pids = stop_all(lambda: self._rig.everything(node))
        sleep(self._rng.choice([0.3, 1.0, 1.5, 2.5, 6.0]))
        self._note(f"{node} {GOES_ON}")
        signal_all(signal.SIGCONT, pids)

    def _power(self, node: str, sleep: Sleep) -> None:
        self._note(f"{node} loses its power")
        self._rig.cut_power(node)
        sleep(self._rng.uniform(0, 4))
        self._rig.power_up(node)
        self._note(f"{node} is up")

    def _cut(self, node: str, sleep: Sleep) -> None:
        self._note(f"{node} is cut off")
        self._rig.cut(node)
        sleep(self._rng.choice([0.5, 1.5, 3.0, 6.0]))
        self._rig.heal(node)
        self._note(f"{node} is there again")


def until(deadline_s: float) -> Sleep:
    """Return a sleep that ends at a deadline (time.monotonic)."""

    def sleep(seconds: float) -> bool:
        time.sleep(max(0.0, min(seconds, deadline_s - time.monotonic())))
        return time.monotonic() >= deadline_s

    return sleep
