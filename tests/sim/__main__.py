"""`python -m tests.sim [--logs] --seeds N --start S`: run seeds in parallel, print the first violation with the seed that replays it."""

import argparse
import multiprocessing
import sys
import time

from tests.sim.log_mutants import LOG_MUTANTS, log_applied
from tests.sim.log_run import run_log
from tests.sim.mutants import MUTANTS, applied
from tests.sim.run import run
from tests.sim.world import Violation


def one(job: tuple[int, str, bool]) -> tuple[int, str, int]:
    """Return (seed, what was violated, effects accepted; of a log: entries acknowledged)."""
    seed, mutant, logs = job
    with log_applied(mutant) if logs else applied(mutant):
        try:
            if logs:
                return seed, "", len(run_log(seed).ledger.acknowledged)
            return seed, "", run(seed).world.effects
        except Violation as violation:
            return seed, str(violation), 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS, *LOG_MUTANTS], help="switch a protection of the shipped code off")
    parser.add_argument("--logs", action="store_true", help="replicated logs, in the place of nodes and processes")
    options = parser.parse_args()
    started, effects, done = time.monotonic(), 0, 0
    jobs = [(seed, options.mutant, options.logs) for seed in range(options.start, options.start + options.seeds)]
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
    what = "entries acknowledged" if options.logs else "effects accepted"
    print(f"{options.seeds} seeds from {options.start} on, {effects} {what}, no invariant violated ({took:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
