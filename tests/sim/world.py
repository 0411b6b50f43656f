"""Virtual time, a seeded network and the invariants. Nothing here knows what runs in it.

Times are true milliseconds. Each node has a clock of its own that runs a little too fast or too slow and began somewhere else.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from unios.core.processes import ProcessRecord

DRIFT_MAX: Final = 0.01
LINES_KEPT: Final = 60


class Violation(Exception):
    """An invariant does not hold; carries seed and the last lines of what happened."""


class Clock:
    """A node's own."""

    def __init__(self, rng: random.Random) -> None:
        self._offset = rng.uniform(1e4, 1e7)
        self._rate = 1 + rng.uniform(-DRIFT_MAX, DRIFT_MAX)

    def local_ms(self, true_ms: float) -> int:
        return int(self._offset + true_ms * self._rate)

    def true_ms(self, local_ms: float) -> float:
        return (local_ms - self._offset) / self._rate


class World:
    """One run. `after` schedules; `send` goes through the network."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.cut: set[frozenset[str]] = set()
        """Pairs that cannot talk."""
        self.loss = 0.0
        self.duplicates = 0.02
        self.slow = 1.0
        self.command = "python -m tests.sim"
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.effects = 0
        self.where: dict[tuple[int, int], str] = {}
        """(pid, incarnation) -> the one node that has had effects as it."""
        self.newest: dict[int, int] = {}
        """pid -> the newest incarnation of which an effect was accepted."""
        self.claimed: Callable[[int], ProcessRecord | None] = lambda _pid: None
        self.look: Callable[[], None] = lambda: None
        """Looks after every event whether the invariants hold that can be seen from outside; `fail`s if not."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def say(self, text: str) -> None:
        self.lines.append(f"{self.now:9.1f}  {text}")

    def after(self, delay_ms: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + max(0.0, delay_ms), next(self._count), work))

    def run_until(self, end_ms: float) -> None:
        while self._heap and self._heap[0][0] <= end_ms:
            self.now, _number, work = heapq.heappop(self._heap)
            work()
            self.look()
        self.now = end_ms

    def send(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        """Deliver a message: perhaps never, perhaps twice, after a while; those that are under way when a cut begins are lost too."""
        for _copy in range(2 if self.rng.random() < self.duplicates else 1):
            if self.rng.random() >= self.loss:
                self.after(self.slow * self.rng.expovariate(1 / 3.0), lambda: self._arrive(source, target, deliver))

    def _arrive(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        if frozenset((source, target)) not in self.cut:
            deliver()

    # invariants

    def fail(self, text: str) -> None:
        story = "\n".join(self.lines)
        raise Violation(f"seed {self.seed}: {text}\n{story}\nreplay: {self.command} --seeds 1 --start {self.seed}")

    def effect(self, node: str, pid: int, incarnation: int) -> None:
        """A resource accepts an effect of a process. Invariant: never of an incarnation that another has followed."""
        self.effects += 1
        newest = self.newest.get(pid, 0)
        if incarnation < newest:
            self.fail(f"{node}: an effect of process {pid} incarnation {incarnation} was accepted after one of incarnation {newest}")
        record = self.claimed(pid)
        if record is not None and record.incarnation > incarnation:
            self.fail(f"{node}: an effect of process {pid} incarnation {incarnation} was accepted after incarnation {record.incarnation} was claimed")
        if self.where.setdefault((pid, incarnation), node) != node:
            self.fail(f"{node}: an effect of process {pid} incarnation {incarnation} was accepted, which ran on {self.where[pid, incarnation]}")
        self.newest[pid] = incarnation
