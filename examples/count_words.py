"""Count the words of the files that each named list names, one path per line; print `count word` lines, then a last line that says so.

One worker of examples/wordcount.py. A plain program: it knows nothing of unios. `--pace S` spreads the work over at least S seconds, so that there is
time for something to go wrong in the middle even on a fast machine.
"""

import argparse
import collections
import re
import sys
import time

WORD = re.compile(rb"[A-Za-z_]+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", nargs="+")
    parser.add_argument("--pace", type=float, default=0.0)
    options = parser.parse_args()
    names = [name for path in options.lists for name in open(path, encoding="utf-8").read().splitlines()]  # noqa: SIM115
    counts: collections.Counter[bytes] = collections.Counter()
    started = time.monotonic()
    for number, name in enumerate(names, 1):
        with open(name, "rb") as file:
            counts.update(WORD.findall(file.read()))
        early = options.pace * number / len(names) - (time.monotonic() - started)
        if early > 0:
            time.sleep(early)
    out = sys.stdout.buffer
    for word, count in counts.items():
        out.write(b"%d %s\n" % (count, word))
    out.write(b"complete %d\n" % len(counts))


if __name__ == "__main__":
    main()
