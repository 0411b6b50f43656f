"""Forks of the tests' own process."""

import contextlib
import os
from collections.abc import Iterator


class Waiting:
    """One that does nothing until it is ended, or killed."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)

    def end(self) -> None:
        """It ends, and is reaped. Idempotent."""
        writing, self._writing = self._writing, -1
        if writing >= 0:
            os.close(writing)
            os.waitpid(self.pid, 0)


@contextlib.contextmanager
def waiting() -> Iterator[Waiting]:
    """A fork that is ended with the block."""
    fork = Waiting()
    try:
        yield fork
    finally:
        fork.end()
