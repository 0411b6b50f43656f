"""Locks: two programs take turns at one lock and show its token to a file that refuses older ones. A refused one has to be told that it has lost the lock."""

import fcntl
import os
import time
from pathlib import Path

import unios
from tests.matrix.drivers.work import Late, Wrong, repeat

PATIENCE_S = 60


def main() -> None:
    lock = unios.Lock("matrix")
    guarded = Path(os.environ["MATRIX_STOP"] + ".guarded").open("a+")  # noqa: SIM115 - as long as the program

    def shown(token: tuple[int, int]) -> bool:
        fcntl.flock(guarded, fcntl.LOCK_EX)
        try:
            guarded.seek(0)
            epoch, number = map(int, (guarded.read() or "0 0").split())
            if token == (epoch, number):
                raise Wrong(f"the token {token} was given twice")
            if token > (epoch, number):
                guarded.truncate(0)
                guarded.write(f"{token[0]} {token[1]}")
                guarded.flush()
            return token > (epoch, number)
        finally:
            fcntl.flock(guarded, fcntl.LOCK_UN)

    def step() -> None:
        if not lock.acquire(timeout=PATIENCE_S):
            raise Late(f"the lock was not to be had for {PATIENCE_S} s")
        try:
            token = tuple(lock.check())
            accepted = shown((token[0], token[1]))
            time.sleep(0.02)
            if not accepted:
                lock.check()
                raise Wrong(f"the token {token} is older than another's, and its holder is not told")
        finally:
            lock.release()

    repeat({"lock": step}, pause_s=0.02)


if __name__ == "__main__":
    main()
