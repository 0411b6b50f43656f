"""Scenarios: workloads and faults declared in small files, scenarios/*.toml. A seed draws one of its world's and makes a schedule of it.

A file: `world`, perhaps `weight` (how often it is drawn, 1), a table `setup`, and tables `steps`: `do` what, how many `times`, `at_ms` when, and
arguments. Each value may be a list, of which one is drawn, or {from, to}; `do` may be a list too. docs/simulator.md has an example.
"""

import functools
import random
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from tests.sim.schedule import Schedule, Step, Steps, drawn

FOLDER = Path(__file__).parent / "scenarios"


class Scenario(msgspec.Struct, forbid_unknown_fields=True):
    """One file. Each of `steps` has `do`, `at_ms`, perhaps `times`, and arguments."""

    world: str
    setup: dict[str, Any]
    steps: list[dict[str, Any]]
    weight: int = 1
    name: str = ""


@functools.cache
def scenarios() -> dict[str, Scenario]:
    """Return those that there are, by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.toml")):
        scenario = msgspec.convert(tomllib.loads(path.read_text()), Scenario)
        found[path.stem] = msgspec.structs.replace(scenario, name=path.stem)
    return found


def schedule_of(world: str, steps: Steps, seed: int, name: str = "") -> Schedule:
    """Return the schedule of a seed, of the scenario of that name or of one that the seed draws."""
    rng = random.Random(f"{world} {seed}")
    mine = [scenario for scenario in scenarios().values() if scenario.world == world]
    scenario = scenarios()[name] if name else rng.choices(mine, [each.weight for each in mine])[0]
    setup = {key: drawn(rng, value) for key, value in scenario.setup.items()}
    nodes = [f"n{number}" for number in range(1, setup["nodes"] + 1)]
    made: list[Step] = []
    for declared in scenario.steps:
        for _time in range(drawn(rng, declared.get("times", 1))):
            do = drawn(rng, declared["do"])
            made.append(Step(drawn(rng, declared["at_ms"]), do, steps.draw(rng, do, declared, nodes)))
    return Schedule(world, seed, setup, tuple(sorted(made, key=lambda step: step.at_ms)), scenario.name)
