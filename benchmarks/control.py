"""control: the control plane on etcd that the system runs itself: the machine with its leader is lost; 1,000 processes in a minute. See `store` for latencies.

The machines are three pseudo-machines (tests/live: own network, processes, disk) of one Linux, with a member and a gateway each.
"""

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.live import machines
from tests.live.machines import Lab, Machine

from benchmarks import store
from benchmarks.peers import Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import percentile

LOSSES = 3
BEFORE_S, AFTER_S = 4.0, 9.0
GOES_ON_S, ELSEWHERE_S = 3.0, 5.0
NOTICES_MS = 250.0
"""Our own: what the data paths may be late by, on processors that the dying and the recovering share with them."""
MINUTE_S = 60.0
PROCESSES = 1_000
GROWN_S = 90.0
PRINTS = "while :; do echo x; sleep 0.02; done"


def run(peers: Peers) -> Report:
    """Measure."""
    report = Report("control", strict=True)
    why = machines.missing()
    if why:
        report.notes.append(f"The loss of a machine was not measured here: {why}.")
    else:
        with machines.lab(3) as lab:
            _found(lab)
            taken: dict[str, list[float]] = {}
            for turn in range(LOSSES):
                print(f"the leader's machine dies, {turn + 1} of {LOSSES}", file=sys.stderr)
                for name, value in _lose(lab).items():
                    taken.setdefault(name, []).append(value)
            report.rows += _told(taken)
            _minute(lab, report)
            for machine in lab.machines:
                machine.unios("down", "--all", check=False)
    latencies = store.run(peers)
    report.rows += [row for row in latencies.rows if row.at_most is not None]
    report.notes += [NOTE, *latencies.notes]
    return report


NOTE = (
    "Killed: every process of the machine at once, the one that holds etcd's leader by `unios store status`; looked at from the two others. Control: a record "
    "written into the store by a machine's own gateway, and a program submitted, run and waited for, each asked for again and again; the figure is the longest "
    "time from one that was done to the next, over the kill. Data: calls, a followed stream, and tasks, between the two machines that are left; the figure is the "
    "longest gap in the 9 s after the kill, and its peer the longest in the 4 s before. All machines share one Linux's processors and disk."
)


def _found(lab: Lab) -> None:
    first, *others = lab.machines
    first.unios("up", "--listen", first.address, "--store", "etcd")
    for machine in others:
        machine.unios("join", first.json("join", "--root")["token"])
    _all_vote(lab)


def _status(machine: Machine) -> list[dict[str, object]]:
    done = machine.unios("store", "status", "--json", check=False)
    return list(json.loads(done.stdout or b"{}").get("members", ()))


def _all_vote(lab: Lab) -> None:
    until = time.monotonic() + GROWN_S
    while time.monotonic() < until:
        found = _status(lab.machines[0])
        if len(found) == 3 and all(one.get("answers") and not one.get("learner") for one in found) and any(one.get("leader") for one in found):
            nodes = lab.machines[0].json("nodes")
            if all(one["state"] == "ready" for one in nodes):
                return
        time.sleep(0.3)
    raise RuntimeError("the three machines did not come to keep the store together")


@contextlib.contextmanager
def _part(machine: Machine, *words: str) -> Iterator["Part"]:
    part = Part(machine, *words)
    try:
        yield part
    finally:
        part.end()


class Part:
    """One of benchmarks/control_parts.py in a machine; its lines are read at the end."""

    def __init__(self, machine: Machine, *words: str) -> None:
        self.file = machine.lab.folder / f"part-{time.monotonic_ns()}"
        root = str(Path(__file__).resolve().parent.parent)
        with self.file.open("wb") as out:
            self._process = machine.start(
                "env", f"PYTHONPATH={root}/src:{root}", sys.executable, "-m", "benchmarks.control_parts", *words, stdout=out
            )

    def wait_begun(self) -> "Part":
        until = time.monotonic() + 20
        while not self.file.stat().st_size:
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError("a part of the benchmark did not begin")
            time.sleep(0.02)
        return self

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def done(self) -> list[float]:
        """Return when it did what was asked."""
        rows = [line.split() for line in self.file.read_text().splitlines()]
        return [float(row[0]) for row in rows if len(row) == 3 and row[2] == "1"]


def _gap(done: list[float], since: float, until: float) -> float:
    """Return the longest time from one to the next that touches that span; what has not come by its end counts as coming then."""
    inner = [at for at in done if since <= at <= until]
    before = max((at for at in done if at < since), default=since)
    points = [before, *inner, until]
    return max(later - earlier for earlier, later in itertools.pairwise(points))


def _lose(lab: Lab) -> dict[str, float]:
    leader = next(str(one["node"]) for one in _status(lab.machines[0]) if one.get("leader"))
    victim = next(machine for machine in lab.machines if f"n{machine.number}" == leader)
    near, far = (machine for machine in lab.machines if machine is not victim)
    pid = _start(victim, "sleep", "1000")
    prints = _start(far, "sh", "-c", PRINTS, pinned=True)
    far_node, near_node = f"n{far.number}", f"n{near.number}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_part(far, "serve")).wait_begun()
        parts = {
            name: stack.enter_context(_part(near, *words)).wait_begun()
            for name, words in {
                "puts": ("puts",),
                "submits": ("submits", near_node),
                "elsewhere": ("elsewhere", str(pid)),
                "calls": ("calls",),
                "lines": ("lines", str(prints)),
                "tasks": ("tasks", far_node),
            }.items()
        }
        time.sleep(BEFORE_S)
        killed = time.monotonic()
        victim.die()
        time.sleep(AFTER_S)
    found = {name: _gap(parts[name].done(), killed, killed + AFTER_S) for name in ("puts", "submits", "calls", "lines", "tasks")}
    found |= {f"{name} before": _gap(parts[name].done(), killed - BEFORE_S / 2, killed) for name in ("calls", "lines", "tasks")}
    moved = parts["elsewhere"].done()
    found["elsewhere"] = moved[0] - killed if moved else AFTER_S
    victim.boot()
    victim.unios("up", timeout=120)
    _all_vote(lab)
    for left in (pid, prints):
        near.unios("kill", "-s", "KILL", str(left), check=False)
    return found


def _start(machine: Machine, *words: str, pinned: bool = False) -> int:
    on, beside, where = f"n{machine.number}", list[int](), ("--on", f"n{machine.number}") if pinned else ()
    try:
        for _attempt in range(20):  # one that is not pinned can move
            found = json.loads(machine.unios("run", "-d", "--json", *where, "--", *words).stdout)
            if found["node"] == on:
                return int(found["pid"])
            beside.append(int(found["pid"]))
    finally:
        for pid in beside:
            machine.unios("kill", "-s", "KILL", str(pid), check=False)
    raise RuntimeError(f"nothing is placed on {on}")


def _told(taken: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name, what, limit in (
        ("puts", "a record is written again", GOES_ON_S),
        ("submits", "a program submitted, run and waited for again", GOES_ON_S),
        ("elsewhere", "its process runs elsewhere", ELSEWHERE_S),
    ):
        for rank, value in (("p50", percentile(taken[name], 50)), ("max", max(taken[name]))):
            rows.append(limited(f"the machine with etcd's leader dies: {what}, {rank}", value, "s", LOSSES, limit))
    for name, what in (("calls", "calls"), ("lines", "a followed stream"), ("tasks", "tasks")):
        worst, before = 1_000 * max(taken[name]), 1_000 * max(taken[f"{name} before"])
        rows.append(Row(f"likewise: longest gap of {what} between the others", worst, "ms", LOSSES, "before the kill, same run:", before))
        rows.append(limited(f"likewise: longest gap of {what}, own limit", worst, "ms", LOSSES, max(NOTICES_MS, 2 * before)))
    return rows


def _minute(lab: Lab, report: Report) -> None:
    """Start and end PROCESSES in a minute, by one who asks in each machine; what has not ended by then is the backlog."""
    print(f"{PROCESSES} processes in a minute", file=sys.stderr)
    parts = []
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        each = PROCESSES // len(lab.machines) + 1
        for machine in lab.machines:
            parts.append(stack.enter_context(_part(machine, "paced", str(each), str(MINUTE_S))))
        while time.monotonic() < began + MINUTE_S + 10:
            time.sleep(1)
    lines = [line.split() for part in parts for line in part.file.read_text().splitlines()]
    took = [float(row[1]) for row in lines if len(row) == 3 and row[2] == "1"]
    late = [float(row[0]) for row in lines if len(row) == 3]
    report.rows += [
        Row(
            f"{each * len(parts)} processes in {MINUTE_S:.0f} s: ended",
            float(len(took)),
            "",
            len(took),
            "asked for",
            float(each * len(parts)),
            None,
            True,
        ),
        limited("likewise: asked for and not ended", float(each * len(parts) - len(took)), "", len(took), 0.5),
        limited("likewise: the last ended after the minute", max(0.0, max(late, default=0.0) - began - MINUTE_S), "s", len(took), 5.0),
        Row("likewise: from submission to the end known, p50", 1_000 * percentile(took, 50), "ms", len(took)),
        Row("likewise: p99", 1_000 * percentile(took, 99), "ms", len(took)),
        limited("likewise: slowest tenth of the last quarter against the first quarter", _growth(took), "times", len(took), 2.0),
    ]


def _growth(took: list[float]) -> float:
    """Return by how much the p90 of the last quarter is over that of the first: a backlog grows."""
    quarter = max(len(took) // 4, 1)
    return percentile(took[-quarter:], 90) / percentile(took[:quarter], 90)
