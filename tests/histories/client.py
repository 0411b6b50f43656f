"""`python -m tests.histories.client`: one client program on one node, told on its first line of input what to do. It writes lines of a history, and ends with
its input; what it asks for then has two seconds more.
"""

import os
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.histories import workloads
from tests.histories.doors import Told
from tests.histories.history import Began, Ended, encode
from tests.histories.workloads import ALL, Pen
from unios.errors import UniosError

END_S = 2.0


class Task(msgspec.Struct):
    """What a client is told. With `last` it looks at the objects of those keys once more, and ends."""

    client: str
    home: str
    node: str
    seed: int
    workloads: list[str]
    pace_s: float
    witness: tuple[str, int]
    last: dict[str, list[str]] | None = None


class Writer(Pen):
    """That of one thread; all write to one pipe, whole lines at a time."""

    mutex = threading.Lock()

    def __init__(self, client: str) -> None:
        self._client = client
        self._number = 0

    def ask(self, workload: str, key: str, action: str, argument: Any, work: Any) -> Told:
        self._number += 1
        number = self._number
        self._write(encode(Began(self._client, number, workload, key, action, argument, time.monotonic_ns())))
        outcome, result, note = work()
        self._write(encode(Ended(self._client, number, outcome, result, time.monotonic_ns(), note)))
        return outcome, result, note

    def _write(self, data: bytes) -> None:
        with self.mutex:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(1, rest) :]


def run(task: Task, name: str, number: int, ended: threading.Event) -> None:
    """Do one workload until the end."""
    rng = Random(f"{task.seed} {task.client} {name} {number}")
    one = ALL[name](Path(task.home), task.node, Writer(f"{task.client}.{name}.{number}"), rng, task.witness)
    if task.last is not None:
        one.last(task.last.get(name, []))
        return
    while not ended.wait(rng.uniform(0, 2 * task.pace_s)):
        try:
            one.turn()
        except (UniosError, OSError, RuntimeError) as error:  # the history has it already, or nothing was asked
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)


def main() -> int:
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    ended = threading.Event()
    threads = [threading.Thread(target=run, args=(task, name, number, ended), daemon=True) for number, name in enumerate(task.workloads)]
    for thread in threads:
        thread.start()
    if task.last is None:
        sys.stdin.buffer.read()
        ended.set()
    until = time.monotonic() + (END_S if task.last is None else 60)
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    with Writer.mutex:
        os._exit(int(task.last is not None and any(thread.is_alive() for thread in threads)))


if __name__ == "__main__":
    assert workloads.ALL
    sys.exit(main())
