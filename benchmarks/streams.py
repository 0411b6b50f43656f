"""streams: how fast output passes from a program to a reader on another node, what memory that takes, and what waits behind a flood of it.

Sequences (docs/kernel.md) on and off are measured in the same run, each in a system of its own.
"""

import contextlib
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import chains
from benchmarks.peers import Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import interleaved, percentile
from benchmarks.system import COMMAND, System
from unios.client import processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.kernel.sequencer import SWITCH
from unios.wire.operations import NodeInfo, Program
from unios.wire.tls import client_context, server_context

BYTES = 400_000_000
LINES = 10_000_000
FLOODS = 4
ASKED = 150
PIECE = 64 * 1024
GROWTH_MIB = 24.0
"""What kernels and init may grow by while BYTES pass: windows, queues and buffers are bounded by less."""
TURNS, WATCHED = 15, 5
TLS_SHARE, CHAIN_TIMES = 0.4, 2.0
"""Of a bare TLS stream; and our own limit (docs/decisions/0036), of a bare chain of the same processes."""
ENV = ((b"PATH", b"/usr/bin:/bin"),)


def run(_peers: Peers) -> Report:
    """Measure; no peer of the lab offers a stream that survives its carrier, so a bare chain of the same processes is what ours is held against."""
    report = Report("streams")
    with System() as system:
        system.up()
        _throughput(system, report)
        on = _latencies(system, "sequences on")
    with System() as system:
        system.env[SWITCH] = "off"
        system.up()
        off = _latencies(system, "sequences off")
    for (what, now, n), (_what, before, _n) in zip(on, off, strict=True):
        what, more_is_better = f"{what}, {FLOODS} floods followed from another node", what.startswith("least")
        report.rows.append(Row(what, now, "ms", n, "with sequences off, same run:", before, rate=more_is_better))
    report.notes.append(
        "Programs, inits, kernels and readers share the machine's processors; the bare stream has two processes. Rows on floods: with more to run than "
        "processors, most of each figure is Linux's scheduler. The least of a lease is higher the better; below 0 the node would be cut off."
    )
    return report


# throughput


def _throughput(system: System, report: Report) -> None:
    raw, chain, ours = [], [], []
    growth: dict[str, float] = {}
    for _ in range(TURNS):
        print("a bare TLS stream", file=sys.stderr)
        raw.append(_raw_tls(system))
        print("a bare chain of the same processes", file=sys.stderr)
        chain.append(chains.output(system.home, BYTES))
        print(f"{BYTES} bytes through", file=sys.stderr)
        ours.append(BYTES / _stream(system, f"head -c {BYTES} /dev/zero", BYTES))
    for _ in range(WATCHED):  # apart: to look at them twenty times a second took 3 % of the rate
        with _watched_memory(system, growth):
            _stream(system, f"head -c {BYTES} /dev/zero", BYTES)
    print(f"{LINES} lines through", file=sys.stderr)
    line = "a line of a program that talks a lot"
    seconds = _stream(system, f"yes '{line}' | head -n {LINES}", LINES * (len(line) + 1))
    ours_mbs, raw_mbs, chain_mbs = (percentile(rates, 50) / 1e6 for rates in (ours, raw, chain))
    what, n, mb = "from a program to a reader on another node, p50", TURNS, BYTES / 1e6
    report.rows += [
        Row(what, ours_mbs, "MB/s", n, "a bare chain of the same processes, same run:", chain_mbs, rate=True),
        Row(what, ours_mbs, "MB/s", n, "a bare TLS stream of the same certificates, same run:", raw_mbs, rate=True),
        Row(
            f"seconds for {mb:.0f} MB, p50",
            mb / ours_mbs,
            "s",
            n,
            "a bare TLS stream of the same certificates, same run:",
            mb / raw_mbs,
            1 / TLS_SHARE,
        ),
        Row(
            f"seconds for {mb:.0f} MB, p50",
            mb / ours_mbs,
            "s",
            n,
            "a bare chain of the same processes, same run:",
            mb / chain_mbs,
            CHAIN_TIMES,
            own=True,
        ),
        Row("the same, best", max(ours) / 1e6, "MB/s", n, "the best of the bare chain:", max(chain) / 1e6, rate=True),
        limited("a million lines from a program to a reader on another node", 1_000_000 * seconds / LINES, "s", 1, 1.0),
        *(limited(f"{name} grew by, while {BYTES // 1_000_000} MB passed", value, "MiB", WATCHED, GROWTH_MIB) for name, value in growth.items()),
    ]


def _stream(system: System, script: str, size: int) -> float:
    """Run a script on n2 and read its output through n1; return the seconds from the first byte to the last. RuntimeError if bytes are missing."""
    command: list[str | Path] = [COMMAND, "--node", "n1", "run", "--on", "n2", "--cpus", "0", "-n", "--", "sh", "-c", script]
    with subprocess.Popen(command, env=system.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        got, began, buffer = 0, 0.0, bytearray(256 * 1024)
        while count := os.readv(reader.stdout.fileno(), [buffer]):
            began = began or time.perf_counter()
            got += count
        took = time.perf_counter() - began
    if got != size or reader.returncode:
        raise RuntimeError(f"{got} of {size} bytes came, exit code {reader.returncode}")
    return took


def _raw_tls(system: System) -> float:
    """Return bytes a second of one TLS connection between two processes over loopback, with the contexts that links have."""
    ca, nodes = system.home / "ca" / "ca.crt", system.home / "nodes"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            _send_raw(client_context(ca, nodes / "n2" / "node.crt", nodes / "n2" / "node.key"), listener.getsockname())
        context = server_context(ca, nodes / "n1" / "node.crt", nodes / "n1" / "node.key")
        with context.wrap_socket(listener.accept()[0], server_side=True) as tls:
            got, buffer, began = 0, bytearray(PIECE), time.perf_counter()
            while got < BYTES and (count := tls.recv_into(buffer)):
                got += count
            took = time.perf_counter() - began
    os.waitpid(child, 0)
    return got / took


def _send_raw(context: ssl.SSLContext, address: tuple[str, int]) -> None:
    with contextlib.suppress(OSError), context.wrap_socket(socket.create_connection(address)) as tls:
        piece = bytes(PIECE)
        for _ in range(BYTES // PIECE + 1):
            tls.sendall(piece)
    os._exit(0)


@contextlib.contextmanager
def _watched_memory(system: System, growth: dict[str, float]) -> Iterator[None]:
    """Keep in `growth` by how many MiB each kernel and the newest init have grown at most."""
    over = threading.Event()
    first: dict[str, float] = {}

    def watch() -> None:
        while not over.wait(0.05):
            pids = {f"kernel of {node}": system.part_pid(node, "kernel") for node in ("n1", "n2")}
            for tree in (system.home / "nodes" / "n2" / "trees").glob("*"):
                if not (tree / "exit.json").exists():
                    pids["the init"] = _init_of(tree)
            for name, pid in pids.items():
                if pid and (now := _resident_mib(pid)):
                    growth[name] = max(growth.get(name, 0.0), now - first.setdefault(name, now))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _init_of(tree: Path) -> int:
    import json

    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(json.loads((tree / "tree.json").read_bytes())["init_pid"])
    return 0


def _resident_mib(pid: int) -> float:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    return 0.0


# what waits behind a flood


def _latencies(system: System, name: str) -> list[tuple[str, float, int]]:
    """Return (what, ms, n) for what is asked of n2 by way of n1 while floods of n2's programs are read through n1."""
    print(f"{ASKED} questions under {FLOODS} floods, {name}", file=sys.stderr)
    with system.connect("n1") as asker, _floods(system):
        sleeper = processes.submit(asker, Program((b"sleep", b"1000"), ENV, node="n2", resources=Resources(cpu_milli=0))).pid
        calls: dict[str, Callable[[], object]] = {
            "a signal": lambda: processes.signal(asker, sleeper, 0),
            "node.info": lambda: _info(asker),
        }
        leases = _Leases(system)
        taken = interleaved(calls, ASKED, rest_s=0.005)
        least = leases.stop()
        processes.signal(asker, sleeper, 9)
    rows = [
        (f"{what} to a process of another node, p{percent}" if what == "a signal" else f"{what} of another node, p{percent}", 1000 * value, ASKED)
        for what in calls
        for percent in (50, 99)
        for value in [percentile(taken[what], percent)]
    ]
    return [*rows, ("least time left of a node's lease", least, leases.looks)]


def _info(connection: Connection) -> NodeInfo:
    channel = connection.channel()
    found: NodeInfo = channel.call("node.info", None, NodeInfo, node="n2", timeout_s=30)
    return found


@contextlib.contextmanager
def _floods(system: System) -> Iterator[None]:
    command: list[str | Path] = [COMMAND, "--node", "n1", "run", "--on", "n2", "--cpus", "0", "-n", "--", "yes"]
    readers = [
        subprocess.Popen(command, env=system.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(FLOODS)
    ]
    try:
        time.sleep(2)  # they are all under way by then
        yield
    finally:
        for reader in readers:
            reader.terminate()
        for reader in readers:
            reader.wait()


class _Leases:
    """Looks at how much is left of each node's lease until `stop`."""

    def __init__(self, system: System) -> None:
        self._files = [system.home / "nodes" / name / "lease" for name in ("n1", "n2", "n3")]
        self._over = threading.Event()
        self._least = float("inf")
        self.looks = 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            for file in self._files:
                (deadline,) = struct.unpack("<Q", file.read_bytes()[:8])
                self._least = min(self._least, (deadline - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e6)
                self.looks += 1

    def stop(self) -> float:
        """Return the least that was left, in ms."""
        self._over.set()
        self._thread.join()
        return self._least
