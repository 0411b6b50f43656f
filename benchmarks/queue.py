"""queue: 10,000 that wait: how fast they are submitted, decided about and shown; and 500 runs of a real tool drained from the queue."""

import gzip
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peers import Peers
from benchmarks.row import Report, Row
from benchmarks.samples import percentile
from benchmarks.system import System
from unios.client import processes, queue
from unios.core import claims, placement
from unios.core.capacity import Books
from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord
from unios.core.queue import Queue
from unios.core.share import Shares
from unios.demands import Queueing, Resources
from unios.wire.operations import Program
from unios.wire.queueing import Element

COUNT = 10_000
DECISIONS = 2_000
FILES = 500
FILE_BYTES = 200_000
COMMANDS = 10
SUBMIT_LIMIT = 1_000.0
DECISION_LIMIT_MS = 1.0
PS_LIMIT_MS = 300.0
ENV = ((b"PATH", b"/usr/bin:/bin"),)


def run(_peers: Peers) -> Report:
    """Measure."""
    report = Report("queue")
    _decisions(report, 40)
    _decisions(report, 1_000)
    with System() as system:
        system.up()
        _submissions(system, report)
    with System() as system:
        system.up()
        _drain(system, report)
    report.notes.append(
        "A decision is one placement by core/queue.py with 10,000 waiting, each after one process has ended, in processor time. The 10,000 that are "
        "submitted are held, so that nothing else runs. gzip is run once for each file, each a process of its own that reads and writes local files; "
        "`xargs -P` does the same without records, queue or isolation, on the same cores."
    )
    return report


def _record(pid: int, kinds: int) -> ProcessRecord:
    kind = pid % kinds
    queueing = Queueing(priority=kind % 8, time_limit_ms=60_000 * (kind % 3))
    return ProcessRecord(pid, 1, "pending", f"user{kind % 5}", created_ms=pid, resources=Resources(1_000, kind << 20), queueing=queueing)


def _decisions(report: Report, kinds: int) -> None:
    print(f"{DECISIONS} decisions with {COUNT} waiting of {kinds} kinds", file=sys.stderr)
    books, shares = Books(), Shares()
    waiting = Queue(books, shares)
    ready = ["n1", "n2", "n3"]
    for name in ready:
        books.offer(NodeRecord(name, name, 1, users=("*",), cores=8, memory_bytes=1 << 40))
    records = {pid: _record(pid, kinds) for pid in range(300, 300 + COUNT + DECISIONS + 24)}
    for record in records.values():
        waiting.put(record.pid, record)
    taken: list[float] = []
    running: list[int] = []

    def choose(record: ProcessRecord, names: list[str]) -> tuple[str, str]:
        return placement.order(placement.least_loaded, placement.candidates(books, names, record, {}))[0][0], ""

    for turn in range(DECISIONS):
        began = time.process_time()
        placed = waiting.plan(ready, 10**6 + turn, lambda _user: True, choose, 64)
        spent = time.process_time() - began
        taken += [1_000 * spent / len(placed)] * len(placed)
        for order in placed:
            record = claims.started(claims.placed(records[order.pid], order.node, ""), 10**6 + turn)
            books.put(record)
            shares.put(records[order.pid], record)
            records[order.pid] = record
            running.append(order.pid)
        pid = running.pop(0)
        ended = claims.ended(records[pid], 0, None, "", 10**6 + turn)
        books.put(ended)
        shares.put(records[pid], ended)
        waiting.put(pid, ended)
    for name, percent in (("p50", 50), ("p99", 99)):
        what = f"a decision with {COUNT} waiting of {kinds} kinds, {name}"
        report.rows.append(Row(what, percentile(taken, percent), "ms", len(taken), "limit", DECISION_LIMIT_MS, 1.0))


def _submissions(system: System, report: Report) -> None:
    print(f"{COUNT} submissions in batches, held", file=sys.stderr)
    environment = tuple((name, value) for name, value in os.environb.items())
    program = Program((b"sleep", b"1"), environment, queueing=Queueing(held=True))
    with system.connect() as connection:
        began = time.perf_counter()
        pids = [pid for done in queue.submit_many(connection, program, [Element()] * COUNT) for pid in done.pids]
        took = time.perf_counter() - began
    if len(set(pids)) != COUNT:
        raise RuntimeError(f"{COUNT} were submitted and {len(set(pids))} pids returned")
    report.rows.append(Row("seconds for 1,000 submissions in batches", 1_000 * took / COUNT, "s", COUNT, "limit", 1_000 / SUBMIT_LIMIT, 1.0))
    for words in (("ps",), ("ps", "--json"), ("queue",)):
        taken = []
        for _turn in range(COMMANDS):
            began = time.perf_counter()
            system.command(*words)
            taken.append(time.perf_counter() - began)
        row = Row(f"`unios {' '.join(words)}` with {COUNT} waiting, whole command, p50", 1_000 * percentile(taken, 50), "ms", COMMANDS)
        if words == ("ps",):
            row = Row(row.what, row.value, row.unit, row.n, "limit", PS_LIMIT_MS, 1.0)
        report.rows.append(row)


def _corpus(folder: Path) -> None:
    """Write files of text: what Python's own library says, over and over."""
    text = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))
    for index in range(FILES):
        start = index * 7_919 % max(1, len(text) - FILE_BYTES)
        (folder / f"{index}").write_bytes(text[start : start + FILE_BYTES])


def _drain(system: System, report: Report) -> None:
    print(f"{FILES} runs of gzip from the queue", file=sys.stderr)
    folder = system.folder / "corpus"
    folder.mkdir()
    _corpus(folder)
    began = time.perf_counter()
    subprocess.run(
        ["xargs", "-P", str(os.cpu_count() or 1), "-I", "{}", "sh", "-c", "gzip -9 -c {} > {}.xargs.gz"],
        input="\n".join(map(str, range(FILES))).encode(),
        cwd=folder,
        check=True,
    )
    alone = time.perf_counter() - began
    program = Program((b"sh", b"-c", b"gzip -9 -c $UNIOS_ARRAY_INDEX > $UNIOS_ARRAY_INDEX.gz"), ENV, os.fsencode(folder))
    with system.connect() as connection:
        began = time.perf_counter()
        elements = [Element(index=index) for index in range(FILES)]
        pids = [pid for done in queue.submit_many(connection, program, elements, array=True) for pid in done.pids]
        views = [processes.wait(connection, pid) for pid in pids]
        took = time.perf_counter() - began
    wrong = sum(gzip.decompress((folder / f"{index}.gz").read_bytes()) != (folder / f"{index}").read_bytes() for index in range(FILES))
    if wrong or any(view.exit_code or view.incarnation != 1 for view in views):
        raise RuntimeError(f"{wrong} of {FILES} results are wrong, or something ran twice")
    report.rows.append(Row(f"{FILES} x gzip of {FILE_BYTES // 1000} kB drained from the queue", took, "s", FILES, "`xargs -P`, same run:", alone))
    shutil.rmtree(folder)
