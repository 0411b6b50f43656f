"""`python -m tests.sim --seeds N --start S [--kind KIND]`: run seeds in parallel, over all kinds unless one is said, and shrink the first that fails.

`--replay FILE` runs the schedule that was printed, `-` from standard input. docs/simulator.md says more.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import msgspec

from tests.sim.kinds import KINDS, judge, perform, schedule
from tests.sim.scenarios import scenarios
from tests.sim.schedule import Schedule, parse
from tests.sim.shrink import RUNS_MAX, Shrinker
from tests.sim.world import Violation

SHARES = {"nodes": 4, "logs": 4, "watch": 3, "calls": 1}
"""How many of the seeds a kind gets when all have their share."""
Job = tuple[str, int, str, str]
"""Kind, seed, scenario, mutant."""


def one(job: Job) -> tuple[Job, str, str, int]:
    """Return (job, which invariant is broken, its story, what was counted)."""
    kind, seed, scenario, mutant = job
    try:
        return job, "", "", perform(schedule(kind, seed, scenario, mutant))
    except Violation as violation:
        return job, violation.kind, str(violation), 0


def show(failed: Schedule, story: str, runs_max: int, save: str) -> None:
    """Say what has failed, and the shortest schedule that still does."""
    print(f"\n{failed.world} seed {failed.seed}, scenario {failed.scenario}: {story}")
    kind = judge(failed)
    shrinker = Shrinker(judge, kind, runs_max)
    short = shrinker.shrink(failed)
    text = short.text()
    print(f"\n{len(short.steps)} of {len(failed.steps)} steps break the same after {shrinker.runs} runs:\n{text}")
    if save:
        Path(save).write_text(text + "\n")
    print(f"replay: python -m tests.sim --replay {save or 'FILE, with these lines in it'}")


def replay(name: str) -> int:
    """Run a schedule from a file; 0 if no invariant is broken."""
    try:
        made = parse(sys.stdin.read() if name == "-" else Path(name).read_text())
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        print(f"{name} has no schedule: {error}", file=sys.stderr)
        return 2
    try:
        count = perform(made)
    except Violation as violation:
        print(violation)
        return 1
    print(f"{len(made.steps)} steps, {count} {KINDS[made.world].counted}, no invariant violated")
    return 0


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return what is to be run, the kinds by turns."""
    kinds = [options.kind] if options.kind else [kind for kind, share in SHARES.items() for _ in range(share)]
    seeds = range(options.start, options.start + options.seeds)
    return [(kinds[number % len(kinds)], seed, options.scenario, options.mutant) for number, seed in enumerate(seeds)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--kind", choices=[*KINDS], default="", help="what is simulated; all of these, unless one is said")
    parser.add_argument("--scenario", choices=[*scenarios()], default="", help="one of its kind alone")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    mutants = sorted({mutant for kind in KINDS.values() for mutant in kind.mutants})
    parser.add_argument("--mutant", default="", choices=["", *mutants], help="switch a protection of the shipped code off; say the kind too")
    parser.add_argument("--shrink", type=int, default=RUNS_MAX, metavar="RUNS", help="so many runs at most to shrink what fails")
    parser.add_argument("--save", default="", metavar="FILE", help="write the shrunk schedule there")
    parser.add_argument("--replay", default="", metavar="FILE", help="run the schedule in a file")
    options = parser.parse_args()
    if options.scenario:
        options.kind = scenarios()[options.scenario].world
    if options.mutant and options.mutant not in KINDS.get(options.kind, KINDS["nodes"]).mutants:
        parser.error("say the --kind that has this mutant")
    options.kind = options.kind or ("nodes" if options.mutant else "")
    return options


def main() -> int:
    options = arguments()
    if options.replay:
        return replay(options.replay)
    started, counts, done = time.monotonic(), dict.fromkeys(KINDS, 0), 0
    with multiprocessing.Pool(options.jobs) as pool:
        for (kind, seed, *_), broken, story, count in pool.imap_unordered(one, jobs(options), chunksize=4):
            done += 1
            counts[kind] += count
            if broken:
                pool.terminate()
                show(schedule(kind, seed, options.scenario, options.mutant), story, options.shrink, options.save)
                return 1
            if sys.stdout.isatty():
                print(f"\r{done} of {options.seeds} seeds", end="", flush=True)
    figures = ", ".join(f"{count} {KINDS[kind].counted}" for kind, count in counts.items() if count)
    print(f"{options.seeds} seeds from {options.start} on, {figures}, no invariant violated ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
