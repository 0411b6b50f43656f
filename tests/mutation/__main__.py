"""What scripts/mutate runs in mutmut's folder `mutants`: `seeds` runs the simulation against the mutants, `table` says what killed which."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tests.mutation.seeds import KILLED
from tests.mutation.seeds import main as main_of_seeds

SEEDS = Path("../seeds.json")


def table(survivors: bool) -> None:
    """Print a line for each module, and which mutants nothing killed."""
    by_seeds = json.loads(SEEDS.read_text()) if SEEDS.exists() else {}
    total: Counter[str] = Counter()
    print("| module | mutants | killed by tests | by seeds | by either | share |\n|---|---|---|---|---|---|")
    left: list[str] = []
    for path in [*sorted(Path().glob("src/unios/core/*.py.meta")), None]:
        if path is None:
            name, counts = "all", total
        else:
            counts, name = Counter(), path.name.removesuffix(".py.meta")
            for mutant, code in json.loads(path.read_text())["exit_code_by_key"].items():
                tests, seeds = code in KILLED, bool(by_seeds.get(mutant, {}).get("by"))
                counts.update({"mutants": 1, "tests": tests, "seeds": seeds, "either": tests or seeds})
                if not (tests or seeds):
                    left.append(mutant)
            total.update(counts)
        share = f"{counts['either'] / counts['mutants']:.0%}"
        print(f"| {name} | {counts['mutants']} | {counts['tests']} | {counts['seeds']} | {counts['either']} | {share} |")
    if survivors:
        print("\n".join(["", *left]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutate FOLDER", description=__doc__)
    parser.add_argument("what", choices=["seeds", "table"])
    parser.add_argument("--modules", nargs="*", default=[], help="the first letters of those modules of core/ that are looked at")
    parser.add_argument("--seeds", type=int, default=12, help="of each kind")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--survivors", action="store_true", help="name those that nothing has killed")
    parser.add_argument("--every", action="store_true", help="look also at those that tests have killed")
    parser.add_argument("--sample", type=int, default=0, help="so many of each module, drawn at random; 0: all")
    options = parser.parse_args()
    if options.what == "table":
        table(options.survivors)
        return 0
    main_of_seeds(options.modules, options.seeds, options.jobs, options.every, options.sample, SEEDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
