"""Calls: a function of a server that is called at most once, whatever happens on the way, and is answered rightly or with an error that says so."""

import itertools
import os

import unios
from tests.matrix.drivers.work import Wrong, repeat

PATIENCE_S = 30


def main() -> None:
    port = unios.connect("matrix/sums", timeout=PATIENCE_S).options(timeout=PATIENCE_S)
    numbers, done_by = itertools.count(), {}

    def once() -> None:
        number = next(numbers)
        incarnation, times = port.once(f"{os.getpid()}.{number}")
        done_by[number] = incarnation
        if times != 1:
            raise Wrong(f"call {number} was done {times} times")
        if incarnation < done_by.get(number - 1, 0):
            raise Wrong(f"call {number} was answered by incarnation {incarnation}, the one before by {done_by[number - 1]}")

    def add() -> None:
        number = next(numbers)
        if (got := port.options(idempotent=True, timeout=PATIENCE_S).add(number, 1)) != number + 1:
            raise Wrong(f"{number} + 1 came to {got}")

    repeat({"once": once, "idempotent": add}, pause_s=0.02)


if __name__ == "__main__":
    main()
