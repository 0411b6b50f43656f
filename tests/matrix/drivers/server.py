"""The server that the calls go to, a process of the system: it counts what it does, so that what is done twice shows."""

import collections
import os
import time

import unios

done: "collections.Counter[str]" = collections.Counter()


def once(mark: str) -> tuple[int, int]:
    """Return the incarnation that did it, and how often it was done. It lasts, so that one is under way when the fault comes."""
    done[mark] += 1
    time.sleep(0.1)
    return int(os.environ["UNIOS_INCARNATION"]), done[mark]


if __name__ == "__main__":
    with unios.listen("matrix/sums", {"once": once, "add": lambda a, b: a + b}):
        while True:
            time.sleep(60)
