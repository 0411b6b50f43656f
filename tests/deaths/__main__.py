"""`python -m tests.deaths`: let one of three machines die, whole, at a random moment, again and again; judge each time, and make docs/deaths.md of it.

    python -m tests.deaths --runs 50                            all, anew
    python -m tests.deaths --runs 50 --continue --seconds 280   go on where the last one stopped, for so long
    python -m tests.deaths --only 17 --dry                      repeat one, written down nowhere

Ends with 1 if a promise was broken in a run that it played.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable

from tests.deaths import results
from tests.deaths.results import Book, Run
from tests.deaths.rig import Rig, rig
from tests.e2e.system import UNIOS
from tests.matrix.world import missing

RUN_S = 35.0
"""With less time left no run is begun."""
WAIT_S = (0.5, 4.0)
Heard = Callable[[Run], None]


def drawn(seed: int, number: int) -> tuple[int, float]:
    """Return which machine dies in a run, and after how long."""
    draw = random.Random(f"{seed} {number}")
    return draw.randrange(3), draw.uniform(*WAIT_S)


def play(built: Rig, seed: int, number: int) -> Run:
    """Play one run. After it the machine is away."""
    which, wait_s = drawn(seed, number)
    victim = built.world.lab.machines[which]
    built.prepare()
    _death, verdict, facts = built.die(victim, wait_s)
    times = {name: round(value, 2) for name, value in verdict.times.items()}
    return Run(
        number, victim.name, facts["leader"], facts["locks"], facts["orphans"], round(wait_s, 2), facts["busy"], times, verdict.broken, verdict.told
    )


def played(seed: int, numbers: list[int], until: float, heard: Heard) -> list[Run]:
    """Play runs on one system, a new one after something broke that it may not recover from."""
    waiting, runs = list(numbers), []
    while waiting and time.monotonic() + RUN_S < until:
        with rig() as built:
            while waiting and time.monotonic() + RUN_S < until:
                run = play(built, seed, waiting.pop(0))
                runs.append(run)
                if not waiting or time.monotonic() + RUN_S >= until:
                    heard(run)
                    break
                began = time.monotonic()
                try:
                    built.replace()
                    run.whole_s = round(time.monotonic() - began, 1)
                except Exception as error:  # noqa: BLE001 - a system that does not take a new machine in is a finding, and the next run needs a whole one
                    traceback.print_exc()
                    run.broken["replaced"] = [str(error).replace(UNIOS, "unios")[-1500:]]
                heard(run)
                if "replaced" in run.broken:
                    break
    return runs


def told(run: Run) -> None:
    times = ", ".join(f"{name} {value:.2f}" for name, value in run.times.items())
    facts = f"{run.victim}{' leader' if run.leader else ''}{' locks' if run.locks else ''}"
    print(f"run {run.number:2} {facts:<16} busy {run.busy:3} %  {times}  whole {run.whole_s:.1f}  {run.broken or 'all kept'}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deaths", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run that would not end within so long")
    parser.add_argument("--continue", dest="goes_on", action="store_true", help="only those that were not played yet")
    parser.add_argument("--only", type=int, help="this one")
    parser.add_argument("--dry", action="store_true", help="write down nothing")
    parser.add_argument("--page", action="store_true", help="only make docs/deaths.md anew")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    if why := missing("etcd"):
        print(f"no pseudo-machines on etcd here: {why}", file=sys.stderr)
        return 2
    book = results.read() if options.goes_on or options.page else Book(options.seed)
    if options.page:
        book.write()
        return 0
    seed = book.seed or options.seed
    book.seed = seed
    done = {run.number for run in book.runs}
    numbers = [options.only] if options.only is not None else [number for number in range(1, options.runs + 1) if number not in done]

    def heard(run: Run) -> None:
        told(run)
        if not options.dry:
            book.runs.append(run)
            book.write()

    bad = [run for run in played(seed, numbers, until, heard) if run.broken]
    for run in bad:
        print(f"broken: repeat it with: python -m tests.deaths --only {run.number} --seed {seed} --dry", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
