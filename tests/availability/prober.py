"""`python -m tests.availability.prober MACHINE OTHER`: ten probes a second from this machine, whatever became of those before. Ends with its input.

Of each ten: five in the store (a write of a key of its own and a linearizable read, by turns), four calls of a process on the machine OTHER, one run of a
process anywhere. It tells on stdout, as JSON: `["asked", number, kind, when]` and `["answered", number, kind, when]` (CLOCK_MONOTONIC: one for all
pseudo-machines). A probe that fails tells nothing more.
"""

import itertools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import unios
from tests.histories.doors import Store
from unios.client import processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.store.model import Put
from unios.wire.operations import Program

EVERY_S: Final = 0.1
ANSWER_S: Final = 1.0
"""What is answered later is not answered."""
TURNS: Final = ("store", "call", "store", "call", "store", "call", "store", "call", "store", "run")
KINDS: Final = ("store", "call", "run")
WORKERS: Final = 10
"""Of each kind: as many as can wait for an answer at a time. A probe for which none is free within a second is not answered."""
_lock = threading.Lock()


def say(word: str, number: int, kind: str) -> None:
    with _lock:
        print(json.dumps([word, number, kind, time.monotonic()]), flush=True)


def store(machine: str, _other: str, worker: int) -> Callable[[], object]:
    door, numbers = Store(Path(os.environ["UNIOS_HOME"]), ""), itertools.count()
    key = f"/test/probes/{machine}/{worker}"

    def probe() -> None:
        number = next(numbers)
        if number % 2 == 0:
            door.transact((), [Put(key, str(number).encode())])
        else:
            door.read(key)

    return probe


def call(_machine: str, other: str, _worker: int) -> Callable[[], object]:
    ports: list[unios.Port] = []

    def probe() -> None:
        if not ports:
            ports.append(unios.connect(f"probe/{other}", timeout=ANSWER_S).options(idempotent=True, timeout=ANSWER_S))
        if ports[0].add(1, 2) != 3:
            raise AssertionError("1 and 2 are not 3")

    return probe


def run(_machine: str, _other: str, _worker: int) -> Callable[[], object]:
    connection = Connection()

    def probe() -> None:
        pid = processes.submit(connection, Program(argv=(b"/bin/true",), resources=Resources(cpu_milli=20))).pid
        view = processes.wait(connection, pid, timeout_s=ANSWER_S)
        if view.exit_code != 0:
            raise AssertionError(f"{pid} is {view.state}")

    return probe


MAKERS: Final = {"store": store, "call": call, "run": run}


def work(asked: "queue.Queue[tuple[int, float]]", kind: str, probe: Callable[[], object]) -> None:
    while True:
        number, at = asked.get()
        if time.monotonic() - at > ANSWER_S:
            continue
        try:
            probe()
        except Exception as error:  # noqa: BLE001 - not answered, for whatever reason
            print(f"{kind}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        else:
            say("answered", number, kind)


def main() -> None:
    machine, other = sys.argv[1:]
    queues: dict[str, queue.Queue[tuple[int, float]]] = {kind: queue.Queue() for kind in KINDS}
    for kind in KINDS:
        for worker in range(WORKERS):
            probe = MAKERS[kind](machine, other, worker)
            threading.Thread(target=work, args=(queues[kind], kind, probe), daemon=True).start()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    begun = time.monotonic()
    for number in itertools.count():
        time.sleep(max(0.0, begun + number * EVERY_S - time.monotonic()))
        kind = TURNS[number % len(TURNS)]
        say("asked", number, kind)
        queues[kind].put((number, time.monotonic()))


if __name__ == "__main__":
    main()
