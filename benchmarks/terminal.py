"""terminal: from a key that is pressed to its echo being here, the program in a terminal on another node."""

import os
import sys
import time
from collections.abc import Callable

from benchmarks.peers import ROOMS, Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import Call, interleaved, percentile
from benchmarks.system import System
from unios.client import processes
from unios.client.connection import Connection
from unios.demands import Resources
from unios.wire.operations import Chunk, Program
from unios.wire.terminals import Attach, Typed

COUNT = 500
REST_S = 0.01
"""Between two keys: a quick typist needs ten times that."""
ECHO_P99_MS = 10.0
RAW_ECHO = "stty raw -echo; printf ready; exec cat"
ENV = ((b"PATH", b"/usr/bin:/bin"), (b"TERM", b"xterm"))


class Line:
    """A terminal on `node` with `cat` in it, reached through `through`."""

    def __init__(self, system: System, through: str, node: str) -> None:
        self._connection: Connection = Connection(system.home, through)
        program = Program((b"sh", b"-c", RAW_ECHO.encode()), ENV, node=node, terminal=(24, 80), resources=Resources(cpu_milli=0))
        self._pid = processes.submit(self._connection, program).pid
        self._asked = self._connection.begin("processes.attach", Attach(self._pid))
        self._await(b"ready")

    def _await(self, wanted: bytes) -> None:
        said = b""
        while wanted not in said:
            chunk: Chunk | None = self._asked.next(Chunk, timeout_s=10)
            if chunk is None:
                raise RuntimeError("the terminal ended")
            said += chunk.data

    def key(self) -> None:
        """Press a key and wait for its echo."""
        self._asked.send(Typed(b"k"))
        self._await(b"k")

    def close(self) -> None:
        self._asked.close()
        processes.signal(self._connection, self._pid, 9)
        self._connection.close()


class Pty:
    """The same without anything between: a pty of this machine with `cat` in it."""

    def __init__(self) -> None:
        pid, self._master = os.forkpty()
        if pid == 0:
            os.execvp("sh", ["sh", "-c", RAW_ECHO])
        self._pid = pid
        self._await(b"ready")

    def _await(self, wanted: bytes) -> None:
        said = b""
        while wanted not in said:
            said += os.read(self._master, 4096)

    def key(self) -> None:
        os.write(self._master, b"k")
        self._await(b"k")

    def close(self) -> None:
        os.kill(self._pid, 9)
        os.close(self._master)
        os.waitpid(self._pid, 0)


def run(peers: Peers) -> Report:
    """Measure; ssh's `-tt` on a shared connection, in a room of the lab, runs after ours, a bare pty in turns with ours."""
    report = Report("terminal")
    with System() as system:
        system.up()
        print(f"{COUNT} keys", file=sys.stderr)
        far, near, bare = Line(system, "n1", "n2"), Line(system, "n1", "n1"), Pty()
        try:
            calls: dict[str, Call] = {"far": far.key, "near": near.key, "pty": bare.key}
            taken = interleaved(calls, COUNT, rest_s=REST_S)
            flood = _under_flood(system, far.key)
        finally:
            for line in (far, near, bare):
                line.close()
    p50 = 1000 * percentile(taken["far"], 50)
    pty_ms = 1000 * percentile(taken["pty"], 50)
    report.rows += [
        Row("key to echo, program on another node, Python client, p50", p50, "ms", COUNT, "a pty of this machine, same run:", pty_ms, None),
        limited("the same, p99", 1000 * percentile(taken["far"], 99), "ms", COUNT, ECHO_P99_MS),
        Row("a pty of this machine in turns with it, p99", 1000 * percentile(taken["pty"], 99), "ms", COUNT),
        Row("program on the node that is asked, p50", 1000 * percentile(taken["near"], 50), "ms", COUNT),
        Row("program on another node while a neighbour on that node floods its output, p50", 1000 * percentile(flood, 50), "ms", len(flood)),
        Row("the same, p99", 1000 * percentile(flood, 99), "ms", len(flood)),
    ]
    print("peers", file=sys.stderr)
    peers.run(ROOMS / "keys.py", ("ssh",))
    for percent in (50, 99):
        ours = Row(f"key to echo, p{percent}", 1000 * percentile(taken["far"], percent), "ms", COUNT)
        report.rows += peers.rows(ours, f"key_echo_p{percent}", ("ssh-multiplexed",))
    report.notes.append(
        "Three nodes on one machine: a key goes client, kernel, TLS link, kernel, init, pty and the same way back, its echo into the stream file on the "
        "way. The program echoes (`cat`), not the line discipline; ssh runs the same program with `-tt` over a shared connection on loopback."
    )
    peers.tell(report)
    return report


def _under_flood(system: System, key: Callable[[], None]) -> list[float]:
    """Return what keys take while another process of the same node writes as fast as it can, unread."""
    with system.connect() as connection:
        pid = processes.submit(connection, Program((b"yes",), ENV, node="n2", resources=Resources(cpu_milli=0))).pid
        time.sleep(0.5)
        try:
            return interleaved({"far": key}, COUNT // 5, rest_s=REST_S)["far"]
        finally:
            processes.signal(connection, pid, 9)
