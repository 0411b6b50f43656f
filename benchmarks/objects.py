"""objects: what it costs to hand 100 MB to another process of the node or of another one by `put` and `get`, by part, by size, and beside Ray.

A hand-over is all of it: the array is put, its reference sent in a call, got there, read at both ends, answered. Between nodes it is held against a bare TLS
connection and a bare chain of the same processes, in turns.
"""

import contextlib
import sys
from collections.abc import Sequence
from subprocess import Popen

from benchmarks import call_limits, chains, child, plots
from benchmarks.call_limits import BULK_BYTES
from benchmarks.peers import LAB, ROOMS, Figure, Peers
from benchmarks.row import Report, Row, figure, limited
from benchmarks.samples import once, percentile
from benchmarks.system import System

TURNS = 20
FAR_TURNS = 8
READS = 5
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
SIZED_BYTES = 400_000_000
"""So much in all for each size, and at most SIZED_TIMES_MAX hand-overs."""
SIZED_TIMES_MAX = 300
HAND_OVER_MS = 1.0
TLS_SHARE, CHAIN_TIMES = 0.45, 2.0
"""Of a bare TLS connection; and our own limit (docs/decisions/0036), of a bare chain of the same processes."""
GROWN_MB = 5.0
"""What a reader of 100 MB may take of memory of its own: it reads in place."""
OF_100_MIB = 1e8 / (100 << 20)
"""The lab's arrays are of 100 MiB."""
NEAR, FAR = "n1", "n2"
BORN, COPIED, BETWEEN = "on one node, born in shared memory", "on one node, copied", "between nodes, born in shared memory"
PEERS = ("ray",)
Phases = dict[str, float]


def run(peers: Peers) -> Report:
    """Measure; the bare connection in turns with ours, Ray after ours."""
    report = Report("objects", strict=True)
    with System(2) as system, contextlib.ExitStack() as stack:
        system.up()
        for node in (NEAR, FAR):
            stack.enter_context(_part(system, "serve", node))
        giver = stack.enter_context(_part(system, "give", NEAR))
        born, copied = _near(report, giver)
        _reads(report, giver)
        _far(report, system, giver)
        lines = _sizes(report, giver)
    print("peers", file=sys.stderr)
    peers.run(ROOMS / "objects.py", PEERS, 300)
    peers.run(LAB / "calls.py", ("memfd",), 300)
    report.rows += [
        *peers.rows(copied, "array100MiB_p50", ("ray", "dask", "memfd-fresh", "memfd-reused"), OF_100_MIB),
        *peers.rows(born, "array100MiB_p50", ("ray", "memfd-no-copy"), OF_100_MIB),
    ]
    if of_ray := ray_line(peers.figures):
        lines["Ray, on one node"] = of_ray
    plots.write("objects", "Objects handed over: size against throughput", "bytes in an object", "MB a second", lines)
    report.notes.append(
        "Handed over: put, its reference sent in a call, got and read at both ends by another process, answered. Peers' arrays have 100 MiB; the figures are "
        "those of 100 MB. Ray's store is of memory that was touched before, as is memfd-reused; ours is new each time. To hand over in a message what was born in "
        "shared memory takes under a millisecond (see calls); an object takes three calls among three processes, for which 1 kB takes 0.8 ms when called again and "
        "again and 1.3 ms after 100 MB of other memory were written, as before each hand-over here (2026-11-28). Size against throughput: plots/objects.svg."
    )
    peers.tell(report)
    return report


def _part(system: System, what: str, node: str) -> "contextlib.AbstractContextManager[Popen[bytes]]":
    return child.running([sys.executable, "-m", "benchmarks.object_parts", what], {**system.env, "UNIOS_NODE": node})


def _give(giver: "Popen[bytes]", to: str, size: int, *, born: bool) -> Phases:
    found: Phases = child.ask(giver, {"do": "give", "to": to, "size": size, "born": born})
    return {**found, "call_s": found["whole_s"] - found["put_s"] - found["get_s"]}


def ms(taken: Sequence[Phases], phase: str, percent: float) -> float:
    """Return that rank of a phase, in ms."""
    return 1000 * percentile([phases[phase] for phases in taken], percent)


def _near(report: Report, giver: "Popen[bytes]") -> tuple[Row, Row]:
    """Add the rows on one node; return those of what was born in shared memory and of what was not, which the peers are held against."""
    print(f"100 MB on one node, {TURNS} turns", file=sys.stderr)
    born: list[Phases] = []
    copied: list[Phases] = []
    for turn in range(-2, TURNS):
        for taken, is_born in ((born, True), (copied, False)):
            phases = _give(giver, NEAR, BULK_BYTES, born=is_born)
            if turn >= 0:
                taken.append(phases)
    what = "100 MB born in shared memory, handed over on one node"
    report.rows += [
        limited(f"{what}, p50", ms(born, "whole_s", 50), "ms", TURNS, HAND_OVER_MS),
        Row(f"{what}, p99", ms(born, "whole_s", 99), "ms", TURNS),
        Row("of which `put`, p50", ms(born, "put_s", 50), "ms", TURNS),
        Row("of which `get`, p50", ms(born, "get_s", 50), "ms", TURNS),
        Row("of which the call that carries the reference, without `get`, p50", ms(born, "call_s", 50), "ms", TURNS),
    ]
    other = "100 MB of an ordinary array, copied once, handed over on one node"
    report.rows += [
        Row(f"{other}, p50", ms(copied, "whole_s", 50), "ms", TURNS),
        Row(f"{other}, p99", ms(copied, "whole_s", 99), "ms", TURNS),
        Row("of which `put` (the copy, into new memory), p50", ms(copied, "put_s", 50), "ms", TURNS),
        Row("of which `get`, p50", ms(copied, "get_s", 50), "ms", TURNS),
    ]
    return Row(f"{what}, p50", ms(born, "whole_s", 50), "ms", TURNS), Row(f"{other}, p50", ms(copied, "whole_s", 50), "ms", TURNS)


def _reads(report: Report, giver: "Popen[bytes]") -> None:
    print("100 MB read in place", file=sys.stderr)
    taken: list[Phases] = [child.ask(giver, {"do": "read", "to": NEAR, "size": BULK_BYTES}) for _ in range(READS + 1)][1:]
    against, ordinary = "the sum of an ordinary array, same run:", ms(taken, "ordinary_s", 50)
    report.rows += [
        Row("numpy's sum of 100 MB that were got, first time, p50", ms(taken, "first_s", 50), "ms", READS, against, ordinary),
        Row("the same again, p50", ms(taken, "again_s", 50), "ms", READS, against, ordinary),
        limited("memory of its own that the reader of 100 MB takes, most", max(one["grown_mb"] for one in taken), "MB", READS, GROWN_MB),
    ]


def _far(report: Report, system: System, giver: "Popen[bytes]") -> None:
    print(f"100 MB between nodes, {FAR_TURNS} turns", file=sys.stderr)
    two: list[float] = []
    same: list[float] = []
    ours: list[Phases] = []
    with call_limits.tls_bulk(system.home) as transfer, chains.far_object(system.home) as passing:
        for turn in range(-1, FAR_TURNS):
            bare, chained, phases = once(transfer), once(passing), _give(giver, FAR, BULK_BYTES, born=True)
            if turn >= 0:
                two.append(bare)
                same.append(chained)
                ours.append(phases)
    n, mb, whole = FAR_TURNS, BULK_BYTES / 1e6, ms(ours, "whole_s", 50) / 1000
    of_tls, of_chain = "a bare TLS connection, same run:", "a bare chain of the same processes into new shared memory, same run:"
    report.rows += [
        Row("100 MB handed over between nodes, p50", mb / whole, "MB/s", n, of_tls, mb / percentile(two, 50), rate=True),
        Row("100 MB handed over between nodes, p50", mb / whole, "MB/s", n, of_chain, mb / percentile(same, 50), rate=True),
        Row("seconds for 100 MB handed over between nodes, p50", whole, "s", n, of_tls, percentile(two, 50), 1 / TLS_SHARE),
        Row("seconds for 100 MB handed over between nodes, p50", whole, "s", n, of_chain, percentile(same, 50), CHAIN_TIMES, own=True),
        Row("seconds for 100 MB handed over between nodes, p99", ms(ours, "whole_s", 99) / 1000, "s", n, of_chain, percentile(same, 99)),
        Row("`get` of 100 MB that were fetched to the node before, p50", ms(ours, "again_s", 50), "ms", n),
    ]


def times_of(size: int) -> int:
    """Return how often a size is measured."""
    return max(4, min(SIZED_TIMES_MAX, SIZED_BYTES // size))


def _sizes(report: Report, giver: "Popen[bytes]") -> dict[str, plots.Line]:
    """Add the rows of all sizes; return the lines of the plot."""
    lines: dict[str, plots.Line] = {}
    for name, to, born in ((BORN, NEAR, True), (COPIED, NEAR, False), (BETWEEN, FAR, True)):
        print(f"sizes {name}", file=sys.stderr)
        lines[name] = []
        for size in SIZES:
            times = times_of(size)
            taken = [_give(giver, to, size, born=born) for _ in range(times + 1)][1:]
            whole = ms(taken, "whole_s", 50)
            lines[name].append((size, size / 1000 / whole))
            report.rows.append(Row(f"{size_of(size)} handed over {name}, p50", 1000 * whole, "us", times))
    return lines


def size_of(size: int) -> str:
    """Return a size with its unit, those of 1000."""
    return figure(size / 1e6, "MB") if size >= 1_000_000 else figure(size / 1e3, "kB")


def ray_line(figures: Sequence[Figure]) -> plots.Line:
    """Return the sizes and the MB a second of what Ray handed over in this run, smaller ones first."""
    name = "hand_over_MBs_"
    return sorted((float(one.metric.removeprefix(name)), one.value) for one in figures if one.peer == "ray" and one.metric.startswith(name))
