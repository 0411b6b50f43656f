"""Tasks: maps of an executor whose results are complete, right and in order, though workers are lost."""

import time

import unios
from tests.matrix.drivers.work import Late, Wrong, repeat

TASKS = 16
ENDS_S = 90


def square(number: int) -> int:
    time.sleep(0.02)
    return number * number


def main() -> None:
    pool: list[unios.Executor] = []

    def step() -> None:
        if not pool or not pool[0].usable():
            pool[:] = [unios.Executor(3, cpus=0.1, retries=5)]
        try:
            got = list(pool[0].map(square, range(TASKS), timeout=ENDS_S))
        except TimeoutError as error:
            raise Late(f"a map of {TASKS} short tasks did not end within {ENDS_S} s") from error
        except unios.ExecutorBroken:
            pool.clear()
            raise
        if got != [number * number for number in range(TASKS)]:
            raise Wrong(f"a map came to {got}")

    def end() -> None:
        if pool:
            pool[0].shutdown()

    repeat({"map": step}, pause_s=0.05, at_the_end=end)


if __name__ == "__main__":
    main()
