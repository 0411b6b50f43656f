"""calls: what a call, a flood of calls and 100 MB cost between two programs, on one node and between two, against bare sockets and frameworks.

Whatever is compared with a bare socket, or a bare chain of the same processes, is measured in turns with it.
"""

import contextlib
import os
import pickle
import sys
import time
from collections import deque

from benchmarks import call_limits, chains, near_calls, plots, usage
from benchmarks.call_limits import BULK_BYTES, WORD
from benchmarks.call_parts import NAME
from benchmarks.peers import LAB, Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import blocks, percentile, timed
from benchmarks.system import System
from unios.client.messages import memory
from unios.client.messages.port import Port

BLOCKS, IN_BLOCK = 40, 50
WINDOW = 64
FLOOD = 20_000
NODES = range(1, 9)
SIZES = (64, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
FAR_LIMIT, BULK_SHARE = 5.0, 0.45
"""Of a bare TLS connection of two processes."""
CHAIN_TIMES = 2.0
"""Of a bare chain of the same processes: our own limit, docs/decisions/0036."""
FRAMEWORK_SHARE, ZEROMQ_SHARE = 0.1, 0.6
HAND_OVER_MS = 1.0
PEERS = ("zeromq", "grpc", "ray", "memfd")


def run(peers: Peers) -> Report:
    """Measure; the limits in turns with ours, the frameworks after ours."""
    report = Report("calls", strict=True)
    with System() as system:
        system.up()
        report.rows += near_calls.rows(system, BLOCKS, IN_BLOCK)
        _far_on_one(system, report)
        with (
            near_calls.answering(system, "n1") as answerer,
            Port(NAME, home=system.home, node="n1") as near,
            Port(NAME, home=system.home, node="n2") as far,
        ):
            alone = _calls(system, report, near, far)
            _parts(system, report, answerer, {"on one node": near, "between nodes": far})
            flood = _floods(report, near, far)
            _bulk(system, report, near, far)
            _sizes(report, near, far)
    _nodes(report)
    print("peers", file=sys.stderr)
    peers.run(LAB / "calls.py", PEERS)
    report.rows += peers.rows(alone, "call64_p50", ("ray-actor",), at_most=FRAMEWORK_SHARE)
    report.rows += peers.rows(alone, "call64_p50", ("zeromq", "grpc"))
    report.rows += peers.rows(flood, "call64_pipelined", ("ray-actor", "grpc"), inverse=1e6, at_most=FRAMEWORK_SHARE)
    report.rows += peers.rows(flood, "call64_pipelined", ("zeromq",), inverse=1e6, at_most=1 / ZEROMQ_SHARE)
    report.notes.append(
        "Bare sockets have a length before each message and nothing else; ours carries any Python value, ends at a deadline, and is done once whatever breaks. "
        "Ours between nodes goes through two kernels, so four processes share the machine's processors where a bare connection has two: a bare chain has the "
        "same processes (docs/decisions/0036). What is compared under the words `where Linux puts them` may be on one processor in the one case and on two in the "
        "other. On one processor a call takes each side some 25 us, of which perf finds two "
        "thirds in the interpreter and a third in Linux, which changes processes (2026-11-28). "
        "Where a limit is a rate the row shows the time of one, so that a smaller ratio is better everywhere."
    )
    peers.tell(report)
    return report


# one call


def _far_on_one(system: System, report: Report) -> None:
    """Add the rows on a call between nodes with all who take part, kernels too, on one processor: what is left is what they do."""
    print(f"calls of 64 bytes between nodes, all on one processor, {BLOCKS} blocks of {IN_BLOCK}", file=sys.stderr)
    processor = min(os.sched_getaffinity(0))
    with near_calls.on(processor), near_calls.all_on(system.pids(), processor), near_calls.answering(system, "n1"), contextlib.ExitStack() as stack:
        far = stack.enter_context(Port(NAME, home=system.home, node="n2"))
        calls = {
            "chain": timed(stack.enter_context(chains.far_echo(system.home))),
            "tls": timed(stack.enter_context(call_limits.tls_echo(system.home))),
            "far": timed(lambda: far.call("echo", WORD)),
        }
        report.rows += _far_rows(blocks(calls, BLOCKS, IN_BLOCK), ", all on one processor")


def _far_rows(taken: dict[str, list[float]], where: str) -> list[Row]:
    found, n = [], BLOCKS * IN_BLOCK
    rows = (("tls", "a bare TLS echo, same run:", FAR_LIMIT), ("chain", "a bare chain of the same processes, same run:", None))
    for theirs, against, limit in rows:
        for percent in (50, 99):
            mine, other = (1e6 * percentile(taken[name], percent) for name in ("far", theirs))
            at_most = limit if percent == 50 else None
            found.append(Row(f"call of 64 bytes between nodes{where}, p{percent}", mine, "us", n, against, other, at_most))
    return found


def _calls(system: System, report: Report, near: Port, far: Port) -> Row:
    """Add the rows on one call at a time; return that which the frameworks are held against."""
    print(f"calls of 64 bytes between nodes, {BLOCKS} blocks of {IN_BLOCK}", file=sys.stderr)
    with chains.far_echo(system.home) as chain, call_limits.tls_echo(system.home) as tls:
        calls = {
            "chain": timed(chain),
            "tls": timed(tls),
            "far": timed(lambda: far.call("echo", WORD)),
            "near": timed(lambda: near.call("echo", WORD)),
        }
        taken = blocks(calls, BLOCKS, IN_BLOCK)
    report.rows += _far_rows(taken, ", where Linux puts them")
    n, near_us = BLOCKS * IN_BLOCK, 1e6 * percentile(taken["near"], 50)
    report.rows.append(Row("call of 64 bytes on one node, where Linux puts the two, p50", near_us, "us", n))
    if not near_calls.has_uvloop():
        report.notes.append("uvloop is not there (it is looked for in PEERS_VENV), so the twin is not held against it.")
    return Row("call of 64 bytes on one node, where Linux puts the two, p50", near_us / 1000, "ms", n)


def _parts(system: System, report: Report, answerer: int, ports: dict[str, Port]) -> None:
    """Add where the time of a call goes: the processor time of each who takes part. What the clock shows beyond that is waiting for a processor to wake."""
    groups = {"caller": [os.getpid()], "answerer": [answerer], "kernels": [pid for pid in system.pids() if usage.part_of(pid) == "kernel"]}
    count = BLOCKS * IN_BLOCK
    for where, port in ports.items():
        before = {part: usage.processor_s(pids) for part, pids in groups.items()}
        timed(lambda port=port: port.call("echo", WORD))(count)  # type: ignore[misc]
        used = {part: 1e6 * (usage.processor_s(pids) - before[part]) / count for part, pids in groups.items()}
        report.rows.append(Row(f"processor time of a call {where}, all parts", sum(used.values()), "us", count))
        report.rows += [Row(f"of which {part}", us, "us", count) for part, us in used.items()]


# many calls


def _floods(report: Report, near: Port, far: Port) -> Row:
    print(f"{FLOOD} calls, {WINDOW} under way", file=sys.stderr)
    rates = {name: max(_flood(port) for _ in range(3)) for name, port in (("on one node", near), ("between nodes", far))}
    report.rows += [Row(f"pipelined calls of 64 bytes {name}, best of 3", rate, "/s", FLOOD, rate=True) for name, rate in rates.items()]
    return Row("time of one pipelined call on one node", 1e6 / rates["on one node"], "us", FLOOD)


def _flood(port: Port) -> float:
    """Return calls a second, with WINDOW of them under way."""
    under_way = deque(port.begin("echo", WORD) for _ in range(WINDOW))
    began = time.perf_counter()
    for _ in range(FLOOD):
        under_way.popleft().result()
        under_way.append(port.begin("echo", WORD))
    took = time.perf_counter() - began
    for pending in under_way:
        pending.result()
    return FLOOD / took


# 100 MB


def _bulk(system: System, report: Report, near: Port, far: Port) -> None:
    print("100 MB", file=sys.stderr)
    data = bytearray(os.urandom(1_000_000)) * (BULK_BYTES // 1_000_000)
    born, copied = [], []
    for _ in range(10):
        mine = memory.allocate(BULK_BYTES)
        mine[:] = data
        born.append(_seconds(near, mine))
        copied.append(_seconds(near, data))
        del mine
    raw, chain, ours = [], [], []
    with call_limits.tls_bulk(system.home) as transfer, chains.far_bulk(system.home) as relayed:
        for turn in range(11):
            began = time.perf_counter()
            transfer()
            between = time.perf_counter()
            relayed()
            if turn:
                raw.append(between - began)
                chain.append(time.perf_counter() - between)
                ours.append(_seconds(far, data))
    bare, same, mbs, n = "a bare TLS connection, same run:", "a bare chain of the same processes, same run:", BULK_BYTES / 1e6, len(ours)
    report.rows += [
        limited("100 MB born in shared memory, call and answer on one node, p50", 1000 * percentile(born, 50), "ms", len(born), HAND_OVER_MS),
        Row("100 MB born in shared memory, call and answer on one node, p99", 1000 * percentile(born, 99), "ms", len(born)),
        Row("100 MB that were not: copied once, call and answer on one node, p50", 1000 * percentile(copied, 50), "ms", len(copied)),
        Row("100 MB between nodes, p50", mbs / percentile(ours, 50), "MB/s", n, bare, mbs / percentile(raw, 50), rate=True),
        Row("100 MB between nodes, p50", mbs / percentile(ours, 50), "MB/s", n, same, mbs / percentile(chain, 50), rate=True),
        Row("seconds for 100 MB between nodes, p50", percentile(ours, 50), "s", n, bare, percentile(raw, 50), 1 / BULK_SHARE),
        Row("seconds for 100 MB between nodes, p50", percentile(ours, 50), "s", n, same, percentile(chain, 50), CHAIN_TIMES, own=True),
    ]


def _seconds(port: Port, data: "bytearray | memoryview") -> float:
    buffer = pickle.PickleBuffer(data)
    began = time.perf_counter()
    if port.call("size", buffer) != len(data):
        raise RuntimeError("not all of it came")
    return time.perf_counter() - began


# size against throughput


def _sizes(report: Report, near: Port, far: Port) -> None:
    print("sizes", file=sys.stderr)
    lines: dict[str, list[tuple[float, float]]] = {"on one node": [], "between nodes": []}
    for size in SIZES:
        data = bytearray(size)
        for name, port in (("on one node", near), ("between nodes", far)):
            times = max(3, min(500, 20_000_000 // size))
            taken = sorted(_seconds(port, data) for _ in range(times))
            rate = size / 1e6 / percentile(taken, 50)
            lines[name].append((size, rate))
            report.rows.append(Row(f"a call with {_bytes(size)} {name}, one at a time", rate, "MB/s", times, rate=True))
    plots.write("calls", "Calls one at a time: size against throughput", "bytes in a call", "MB a second", lines)
    report.notes.append("Size against throughput: plots/calls.svg.")


def _bytes(size: int) -> str:
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1000} kB" if size >= 1000 else f"{size} bytes"


# number of nodes


def _nodes(report: Report) -> None:
    """The cost of a call while the system grows, all nodes on this machine: the others' work at rest falls on the same processors."""
    lines: dict[str, list[tuple[float, float]]] = {"on one node": [], "between nodes": []}
    for nodes in NODES:
        print(f"{nodes} nodes", file=sys.stderr)
        with System(nodes) as system, contextlib.ExitStack() as stack:
            system.up()
            stack.enter_context(near_calls.answering(system, "n1"))
            for name, node in (("on one node", "n1"), ("between nodes", "n2")):
                if node == "n2" and nodes == 1:
                    continue
                port = stack.enter_context(Port(NAME, home=system.home, node=node))
                taken = timed(lambda port=port: port.call("echo", WORD))(2_000)[500:]  # type: ignore[misc]
                of = "a system of one node" if nodes == 1 else f"a system of {nodes} nodes"
                p50 = 1e6 * percentile(taken, 50)
                lines[name].append((nodes, p50))
                report.rows += [
                    Row(f"call of 64 bytes {name}, {of}, p50", p50, "us", len(taken)),
                    Row(f"call of 64 bytes {name}, {of}, p99", 1e6 * percentile(taken, 99), "us", len(taken)),
                ]
    plots.write("nodes", "Calls of 64 bytes: number of nodes against time", "nodes, all on this machine", "us a call, p50", lines)
    report.notes.append("Number of nodes against the cost of a call: plots/nodes.svg.")
