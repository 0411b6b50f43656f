"""`python -m tests.sim --seeds N --start S`: run seeds in parallel, print the first violation with the seed that replays it."""

import argparse
import multiprocessing
import sys
import time

from tests.sim.mutants import MUTANTS, applied
from tests.sim.run import run
from tests.sim.world import Violation


def one(job: tuple[int, str]) -> tuple[int, str, int]:
    """Return (seed, what was violated, effects accepted)."""
    seed, mutant = job
    with applied(mutant):
        try:
            return seed, "", run(seed).world.effects
        except Violation as violation:
            return seed, str(violation), 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS], help="switch a protection of the shipped code off")
    options = parser.parse_args()
    started, effects, done = time.monotonic(), 0, 0
    jobs = [(seed, options.mutant) for seed in range(options.start, options.start + options.seeds)]
    with multiprocessing.Pool(options.jobs) as pool:
        for _seed, text, count in pool.imap_unordered(one, jobs, chunksize=4):
            done += 1
            effects += count
            if text:
                print(text)
                pool.terminate()
                return 1
            if sys.stdout.isatty():
                print(f"\r{done} of {options.seeds} seeds", end="", flush=True)
    took = time.monotonic() - started
    print(f"{options.seeds} seeds from {options.start} on, {effects} effects accepted, no invariant violated ({took:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
