"""locks: taking and releasing one lock on one node and over three, handovers among contenders and how fairly they go round, messages for each."""

import multiprocessing
import sys
import threading
import time
from multiprocessing.synchronize import Barrier
from typing import NamedTuple

from benchmarks.peers import LAB, Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import interleaved, percentile
from benchmarks.system import System
from unios.client.synchronisation.line import Line
from unios.client.synchronisation.lock import Lock
from unios.client.synchronisation.session import Session
from unios.wire.synchronising import Answer, Ask

COUNT = 3_000
CONTENDERS = (1, 4, 16)
WAITERS = (2, 4, 8, 16, 32)
SECONDS = 4.0
HANDOVERS = 400
"""Counted for each number of waiters."""
REDIS_TIMES = 2.0
ONE_NODE_MS = 0.22
BETWEEN_MS = 2.4
REDIS, ETCD = "redis-lock-poll1ms", "etcd-lock-3-members"
PEER_NAMES = (REDIS, "redis-lock-poll100ms", ETCD, "multiprocessing.Lock")


class Contended(NamedTuple):
    """What contenders came to. `least` and `most`: how often the one that got the lock least often, and most often, got it."""

    per_second: float
    handovers: float
    p50_ms: float
    least: int
    most: int
    taken: int


def run(peers: Peers) -> Report:
    """Measure; the peers of the lab run after ours."""
    report = Report("locks")
    with System() as system:
        system.up()
        with Lock("first", via=system.connect("n1")):
            pass  # so the manager is on n1
        alone, between = _uncontended(system, report)
        one_node = _contended(system, report, ("n1",))
        three = _contended(system, report, ("n1", "n2", "n3"))
        print("messages", file=sys.stderr)
        report.rows += [_messages(system, waiters) for waiters in WAITERS]
    print("peers", file=sys.stderr)
    peers.run(LAB / "sync.py", ("local", "redis", "etcd"))
    report.rows += [
        *peers.rows(alone, "lock_1_acquire_release_p50", PEER_NAMES),
        *peers.rows(between, "lock_1_acquire_release_p50", (ETCD,)),
        *peers.rows(one_node, "lock_16_handovers", PEER_NAMES),
        *peers.rows(three, "lock_16_handovers", (REDIS, ETCD)),
    ]
    for row, where in ((one_node, "on one node"), (three, "over 3 nodes")):
        time_of_one = Row(f"time of a handover, 16 contenders {where}", 1e6 / row.value, "us", row.n)
        report.rows += peers.rows(time_of_one, "lock_16_handovers", (REDIS,), inverse=1e6, at_most=1 / REDIS_TIMES)
    report.notes.append(
        "Each contender is a process of its own. A handover is a change of the holder. Ours are queued in the order of asking, leased and fenced; redis' are not, "
        "and redis' and etcd's contenders are all on one machine without relays in between. Why it is so between nodes: docs/decisions/0038."
    )
    peers.tell(report)
    return report


def _uncontended(system: System, report: Report) -> tuple[Row, Row]:
    print("uncontended", file=sys.stderr)
    locks = {node: Lock(f"alone-{node}", via=system.connect(node)) for node in ("n1", "n2")}

    def once(lock: Lock) -> None:
        lock.acquire()
        lock.release()

    rows = []
    for (node, lock), limit, where in zip(locks.items(), (ONE_NODE_MS, BETWEEN_MS), ("on the manager's node", "on another node"), strict=True):
        taken = interleaved({node: lambda lock=lock: once(lock)}, COUNT, warm=50)[node]  # type: ignore[misc]
        p50, p99 = (1000 * percentile(taken, percent) for percent in (50, 99))
        report.rows += [
            limited(f"acquire and release, uncontended, {where}, p50", p50, "ms", COUNT, limit),
            Row(f"acquire and release, uncontended, {where}, p99", p99, "ms", COUNT),
        ]
        rows.append(Row(f"acquire and release, uncontended, {where}, p50", p50, "ms", COUNT))
    return rows[0], rows[1]


def _contended(system: System, report: Report, nodes: tuple[str, ...]) -> Row:
    """Add the rows of contenders on these nodes; return the handovers of the most."""
    where = "on one node" if len(nodes) == 1 else f"over {len(nodes)} nodes"
    row = Row("", 0.0, "/s", 0)
    for contenders in CONTENDERS:
        print(f"{contenders} contenders {where}", file=sys.stderr)
        found = contend(system, nodes, contenders)
        row = Row(f"handovers, {contenders} contenders {where}", found.handovers, "/s", found.taken, rate=True)
        report.rows += [
            Row(f"acquire and release, {contenders} contenders {where}", found.per_second, "/s", found.taken, rate=True),
            Row(f"acquire and release, {contenders} contenders {where}, p50", found.p50_ms, "ms", found.taken),
        ]
        if contenders > 1:
            report.rows += [
                row,
                Row(f"most often over least often, {contenders} contenders {where}", found.most / max(found.least, 1), "", found.taken),
            ]
    return row


def contend(system: System, nodes: tuple[str, ...], contenders: int) -> Contended:
    """Let that many processes, on these nodes in turn, take one lock again and again."""
    context = multiprocessing.get_context("fork")
    go = context.Barrier(contenders)
    results: multiprocessing.Queue[list[float]] = context.Queue()
    last, handovers, inside = (context.Value("i", start, lock=False) for start in (-1, 0, 0))
    name = f"contended-{len(nodes)}-{contenders}"
    workers = [
        context.Process(target=_worker, args=(system, nodes[index % len(nodes)], name, index, go, (last, handovers, inside), results))
        for index in range(contenders)
    ]
    for worker in workers:
        worker.start()
    taken = [results.get(timeout=SECONDS + 60) for _ in workers]
    for worker in workers:
        worker.join(10)
    counts, everything = [len(each) for each in taken], [seconds for each in taken for seconds in each]
    count = len(everything)
    return Contended(count / SECONDS, handovers.value / SECONDS, 1000 * percentile(everything, 50), min(counts), max(counts), count)


def _worker(system: System, node: str, name: str, index: int, go: Barrier, shared: tuple, results: "multiprocessing.Queue[list[float]]") -> None:  # type: ignore[type-arg]
    """The shared counters are unlocked on purpose: the lock under test guards them."""
    last, handovers, inside = shared
    lock = Lock(name, via=system.connect(node))
    lock.locked()
    taken = []
    go.wait()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        lock.acquire()
        inside.value += 1
        alone = inside.value == 1
        if last.value != index:
            last.value = index
            handovers.value += 1
        inside.value -= 1
        lock.release()
        taken.append(time.perf_counter() - began)
        if not alone:
            raise RuntimeError("two held the lock at once")
    results.put(taken)


def _messages(system: System, waiters: int) -> Row:
    """Count what is said and told, for each handover, while so many threads of one process queue for one lock."""
    counted = [0]
    say, on = Line.say, Session.on

    def counting_say(line: Line, message: object) -> None:
        counted[0] += isinstance(message, Ask)
        say(line, message)  # type: ignore[arg-type]

    def counting_on(session: Session, line: Line, message: object) -> None:
        counted[0] += isinstance(message, Answer)
        on(session, line, message)  # type: ignore[arg-type]

    lock_of = [Lock(f"messages-{waiters}", via=system.connect("n2")) for _ in range(waiters)]

    def take(lock: Lock) -> None:
        for _ in range(HANDOVERS // waiters):
            with lock:
                pass

    Line.say, Session.on = counting_say, counting_on  # type: ignore[method-assign,assignment]
    try:
        threads = [threading.Thread(target=take, args=(lock,)) for lock in lock_of]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        Line.say, Session.on = say, on  # type: ignore[method-assign]
    made = HANDOVERS // waiters * waiters
    return Row(f"messages for each handover, {waiters} waiters", counted[0] / made, "", made)
