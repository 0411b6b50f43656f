"""A workload in a process of its own, on a disk: it is asked step by step, and stands still while its disk is looked at."""

import json
import subprocess
import sys
from typing import Any

from tests.durability.disks import Disk
from tests.durability.syncs import Syncs


class Program:
    """Use `with`: it is killed at the end if it runs still."""

    def __init__(self, kind: str, disk: Disk, syncs: Syncs | None) -> None:
        """`syncs` None: nothing stands between it and libc."""
        self._process = subprocess.Popen(
            [*disk.wrap, sys.executable, "-m", "tests.durability.workloads", kind, str(disk.inside)],
            env=syncs.environment if syncs else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def next(self) -> Any:
        """Let it take one step; return what it says: a list of what is acknowledged, {"refused": why}, or None when it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def go_on(self) -> None:
        """Let it know that its disk has been looked at."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """Return how it ended."""
        return self._process.wait(timeout=30)
