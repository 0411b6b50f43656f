"""`python -m tests.histories --seconds 600 --seed N`: break a system, let clients use it meanwhile, judge what they saw. A history that is bad is kept."""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.histories.history import read
from tests.histories.rigs import RIGS
from tests.histories.run import judged, run
from tests.histories.workloads import ALL


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None, help="of the faults and of what the clients do")
    parser.add_argument("--rig", choices=RIGS, default="apart" if os.geteuid() == 0 else "together")
    parser.add_argument("--store", choices=["", "etcd"], default="", metavar="etcd", help="the engine; the embedded one if left out")
    parser.add_argument("--workloads", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--calm", action="store_true", help="break nothing")
    parser.add_argument("--folder", type=Path, default=None, help="where the history is written")
    parser.add_argument("--judge", type=Path, default=None, metavar="FILE", help="run nothing: judge this history.jsonl")
    options = parser.parse_args()
    if options.judge is not None:
        report = judged(read(options.judge))
        print(report)
        return int(bool(report.bad))
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="unios-histories-"))
    print(f"seed {seed}; the history is written to {folder}", flush=True)
    with RIGS[options.rig](options.store) as rig:
        report = run(rig, seed, options.seconds, folder, workloads=options.workloads, faults=not options.calm)
    print(report)
    return int(bool(report.bad))


if __name__ == "__main__":
    sys.exit(main())
