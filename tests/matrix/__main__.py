"""`python -m tests.matrix`: play cells of the fault matrix in a random order for as long as asked, write down how they ended, and make docs/matrix.md of it.

    python -m tests.matrix --minutes 60                       the long form, both engines
    python -m tests.matrix --cells 'sqlite:pause:*'           these, once each
    python -m tests.matrix --list                             what there is

A cell is called ENGINE:FAULT:TARGET. Ends with 1 if one was a defect: the line says how to repeat it.
"""

import argparse
import fnmatch
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.matrix import results
from tests.matrix.cell import Outcome, every_cell, impossible, name_of, play
from tests.matrix.faults import Fault
from tests.matrix.targets import ENGINES, Target
from tests.matrix.world import missing, world

Cell = tuple[Fault, Target]
ROOT: Final = Path(__file__).resolve().parents[2]
Heard = Callable[[Outcome], None]


def chosen(engine: str, pattern: str) -> list[Cell]:
    return [cell for cell in every_cell(engine) if fnmatch.fnmatch(name_of(cell[0].name, cell[1].name, engine), pattern)]


def played(engine: str, cells: list[Cell], until: float, heard: Heard) -> list[Outcome]:
    """Play cells on one world after the other until all are played or the time is over."""
    outcomes: list[Outcome] = []
    waiting = [cell for cell in cells if not impossible(*cell)]
    while waiting and time.monotonic() < until:
        with world(engine) as made:
            while waiting and time.monotonic() < until:
                fault, target = waiting.pop(0)
                try:
                    outcome = play(made, fault, target)
                except Exception:  # noqa: BLE001 - a cell that cannot be played to its end is one that has failed
                    outcome = Outcome(fault.name, target.name, engine, "defect", said=_places_left_out(traceback.format_exc())[-1500:])
                outcomes.append(outcome)
                heard(outcome)
                if outcome.end == "defect" or loses_its_node(fault, target):
                    break  # a node that was lost often gets nothing for half a minute (docs/machines.md), and the times would be those
    return outcomes


def _places_left_out(text: str) -> str:
    """Return a traceback as it may be kept: without where this checkout, and what it runs with, lie on this machine."""
    for place in sorted({str(ROOT), sys.prefix, sys.base_prefix}, key=len, reverse=True):
        text = text.replace(f"{place}/", "")
    return text


def loses_its_node(fault: Fault, target: Target) -> bool:
    """Whether the node is likely to count as lost meanwhile, or all are."""
    return target.whole or fault.needs == "network" or fault.name in target.beyond


def told(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.fields()), flush=True)
        return
    print(
        f"{outcome.name:<40} {outcome.end:<10} stall {outcome.stall_s:5.1f} s ({outcome.slowest}), whole after {outcome.whole_s:5.1f} s  {outcome.said}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="*", help="only these: ENGINE:FAULT:TARGET, with * and ?")
    parser.add_argument("--minutes", type=float, default=0, help="go round again until so long has passed (0: each once)")
    parser.add_argument("--seed", type=int, default=None, help="of the order")
    parser.add_argument("--engine", choices=ENGINES, help="only this one")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--list", action="store_true", help="name the cells and play none")
    parser.add_argument("--dry", action="store_true", help="write down nothing")
    parser.add_argument("--new", action="store_true", help="only cells that were never played")
    parser.add_argument("--page", action="store_true", help="only make docs/matrix.md anew")
    options = parser.parse_args()
    if options.page:
        results.Book().write()
        return 0
    engines = [options.engine] if options.engine else list(ENGINES)
    if options.list:
        for engine in engines:
            for fault, target in chosen(engine, options.cells):
                print(name_of(fault.name, target.name, engine), impossible(fault, target) and f"(not possible here: {impossible(fault, target)})")
        return 0
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr)
    book = results.Book()

    def heard(outcome: Outcome) -> None:
        told(outcome, as_json=options.json)
        if not options.dry:
            book.add(outcome)

    done = set(book.kept) if options.new else set()
    bad = [one for one in rounds(engines, options.cells, done, random.Random(seed), options.minutes, heard) if one.end == "defect"]
    for outcome in bad:
        print(f"defect: repeat it with: python -m tests.matrix --cells '{outcome.name}' --seed {seed}", file=sys.stderr)
    return 1 if bad else 0


def rounds(engines: list[str], pattern: str, done: set[str], draw: random.Random, minutes: float, heard: Heard) -> list[Outcome]:
    """Play every chosen cell that is not done in a drawn order, engine by engine; again until the time is over."""
    until = time.monotonic() + minutes * 60 if minutes else float("inf")
    outcomes: list[Outcome] = []
    while True:
        for engine in engines:
            if why := missing(engine):
                print(f"{engine}: {why}", file=sys.stderr)
                continue
            cells = [cell for cell in chosen(engine, pattern) if name_of(cell[0].name, cell[1].name, engine) not in done]
            draw.shuffle(cells)
            outcomes += played(engine, cells, until, heard)
        if not minutes or done or time.monotonic() >= until:
            return outcomes


if __name__ == "__main__":
    sys.exit(main())
