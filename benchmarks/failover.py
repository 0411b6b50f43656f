"""failover: how soon the loss of a node is noticed, how soon its process runs elsewhere, and how soon a dead or hung service is replaced."""

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

from benchmarks.peers import ROOMS, Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import percentile
from benchmarks.system import System
from unios.client import nodes, processes
from unios.client.connection import PASSING, Connection
from unios.demands import Resources
from unios.errors import UniosError
from unios.wire.operations import NodeView, OfProcess, ProcessView, Program

LOSSES = 5
FAULTS = 6
LOOK_S = 0.004
GIVE_UP_S = 30.0
ASK_S = 0.3
"""One look waits so long for its answer; then it is asked again on a new connection."""
JITTER_S = 0.5
"""Faults fall at random into the beats and renewals, whose period is shorter."""
CALM_S = 11.0
"""Deaths of one service within 10 s add up and are answered more slowly on purpose; these are kept apart."""
NOTICED_LIMIT_S = 1.5
ELSEWHERE_LIMIT_S = 3.0
SERVICE_LIMIT_S = 1.0
PROGRAM = Program((b"sleep", b"1000"), ((b"PATH", b"/usr/bin:/bin"),), resources=Resources(cpu_milli=0))
PEERS = ("dask", "ray")


def run(peers: Peers) -> Report:
    """Measure on one system; a node that was killed is started again before the next turn."""
    report = Report("failover")
    with System() as system:
        system.up()
        for hosts_store in (False, True):
            _losses(system, report, hosts_store)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            _faults(system, report, number)
    print("peers", file=sys.stderr)
    peers.run(ROOMS / "losses.py", PEERS, 400)
    moved = next(row for row in report.rows if "runs elsewhere" in row.what)
    report.rows += peers.rows(
        Row("process of a lost node runs elsewhere, p50; peers: task of a lost worker", moved.value, "s", moved.n), "runs_elsewhere", PEERS
    )
    report.notes.append(
        f"Looked at every {1000 * LOOK_S:.0f} ms through the Python client, at another node's door, from just before the first SIGKILL. All nodes are of one "
        "machine, so the connections of the dead are reset at once; a machine that is cut off says nothing and is noticed by the end of its lease alone. "
        "unios starts a process elsewhere only when its lease has ended and the old one is frozen for certain; Ray (node killed) and Dask (worker killed) "
        "start the task again when its connection breaks. A submission may be served by another node's service while the own one is away."
    )
    peers.tell(report)
    if not any(figure.metric == "runs_elsewhere" for figure in peers.figures):
        report.notes.append("The baseline has no figure on the loss of a node, so there is nothing to cite here.")
    return report


def _losses(system: System, report: Report, hosts_store: bool) -> None:
    taken: dict[str, list[float]] = {"suspected": [], "lost": [], "moved": []}
    for turn in range(LOSSES):
        which = "a node that hosts the store" if hosts_store else "a node"
        print(f"loss of {which}, {turn + 1} of {LOSSES}", file=sys.stderr)
        host = system.store_node()
        names = sorted(system.views())
        lost = host if hosts_store else next(name for name in names[turn % 3 :] + names if name != host)
        other = next(name for name in names if name not in (lost, host))
        for name, seconds in _lose(system, lost, other).items():
            taken[name].append(seconds)
        system.up()
        _wait_ready(system, other)
    kind = "the node that hosts the store" if hosts_store else "a node that does not host the store"
    for name, what, limit in (
        ("suspected", "not `ready` any more", NOTICED_LIMIT_S),
        ("lost", "`lost`", NOTICED_LIMIT_S),
        ("moved", "its process runs elsewhere, incarnation 2", ELSEWHERE_LIMIT_S),
    ):
        for rank, value in (("p50", percentile(taken[name], 50)), ("max", max(taken[name]))):
            report.rows.append(limited(f"kill -9 of all of {kind}: {what}, {rank}", value, "s", LOSSES, limit))


def _lose(system: System, lost: str, other: str) -> dict[str, float]:
    """Kill a node on which a program runs; return the seconds until it is suspected, until it is lost and until the program has moved."""
    with system.connect(other) as connection:
        pid, beside = _program_on(connection, lost)
        pids = next(view.pids for view in nodes.list_nodes(connection) if view.name == lost)

    def state(mine: Connection) -> str:
        views: tuple[NodeView, ...] = mine.call("node.list", None, tuple[NodeView, ...], timeout_s=ASK_S)
        return next((view.state for view in views if view.name == lost), "gone")

    def moved(mine: Connection) -> bool:
        view: ProcessView = mine.call("processes.wait", OfProcess(pid, 1), ProcessView, timeout_s=ASK_S)
        return view.incarnation == 2 and view.state == "running" and view.node != lost

    looked_for: dict[str, Callable[[Connection], bool]] = {
        "suspected": lambda mine: state(mine) != "ready",
        "lost": lambda mine: state(mine) in ("lost", "left"),
        "moved": moved,
    }
    took: dict[str, float] = {}
    time.sleep(random.uniform(0, JITTER_S))
    began = time.perf_counter()
    looks = [_looking(system, other, began, took, name, reached) for name, reached in looked_for.items()]
    for victim in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    for look in looks:
        look.join()
    with system.connect(other) as connection:
        for program in (pid, *beside):
            with contextlib.suppress(UniosError):
                processes.signal(connection, program, signal.SIGKILL)
    return took


def _looking(system: System, node: str, began: float, took: dict[str, float], name: str, reached: Callable[[Connection], bool]) -> threading.Thread:
    """Look again and again, in a thread with a connection of its own; put the seconds into `took`, GIVE_UP_S if it never came."""
    mine = system.connect(node)
    mine.channel()

    def look() -> None:
        with mine:
            while time.perf_counter() < began + GIVE_UP_S:
                try:
                    if reached(mine):
                        break
                except PASSING:
                    mine.close()
                time.sleep(LOOK_S)
            took[name] = time.perf_counter() - began

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def _program_on(connection: Connection, node: str) -> tuple[int, list[int]]:
    """Start programs, not pinned, until one runs on that node; return its pid and those of the others."""
    beside: list[int] = []
    for _ in range(12):
        submitted = processes.submit(connection, PROGRAM)
        if submitted.node == node:
            _wait_running(connection, submitted.pid)
            return submitted.pid, beside
        beside.append(submitted.pid)
    raise RuntimeError(f"12 programs were started and none on {node}")


def _wait_running(connection: Connection, pid: int) -> None:
    _wait(lambda: processes.view(connection, pid).state == "running", f"process {pid} runs")


def _wait_ready(system: System, node: str) -> None:
    with system.connect(node) as connection:
        _wait(lambda: all(view.state == "ready" for view in nodes.list_nodes(connection)), "every node is ready")
    time.sleep(1.0)


def _wait(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {GIVE_UP_S:.0f} s: {what}")
        time.sleep(0.01)


def _faults(system: System, report: Report, number: signal.Signals) -> None:
    replaced: list[float] = []
    asked: list[float] = []
    hit: dict[str, float] = {}
    for turn in range(FAULTS):
        print(f"placement service gets {number.name}, {turn + 1} of {FAULTS}", file=sys.stderr)
        node = sorted(system.views())[turn % 3]
        time.sleep(max(1.0, hit.get(node, 0) + CALM_S - time.monotonic()))
        hit[node] = time.monotonic()
        _fault(system, node, number, replaced, asked)
    kind = {signal.SIGKILL: "kill -9", signal.SIGSTOP: "SIGSTOP"}[number]
    for name, percent in (("p50", 50), ("max", 100)):
        report.rows.append(
            limited(f"service replaced and a submission works, after {kind}, {name}", percentile(replaced, percent), "s", FAULTS, SERVICE_LIMIT_S)
        )
    report.rows.append(Row(f"a submission made at the moment of {kind} is answered after, max", max(asked), "s", FAULTS))


def _fault(system: System, node: str, number: signal.Signals, replaced: list[float], asked: list[float]) -> None:
    """Hit the placement service of a node; add the seconds until it has a new pid and a submission at that node works, and of one made at once."""
    before = system.part_pid(node, "placement")
    submitted: list[int] = []

    def submit_at_once() -> None:
        with system.connect(node) as connection:
            submitted.append(processes.submit(connection, PROGRAM).pid)
            asked.append(time.perf_counter() - began)

    with system.connect(node) as connection:
        connection.channel()
        thread = threading.Thread(target=submit_at_once, daemon=True)
        time.sleep(random.uniform(0, JITTER_S))
        began = time.perf_counter()
        os.kill(before, number)
        thread.start()
        _wait(lambda: system.part_pid(node, "placement") not in (0, before), f"the placement service of {node} is replaced")
        submitted.append(processes.submit(connection, PROGRAM).pid)
        replaced.append(time.perf_counter() - began)
        thread.join()
        for pid in submitted:
            processes.signal(connection, pid, signal.SIGKILL)
