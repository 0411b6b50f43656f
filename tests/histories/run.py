"""A run: clients on every node of a system that is being broken; then all is mended, everything is looked at once more, and the history is judged."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.histories import judge, table
from tests.histories.client import Task
from tests.histories.history import Began, Ended, Fault, Line, decode, encode, pair
from tests.histories.linear import Verdict
from tests.histories.nemesis import GOES_ON, Nemesis, until
from tests.histories.rigs import Rig
from tests.histories.workloads import ALL

PACE_S = 0.08
LAST_S = 90.0
GIVEN_UP_S = 15.0
MOMENT_NS = 200_000_000


class Report(NamedTuple):
    """What came of a run."""

    verdicts: dict[str, dict[str, Verdict]]
    counts: dict[str, Counter[str]]
    """By workload, how many ended how."""
    faults: tuple[str, ...]
    stale_ms: int
    """By how much the process table that one node showed was behind what another had shown."""
    story: str = ""
    """Of one that is bad: what its system says afterwards."""

    @property
    def bad(self) -> list[str]:
        return [f"{workload} {key}: {verdict}" for workload, found in self.verdicts.items() for key, verdict in found.items() if not verdict.is_good]

    def __str__(self) -> str:
        lines = [f"{len(self.faults)} faults; a table was behind another by {self.stale_ms} ms at most"]
        for workload, counts in self.counts.items():
            words = Counter(verdict.word for verdict in self.verdicts.get(workload, {}).values())
            said = ", ".join(f"{count} {word}" for word, count in counts.items())
            lines.append(f"{workload:9} {said}; objects: {', '.join(f'{count} {word}' for word, count in words.items())}")
        return "\n".join(lines + self.bad + ([self.story] if self.story else []))


class Clients:
    """One client program on each node, replaced when it dies. All that they write is kept."""

    def __init__(self, rig: Rig, seed: int, workloads: Sequence[str], file: Path) -> None:
        self._rig, self._seed, self._workloads = rig, seed, workloads
        self._file = file.open("ab", buffering=0)
        self._mutex = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._lives = Counter[str]()
        self.said: list[str] = []

    def write(self, data: bytes) -> None:
        with self._mutex:
            self._file.write(data)

    def note(self, text: str) -> None:
        self.write(encode(Fault(text, time.monotonic_ns())))

    def keep(self) -> None:
        """Start what does not run."""
        for node in self._rig.nodes:
            running = self._running.get(node)
            if running is None or running.poll() is not None:
                self._start(node, None)

    def _start(self, node: str, last: dict[str, list[str]] | None) -> "subprocess.Popen[bytes] | None":
        self._lives[node] += 1
        task = Task(
            f"{node}.{self._lives[node]}",
            self._rig.home(node),
            node,
            self._seed,
            list(self._workloads),
            PACE_S,
            self._rig.witness.address,
            last,
        )
        running = self._rig.client(task)
        if running is not None:
            self._running[node] = running
            for read in (self._read_lines, self._read_words):
                self._readers.append(threading.Thread(target=read, args=(running,), daemon=True))
                self._readers[-1].start()
        return running

    def _read_lines(self, running: "subprocess.Popen[bytes]") -> None:
        assert running.stdout is not None
        for line in running.stdout:
            if line.endswith(b"\n"):
                self.write(line)

    def _read_words(self, running: "subprocess.Popen[bytes]") -> None:
        assert running.stderr is not None
        for line in running.stderr:
            self.said.append(line.decode(errors="replace").rstrip())

    def stop(self) -> None:
        """Have them end; those that do not are killed."""
        for running in self._running.values():
            assert running.stdin is not None
            try:
                running.stdin.close()
            except OSError:
                pass
        for running in self._running.values():
            try:
                running.wait(GIVEN_UP_S)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
        self._running.clear()

    def last(self, keys: dict[str, list[str]]) -> None:
        """Look at everything once more, by way of the last node."""
        running = self._start(self._rig.nodes[-1], keys)
        assert running is not None
        assert running.wait(LAST_S) == 0, f"the last look did not come to its end: {self.said[-5:]}"

    def close(self) -> None:
        self.stop()
        for reader in self._readers:
            reader.join(GIVEN_UP_S)
        self._file.close()


def run(rig: Rig, seed: int, seconds: float, folder: Path, *, workloads: Sequence[str] = tuple(ALL), faults: bool = True) -> Report:
    """Run the workloads for so long while faults are made by the seed. The history is left in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "history.jsonl"
    clients = Clients(rig, seed, workloads, file)
    nemesis = Nemesis(rig, Random(seed), clients.note)
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            clients.keep()
            over.wait(0.5)

    keeping = threading.Thread(target=keep, daemon=True)
    try:
        clients.keep()
        keeping.start()
        sleep = until(time.monotonic() + seconds)
        if faults:
            nemesis.run(sleep)
        else:
            sleep(seconds)
        rig.wait_whole()
        over.set()
        keeping.join()
        clients.stop()
        clients.last(_keys(decode(file.read_bytes().splitlines())))
        known = decode(file.read_bytes().splitlines())
        goes_on_ns = [line.at_ns for line in known if isinstance(line, Fault) and line.text.endswith(GOES_ON)]
        for line in ran(rig.witness.seen(), goes_on_ns):
            clients.write(encode(line))
    finally:
        over.set()
        clients.close()
    report = judged(decode(file.read_bytes().splitlines()))
    if report.bad:
        report = report._replace(story=rig.story())
    (folder / "verdict.txt").write_text(f"seed {seed}, {seconds:.0f} s\n{report}\n")
    (folder / "said.txt").write_text("\n".join(clients.said))
    return report


def judged(lines: Iterable[Line]) -> Report:
    """Judge a history."""
    known = list(lines)
    found = pair(known)
    counts = {workload: Counter(one.outcome for one in asked) for workload, asked in sorted(found.items())}
    faults = tuple(line.text for line in known if isinstance(line, Fault))
    stale_ns = table.stale_ns(found.get("table", []))
    return Report({workload: judge.of(workload, asked) for workload, asked in sorted(found.items())}, counts, faults, stale_ns // 1_000_000)


def _keys(lines: Iterable[Line]) -> dict[str, list[str]]:
    """Return the objects that a history is about, by workload."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        if isinstance(line, Began):
            keys = line.argument if line.workload == "append" and isinstance(line.argument, dict) else [line.key]
            found.setdefault(line.workload, {}).update(dict.fromkeys(keys))
    return {workload: list(keys) for workload, keys in found.items()}


def ran(effects: Iterable[tuple[float, int, int]], goes_on_ns: Sequence[int]) -> list[Line]:
    """Return what the witness says of each incarnation, as lines of the table's history.

    Left out is what an older incarnation sent in the moment in which a machine that had stood still whole went on: until its init runs too nobody can freeze
    it, and what is outside the system can refuse nothing (docs/processes.md, what "never twice" covers).
    """
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    newest: dict[int, int] = {}
    for when_s, pid, incarnation in effects:
        at_ns = int(when_s * 1e9)
        if incarnation < newest.get(pid, 0) and any(0 <= at_ns - moment_ns < MOMENT_NS for moment_ns in goes_on_ns):
            continue
        newest[pid] = max(incarnation, newest.get(pid, 0))
        first, _last = spans.get((pid, incarnation), (at_ns, at_ns))
        spans[pid, incarnation] = first, at_ns
    lines: list[Line] = []
    for number, ((pid, incarnation), (first_ns, last_ns)) in enumerate(spans.items()):
        lines.append(Began("witness", number, "table", "table", "ran", [pid, incarnation], first_ns))
        lines.append(Ended("witness", number, "ok", None, last_ns))
    return lines
