"""What the quorums predict: whose probes are answered while a fault lasts. Pure.

A machine decides if it reaches, itself included, more than half of the members. Nothing is predicted of the moments in which a fault comes or goes: what is
not answered then is what the system needs to notice.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

MACHINES: Final = ("m1", "m2", "m3")
SCHEDULE: Final = Path(__file__).with_name("schedule.toml")


class Fault(NamedTuple):
    name: str
    fault: str
    machines: tuple[str, ...]
    at_s: float
    for_s: float


class Phase(NamedTuple):
    """From one change of the schedule to the next. `fault`: None if all is whole."""

    begin_s: float
    end_s: float
    fault: Fault | None

    @property
    def name(self) -> str:
        return self.fault.name if self.fault else "whole"


def read() -> tuple[float, list[Fault]]:
    """Return the length of the schedule, and its faults by time."""
    text: dict[str, Any] = tomllib.loads(SCHEDULE.read_text())
    faults = [Fault(one["name"], one["fault"], tuple(one["machines"]), one["at_s"], one["for_s"]) for one in text["faults"]]
    return float(text["length_s"]), sorted(faults, key=lambda fault: fault.at_s)


def phases(length_s: float, faults: Sequence[Fault]) -> list[Phase]:
    found, at = [], 0.0
    for fault in faults:
        found += [Phase(at, fault.at_s, None), Phase(fault.at_s, fault.at_s + fault.for_s, fault)]
        at = fault.at_s + fault.for_s
    return [*found, Phase(at, length_s, None)]


def other_of(machine: str) -> str:
    """Return the machine whose process the probes of this one call."""
    return MACHINES[MACHINES.index(machine) % len(MACHINES) - len(MACHINES) + 1]


def decides(machine: str, fault: Fault | None) -> bool:
    """Whether a machine reaches more than half of the members."""
    if fault is None:
        return True
    return machine not in fault.machines and 2 * (len(MACHINES) - len(fault.machines)) > len(MACHINES)


def answered(machine: str, kind: str, fault: Fault | None) -> bool:
    """Whether the probes of a machine are answered: in the store and runs where it decides; calls if the called machine decides too, since a process
    whose node does not is frozen."""
    return decides(machine, fault) and (kind != "call" or decides(other_of(machine), fault))
