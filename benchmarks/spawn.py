"""spawn: how long a program takes from being submitted to its exit being known, how many a second, and what `unios ps` takes."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from benchmarks import work
from benchmarks.peers import LAB, Peers
from benchmarks.row import Report, Row
from benchmarks.samples import Call, interleaved, percentile, sustained
from benchmarks.system import System
from unios.client import processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.wire.operations import Program

T = TypeVar("T")
COUNT = 200
SUSTAINED = 1000
"""Programs of a rate: 200 are over in less than a second, in which the machine's own pace differs by a third from one to the next."""
WIDTH = 4
WIDTHS = (4, 8, 16)
SETTLE_S = 0.5
"""After the last exit: its tree is buried and its spare is made by then."""
REST_S = 0.03
"""Between two programs that are timed: what a start leaves to be done (the next spare) is done by then."""
COMMANDS = 30
UNSHARE = ("unshare", "--pid", "--mount", "--fork", "true")
SPAWN_LIMIT = 4.0
PS_LIMIT = 6.0
RATE_LIMIT = 200
"""Programs a second, sustained through the client."""
COMMAND_LIMIT = 2.0
"""`unios run -- true` as a multiple of srun, both whole commands."""
COMMAND_PEERS = ("slurm-srun", "podman", "ssh")
TRUE = Program((b"true",), ((b"PATH", b"/usr/bin:/bin"),), resources=Resources(cpu_milli=0))
"""No core is set aside for it: what is timed is the start, not the queue."""
PEERS = ("local", "unshare", "bwrap", "ssh", "podman", "slurm", "ray", "dask")
SPAWN_PEERS = ("subprocess", "ray-task", "bwrap", "ssh-multiplexed", "dask-task", "slurm-srun", "podman", "ssh")


def run(peers: Peers) -> Report:
    """Measure; the peers of the lab run after ours, `unshare` and the bare Python in turns with ours."""
    report = Report("spawn")
    with System() as system:
        system.up()
        _commands(system, report, "with no process in the records")
        alone, rate = _spawns(system, report)
        report.rows += _by_part(system)
        _commands(system, report, f"after {COUNT * (1 + len(WIDTHS)) + SUSTAINED + 40} processes have run")
    print("peers", file=sys.stderr)
    peers.run(LAB / "launch.py", PEERS)
    report.rows += [
        *peers.rows(alone, "run_true_p50", SPAWN_PEERS),
        *peers.rows(rate, "run_true_sustained", SPAWN_PEERS),
        *_whole_command(peers, report),
    ]
    report.notes.append(
        "Ours writes to disk before it answers: the record when the submission is answered, the exit before it is told. "
        f"Ray and Dask run `true` in a worker that waits, all {COUNT} submitted at once in the sustained figure; srun has its default settings."
    )
    peers.tell(report)
    return report


def true(connection: Connection) -> None:
    """Run `true` and wait for its exit; RuntimeError if it did not exit with 0."""
    submitted = processes.submit(connection, TRUE)
    view = processes.wait(connection, submitted.pid)
    if view.exit_code != 0:
        raise RuntimeError(f"true ended as {view}")


def unshare() -> None:
    subprocess.run(UNSHARE, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _spawns(system: System, report: Report) -> tuple[Row, Row]:
    """Add the rows; return those that the peers are held against: p50 in ms and runs a second."""
    print(f"{COUNT} programs one after the other", file=sys.stderr)
    with system.connect() as connection:
        submitted: list[float] = []

        def timed_submit() -> None:
            began = time.perf_counter()
            pid = processes.submit(connection, TRUE).pid
            submitted.append(time.perf_counter() - began)
            processes.wait(connection, pid)

        pair: dict[str, Call] = {"unios": lambda: true(connection), "unshare": unshare}
        taken, syncs = _counting(system, lambda: interleaved(pair, COUNT, rest_s=REST_S), COUNT + 3)
        busy = interleaved(pair, COUNT)
        interleaved({"submit": timed_submit}, 37)
    against = "`unshare --pid --mount --fork true`, same run:"
    p50, p99 = (
        Row(
            f"spawn to exit of `true`, Python client, one connection, p{percent}",
            1000 * percentile(taken["unios"], percent),
            "ms",
            COUNT,
            against,
            1000 * percentile(taken["unshare"], percent),
            SPAWN_LIMIT,
        )
        for percent in (50, 99)
    )
    back_to_back = Row(
        "the same without rests in between (the making of spares falls on both), p50",
        1000 * percentile(busy["unios"], 50),
        "ms",
        COUNT,
        against,
        1000 * percentile(busy["unshare"], 50),
        SPAWN_LIMIT,
    )
    rows = [
        p50,
        p99,
        back_to_back,
        Row("of which until the submission is answered (durable, executed), p50", 1000 * percentile(submitted, 50), "ms", len(submitted)),
    ]
    print(f"{SUSTAINED} programs, {WIDTH} at a time", file=sys.stderr)
    connections = [system.connect() for _ in range(WIDTH)]
    calls: list[Call] = [_run_on(connection) for connection in connections]
    for call in calls:
        call()
    beside = sustained([unshare] * WIDTH, SUSTAINED)
    [per_second], wide_syncs = _counting(system, lambda: [sustained(calls, SUSTAINED)], SUSTAINED)
    for connection in connections:
        connection.close()
    rate = Row(
        f"sustained, {WIDTH} at a time, a connection each", per_second, "/s", SUSTAINED, "`unshare ...` likewise, same run:", beside, rate=True
    )
    rows += [
        rate,
        Row(f"seconds for {RATE_LIMIT} programs at that rate", RATE_LIMIT / per_second, "s", SUSTAINED, "limit", 1.0, 1.0),
        Row("syncs of the store per program (submit to exit), one after the other", syncs, "", COUNT + 3),
        Row(f"syncs of the store per program, {WIDTH} at a time", wide_syncs, "", SUSTAINED),
    ]
    report.rows += rows
    return Row("spawn to exit of `true`, p50", p50.value, "ms", COUNT), Row(f"sustained, {WIDTH} at a time", per_second, "/s", SUSTAINED, rate=True)


def _by_part(system: System) -> list[Row]:
    """Return what the parts of the system use up for a program, by width: an honest limit of the rate, also on a machine that is not ours alone."""
    rows: list[Row] = []
    for width in WIDTHS:
        print(f"processor time of {COUNT} programs, {width} at a time", file=sys.stderr)
        connections = [system.connect() for _ in range(width)]
        calls: list[Call] = [_run_on(connection) for connection in connections]
        for call in calls:
            call()
        time.sleep(SETTLE_S)
        before = work.snapshot(system)
        per_second = sustained(calls, COUNT)
        time.sleep(SETTLE_S)
        used = work.between(before, work.snapshot(system))
        for connection in connections:
            connection.close()
        total = 1000 * sum(used.values()) / COUNT
        rows += [
            Row(f"sustained, {width} at a time", per_second, "/s", COUNT),
            Row(f"processor time of a program, all parts of {system.nodes} nodes and the client, {width} at a time", total, "ms", COUNT),
        ]
        if width == WIDTHS[0]:
            rows += [Row(f"of which {part}", 1000 * seconds / COUNT, "ms", COUNT) for part, seconds in used.items()]
    return rows


def _run_on(connection: Connection) -> Call:
    return lambda: true(connection)


def _counting(system: System, work: Callable[[], T], count: int) -> tuple[T, float]:
    """Return what `work` returns and the store's syncs during it, divided by `count`."""
    before = system.store_statistics().syncs
    result = work()
    time.sleep(0.2)  # the last exit's record is written by then
    return result, (system.store_statistics().syncs - before) / count


def _whole_command(peers: Peers, report: Report) -> list[Row]:
    """Return `unios run -- true` against the peers' commands; srun is a limit."""
    [ours] = [row for row in report.rows if row.what.startswith("`unios run -- true`")]
    rows = peers.rows(ours, "run_true_p50", COMMAND_PEERS)
    return [replace(row, at_most=COMMAND_LIMIT) if row.against.startswith("slurm") else row for row in rows]


def _commands(system: System, report: Report, when: str) -> None:
    """Add rows on whole commands, in turns with a bare start of the same Python."""
    print(f"commands, {when}", file=sys.stderr)

    def bare() -> None:
        subprocess.run([sys.executable, "-c", "pass"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    calls: dict[str, Call] = {"ps": lambda: system.command("ps"), "python": bare, "run": lambda: system.command("run", "--", "true")}
    if report.rows:
        del calls["run"]
    taken = interleaved(calls, COMMANDS)
    python_ms = 1000 * percentile(taken["python"], 50)
    against = "`python -c pass`, same run:"
    report.rows.append(
        Row(f"`unios ps` {when}, whole command, p50", 1000 * percentile(taken["ps"], 50), "ms", COMMANDS, against, python_ms, PS_LIMIT)
    )
    if "run" in taken:
        report.rows.append(Row("`unios run -- true`, whole command, p50", 1000 * percentile(taken["run"], 50), "ms", COMMANDS))
