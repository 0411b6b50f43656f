"""The short form for ./test: a handful of the most telling cells, others each day, the same all day long."""

import json
import random
from typing import Final

from tests.matrix.cell import Outcome, every_cell, impossible, name_of
from tests.matrix.faults import Fault
from tests.matrix.results import KEPT
from tests.matrix.targets import Target

FAULTS: Final = ("crash", "pause", "partition", "one-way, deaf", "flapping", "slow link", "slow disk", "clock ahead")
TARGETS: Final = ("kernel", "supervisor", "guard", "store", "gateway", "etcd", "machine", "first machine")
EACH: Final = {"sqlite": 3, "etcd": 1}
"""So many cells of each engine: about 90 seconds together."""


def picked(engine: str, seed: int) -> list[tuple[Fault, Target]]:
    """Return the cells of a seed: every other one a fault of a whole machine. What is known to be a defect is in docs/matrix.md and not here."""
    kept = json.loads(KEPT.read_text())
    draw = random.Random(f"{seed} {engine}")
    cells = [
        (fault, target)
        for fault, target in every_cell(engine)
        if fault.name in FAULTS
        and target.name in TARGETS
        and not impossible(fault, target)
        and not is_known(kept, name_of(fault.name, target.name, engine))
    ]
    draw.shuffle(cells)
    whole, parts = ([cell for cell in cells if cell[1].whole is kind] for kind in (True, False))
    count = EACH[engine]
    return [*whole[: count // 2], *parts[: count - count // 2]]


def is_known(kept: dict[str, dict[str, object]], name: str) -> bool:
    return kept.get(name, {}).get("end") == "defect"


def report(outcome: Outcome, seed: int) -> str:
    return f"{outcome.name} is a {outcome.end}: {outcome.said}\nrepeat it: python -m tests.matrix --dry --cells '{outcome.name}' (seed of the day {seed})"
