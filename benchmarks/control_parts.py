"""What the benchmark of the control plane runs inside a machine: each part does one thing again and again, and prints a line for each time, until it is ended.

`python -m benchmarks.control_parts WHAT ...`, see `main`. A line: when it was done (CLOCK_MONOTONIC, seconds, the same for all machines of one Linux), how
long it took, and whether it came to what was asked.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.call_parts import NAME, WORD
from unios.client import output, processes
from unios.client.connection import PASSING, Connection
from unios.demands import Resources
from unios.errors import UniosError
from unios.wire.home import Home
from unios.wire.operations import OfProcess, ProcessView, Program

PACE_S = 0.02
WORKERS = 16
"""So many wait at once: more than are under way unless there is a backlog."""
LOOK_S = 0.3
PATH = ((b"PATH", b"/usr/bin:/bin"),)
HOME = Path("/var/unios")


def tell(began: float, ok: bool) -> None:
    now = time.monotonic()
    print(f"{now:.4f} {now - began:.4f} {int(ok)}", flush=True)


def again(work: Callable[[], object], pace_s: float = PACE_S) -> None:
    """Do it for ever."""
    while True:
        began = time.monotonic()
        ok = True
        try:
            work()
        except (UniosError, OSError):
            ok = False
        tell(began, ok)
        time.sleep(pace_s)


def puts() -> None:
    """Write a record into the store by this machine's own way, as its services do."""
    from unios.store.client import StoreClient, at

    async def work() -> None:
        store = StoreClient(at(Home(HOME).store))
        while True:
            began = time.monotonic()
            ok = True
            try:
                await store.put("/bench/control", b"x")
            except UniosError:
                ok = False
            tell(began, ok)
            await asyncio.sleep(PACE_S)

    asyncio.run(work())


def submits(node: str) -> None:
    """Start a program here and wait for its end: placement, records, kernel."""
    program = Program((b"true",), PATH, node=node, resources=Resources(cpu_milli=0))

    def work() -> None:
        with Connection(HOME) as connection:
            processes.wait(connection, processes.submit(connection, program).pid)

    again(work)


def elsewhere(pid: int) -> None:
    """Look at a process until it runs as its second incarnation."""
    while True:
        began = time.monotonic()
        with Connection(HOME) as connection:
            try:
                while True:
                    view: ProcessView = connection.call("processes.wait", OfProcess(pid, 1), ProcessView, timeout_s=LOOK_S)
                    moved = view.incarnation == 2 and view.state == "running"
                    tell(began, moved)
                    if moved:
                        return
                    time.sleep(PACE_S / 2)
            except PASSING:
                continue


def serve() -> None:
    from unios.client.messages.server import Server

    with Server(NAME, {"echo": lambda word: word}, home=HOME):
        print("ready", flush=True)
        time.sleep(1_000)


def calls() -> None:
    from unios.client.messages.port import Port

    with Port(NAME, home=HOME) as port:
        again(lambda: port.call("echo", WORD), PACE_S / 4)


def lines(pid: int) -> None:
    """Follow a program that prints a line each PACE_S; `took` is the time since the last chunk came."""
    with Connection(HOME) as connection:
        last = time.monotonic()
        for _chunk in output.follow(connection, pid):
            tell(last, True)
            last = time.monotonic()


def tasks(node: str) -> None:
    import unios

    with unios.Executor(1, cpus=0.1, node=node, home=HOME) as executor:
        again(lambda: executor.submit(abs, -1).result())


def paced(count: int, seconds: float) -> None:
    """Submit so many programs, evenly over that time whatever becomes of those before, wherever they are placed; a line as each has ended."""
    program = Program((b"true",), PATH, resources=Resources(cpu_milli=0))
    began = time.monotonic()
    turns = iter(range(count))
    turn_lock = threading.Lock()

    def work() -> None:
        with Connection(HOME) as connection:
            while True:
                with turn_lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                time.sleep(max(0.0, began + turn * seconds / count - time.monotonic()))
                asked = time.monotonic()
                try:
                    ended = processes.wait(connection, processes.submit(connection, program).pid)
                    tell(asked, ended.exit_code == 0)
                except UniosError:
                    tell(asked, False)

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    what, *rest = sys.argv[1:]
    match what:
        case "puts" | "serve" | "calls":
            {"puts": puts, "serve": serve, "calls": calls}[what]()
        case "elsewhere" | "lines":
            {"elsewhere": elsewhere, "lines": lines}[what](int(rest[0]))
        case "paced":
            paced(int(rest[0]), float(rest[1]))
        case "submits" | "tasks":
            {"submits": submits, "tasks": tasks}[what](rest[0])


if __name__ == "__main__":
    main()
