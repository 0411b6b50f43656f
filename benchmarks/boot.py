"""boot: how long three nodes take to be ready, and what a node costs at rest."""

import sys

from benchmarks import usage
from benchmarks.peers import ROOMS, Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import once, percentile
from benchmarks.system import System

ROUNDS = 7
REST_SETTLE_S = 5.0
REST_S = 30.0
PEERS = ("ray", "dask")
UP_LIMIT_S = 1.5
PSS_LIMIT_MB = 80.0
PROCESSOR_LIMIT_PERCENT = 1.0
MIB_IN_MB = 1.048576


def run(peers: Peers) -> Report:
    """Measure; the peers' starts come in turns with ours."""
    report = Report("boot")
    ready: list[float] = []
    first: list[float] = []
    for turn in range(ROUNDS):
        print(f"start {turn + 1} of {ROUNDS}", file=sys.stderr)
        with System() as system:
            ready.append(once(system.up))
            first.append(ready[-1] + once(lambda: system.command("run", "--", "true")))
            if turn == ROUNDS - 1:
                rest = _at_rest(system, report)
        if turn % 3 == 0:
            last = turn + 3 >= ROUNDS
            peers.run(ROOMS / "starts.py", [*(["--idle"] if last else []), *PEERS], 400)
    one = Row("three nodes ready, whole `unios up --nodes 3`, fresh home, p50", percentile(ready, 50), "s", ROUNDS)
    report.rows[:0] = [
        limited(one.what, one.value, "s", ROUNDS, UP_LIMIT_S),
        Row(one.what.replace("p50", "slowest"), max(ready), "s", ROUNDS),
        *peers.rows(
            Row("the same and the first `unios run -- true`, p50; peers: one node, first task done", percentile(first, 50), "s", ROUNDS),
            "system_start",
            PEERS,
        ),
    ]
    report.rows += [
        *peers.rows(Row("memory of three nodes at rest, PSS", rest[0], "MB", 1), "idle_pss", PEERS, MIB_IN_MB),
        *peers.rows(Row("processor use of three nodes at rest, of one core", rest[1], "%", 1), "idle_cpu", PEERS),
    ]
    report.notes.append(
        f"At rest: pids as `unios nodes --json` lists them, {REST_SETTLE_S:.0f} s after the first program ended, processor time from schedstat over {REST_S:.0f} s. "
        "PSS shares each page among all who map it, Python programs elsewhere on the machine included. "
        "The peers' rest is one Ray node (driver left out) and one Dask cluster of 2 workers (scheduler included), their processor time in ticks."
    )
    peers.tell(report)
    return report


def _at_rest(system: System, report: Report) -> tuple[float, float]:
    """Add the rows of each node; return PSS in MB and processor use in % of a core of all nodes together."""
    import time

    time.sleep(REST_SETTLE_S)
    print(f"at rest for {REST_S:.0f} s", file=sys.stderr)
    pids = {name: list(view["pids"]) for name, view in system.views().items()}
    host = system.store_node()
    parts = {f"{name} {pid} {usage.part_of(pid)}": [pid] for name, mine in pids.items() for pid in mine}
    shares = usage.processor_shares(parts, REST_S)
    memory = {name: usage.pss_mb(mine) for name, mine in pids.items()}
    percent = {name: 100 * sum(share for part, share in shares.items() if part.split()[0] == name) for name in pids}
    for name in pids:
        label = f"{name}{', which hosts the store' if name == host else ''}"
        report.rows.append(limited(f"memory of a node at rest, PSS: {label}", memory[name], "MB", 1, PSS_LIMIT_MB))
    report.rows.append(limited("memory per node, PSS of all divided by their number", sum(memory.values()) / len(pids), "MB", 1, PSS_LIMIT_MB))
    for name in pids:
        label = f"{name}{', which hosts the store' if name == host else ''}"
        report.rows.append(limited(f"processor use of a node at rest, of one core: {label}", percent[name], "%", 1, PROCESSOR_LIMIT_PERCENT))
    detail = [
        f"{part.split()[2]} {usage.pss_mb(mine):.1f} MB {100 * shares[part]:.2f} %"
        for part, mine in parts.items()
        if part.split()[0] == (host or next(iter(pids)))
    ]
    report.notes.append(f"Parts of {host or 'the first node'}: {', '.join(detail)}.")
    return sum(memory.values()), sum(percent.values())
