"""Child: a process of a benchmark, from when it says that it is ready; it answers a line with a line, and ends with its input."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@contextlib.contextmanager
def running(command: Sequence[str], env: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield the process once it is ready. RuntimeError if it ends before."""
    child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    try:
        if child.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{' '.join(command)} did not begin")
        yield child
    finally:
        with contextlib.suppress(OSError):
            child.stdin.close()
        if child.wait(timeout=30):
            print(f"{' '.join(command)} exited with {child.returncode}", file=sys.stderr)
        child.stdout.close()


def ask(child: "subprocess.Popen[bytes]", order: object) -> Any:
    """Return what it answers to an order, both one line of JSON. RuntimeError if it ended instead."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(order).encode() + b"\n")
    child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the benchmark ended while it had an order: {order}")
    return json.loads(line)
