"""`python -m tests.fuzz --minutes N [--seed S] [TARGET...]`: mutate from the corpus for so long. What breaks a target is put into its corpus,
to be mended and kept.

`--replay FILE TARGET` feeds one file.
"""

import argparse
import contextlib
import hashlib
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.feeding import CORPUS, Broken, feed, inputs, scratch
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS


def fuzz(names: list[str], minutes: float, seed: int) -> int:
    """Return how many kinds of breakage were found."""
    rng, fed, broken = random.Random(seed), Counter[str](), dict[str, str]()
    corpora = {name: inputs(name) for name in names}
    shares = [TARGETS[name].share for name in names]
    until = time.monotonic() + 60 * minutes
    with contextlib.contextmanager(scratch)() as folder:
        while time.monotonic() < until:
            name = rng.choices(names, shares)[0]
            for _time in range(20):
                data = mutated(corpora[name], rng)
                fed[name] += 1
                try:
                    feed(name, data, folder)
                except Broken as error:
                    if (kind := str(error)[:60]) not in broken:
                        path = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(data)
                        broken[kind] = f"{error}\n    {path}"
                        print(broken[kind], flush=True)
    print(f"{sum(fed.values())} inputs, seed {seed}: " + ", ".join(f"{name} {count}" for name, count in fed.most_common()))
    return len(broken)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--replay", metavar="FILE")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"there is no target {min(unknown)}")
    if asked.replay:
        with contextlib.contextmanager(scratch)() as folder:
            feed(asked.targets[0], Path(asked.replay).read_bytes(), folder)
        return 0
    return 1 if fuzz(asked.targets or list(TARGETS), asked.minutes, asked.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
