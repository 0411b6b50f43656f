"""`python -m tests.deaths.driver MACHINE`: what goes on on each machine while others die. It tells all that it was told as lines of JSON on stdout, which lies
outside of every machine, and ends with its input.

Each line has `at` (CLOCK_MONOTONIC: one for all pseudo-machines) and `kind`:

| kind | what it says |
|---|---|
| step | a step `name` that `began` then has ended, `how` ("ok", the code of an error of unios, "wrong", "alien") and `text` |
| accepted | process `pid` was acknowledged; it has to end with `code` |
| wrote | `key` = `value` was acknowledged by the store |
| answer | call number `mark`, which `began` then, was answered by `incarnation`, which had done it `times` times |
| held, freed | the lock was acquired under `token`; it is about to be released, `how` it stood then |
| nodes | the nodes that are `there`: whose leases have not ended, as this machine's way to the store says; told at each change |
"""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import unios
from tests.histories.doors import Store
from tests.matrix.drivers.work import Wrong
from unios.client import processes
from unios.client.channel import Channel
from unios.client.connection import Connection
from unios.client.ports import connect_raw
from unios.demands import Resources
from unios.errors import UniosError
from unios.store.model import Batch, Put, Range, RangeResult, Transaction, TransactionResult
from unios.store.requests import WatchRequest
from unios.wire.operations import Program

KEYS: Final = "/test/deaths/"
ALIVE: Final = "/alive/"
DOOR_S: Final = 5.0
PATIENCE_S: Final = 60.0
LOOK_S: Final = 0.05
AGAIN_S: Final = 0.1
TASKS: Final = 6
STEPS: Final = ("run", "once", "add", "map", "store", "lock")
_lock = threading.Lock()
_life = os.urandom(6).hex()
"""A machine that is new counts its processes from the beginning again."""
_ended = threading.Event()


def say(kind: str, **fields: Any) -> None:
    line = json.dumps({"kind": kind, "at": time.monotonic(), **fields})
    with _lock:
        print(line, flush=True)


def repeat(name: str, step: Callable[[], object], pause_s: float) -> None:
    """Do a step again and again, and tell how each ended."""
    while not _ended.is_set():
        began, how, text = time.monotonic(), "ok", ""
        try:
            step()
        except Wrong as error:
            how, text = "wrong", str(error)
        except UniosError as error:
            how, text = error.code, str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            how, text = "alien", f"{type(error).__name__}: {error}"
        say("step", name=name, began=began, how=how, text=text[-500:])
        _ended.wait(pause_s if how == "ok" else AGAIN_S)


def run() -> Callable[[], object]:
    """A process that may be anywhere: from when it is acknowledged on it has to end, rightly."""
    connection, numbers = Connection(), itertools.count()

    def step() -> None:
        code = next(numbers) % 100
        script = f"sleep 0.2; exit {code}"
        pid = processes.submit(connection, Program(argv=(b"/bin/sh", b"-c", script.encode()), resources=Resources(cpu_milli=50))).pid
        say("accepted", pid=pid, code=code)
        view = processes.wait(connection, pid, timeout_s=PATIENCE_S)
        if (view.state, view.exit_code) != ("exited", code):
            raise Wrong(f"{pid}.{view.incarnation} on {view.node} is {view.state}, code {view.exit_code} and not {code}: {view.reason}")

    return step


def calls(machine: str) -> tuple[Callable[[], object], Callable[[], object]]:
    port = unios.connect("matrix/sums", timeout=PATIENCE_S).options(timeout=PATIENCE_S)
    numbers = itertools.count()

    def once() -> None:
        mark = f"{machine}.{_life}.{next(numbers)}"
        began = time.monotonic()
        incarnation, times = port.once(mark)
        say("answer", mark=mark, began=began, incarnation=incarnation, times=times)

    def add() -> None:
        number = next(numbers)
        if (got := port.options(idempotent=True, timeout=PATIENCE_S).add(number, 1)) != number + 1:
            raise Wrong(f"{number} + 1 came to {got}")

    return once, add


def square(number: int) -> int:
    return number * number


def tasks() -> Callable[[], object]:
    pool: list[unios.Executor] = []

    def step() -> None:
        if not pool or not pool[0].usable():
            pool[:] = [unios.Executor(2, cpus=0.05, retries=5)]
        try:
            got = list(pool[0].map(square, range(TASKS), timeout=PATIENCE_S))
        except unios.ExecutorBroken:
            pool.clear()
            raise
        if got != [number * number for number in range(TASKS)]:
            raise Wrong(f"a map came to {got}")

    return step


def store(machine: str, home: Path, node: str) -> Callable[[], object]:
    """Write a key that was never there, then read it back: who acknowledged it has to have it."""
    door, numbers = Store(home, node), itertools.count()

    def step() -> None:
        key, value = f"{KEYS}{machine}/{_life}.{next(numbers)}", time.monotonic_ns().to_bytes(8, "big")
        door.transact((), [Put(key, value)])
        say("wrote", key=key, value=value.hex())
        found = door.read(key)[0].get(key)
        if found is None or found.value != value:
            raise Wrong(f"{key} was acknowledged and is {found and found.value.hex()} and not {value.hex()}")

    return step


def lock() -> Callable[[], object]:
    taken = unios.Lock("deaths")

    def step() -> None:
        if not taken.acquire(timeout=PATIENCE_S):
            raise Wrong(f"the lock was not to be had for {PATIENCE_S} s")
        try:
            token = tuple(taken.check())
            say("held", token=token)
            time.sleep(0.02)
            try:
                taken.check()
            except UniosError as error:
                say("freed", token=token, how=error.code)
                raise
            say("freed", token=token, how="ok")
        finally:
            taken.release()

    return step


def watch() -> None:
    """Tell who is there as soon as this machine's way to the store says it: the end of a node's lease is what loss rests on."""
    while not _ended.is_set():
        try:
            _watch_once(Connection())
        except (UniosError, OSError):
            _ended.wait(LOOK_S)


def _watch_once(connection: Connection) -> None:
    channel = Channel(connect_raw(connection, "store"), role="history")
    try:
        asked = channel.begin("store.watch", WatchRequest(ALIVE))
        asked.next(Batch, timeout_s=DOOR_S)  # where it begins
        found: TransactionResult = channel.call("store.transact", Transaction(then=(Range(ALIVE, prefix=True),)), TransactionResult, timeout_s=DOOR_S)
        there = {record.key for part in found.results if isinstance(part, RangeResult) for record in part.records}
        say("nodes", there=sorted(key.removeprefix(ALIVE) for key in there))
        while (batch := asked.next(Batch)) is not None:
            for event in batch.events:
                (there.add if event.kind == "put" else there.discard)(event.record.key)
            say("nodes", there=sorted(key.removeprefix(ALIVE) for key in there))
    finally:
        channel.close()
        connection.close()


def main() -> None:
    machine, home = sys.argv[1], Path(os.environ["UNIOS_HOME"])
    once, add = calls(machine)
    node = f"n{machine[1:]}"
    steps = {
        "run": (run(), 0.8),
        "once": (once, 0.4),
        "add": (add, 0.2),
        "map": (tasks(), 1.0),
        "store": (store(machine, home, node), 0.2),
        "lock": (lock(), 0.2),
    }
    assert tuple(steps) == STEPS
    for name, (step, pause_s) in steps.items():
        threading.Thread(target=repeat, args=(name, step, pause_s), daemon=True).start()
    threading.Thread(target=watch, daemon=True).start()
    sys.stdin.buffer.read()
    _ended.set()
    with _lock:
        os._exit(0)  # what a broken system keeps from ending must not keep this


if __name__ == "__main__":
    main()
