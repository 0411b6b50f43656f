"""Virtual time, a seeded network and the invariants. Nothing here knows what runs in it.

Times are true milliseconds. Each node has a clock of its own that runs a little too fast or too slow and began somewhere else.
"""

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from unios.core.processes import ProcessRecord

DRIFT_MAX: Final = 0.01
LINES_KEPT: Final = 60
DUPLICATES: Final = 0.02


class Violation(Exception):
    """An invariant does not hold; says which, and the last lines of what happened. `kind`: which invariant, whoever broke it and when."""

    def __init__(self, text: str, story: str = "") -> None:
        super().__init__(f"{text}\n{story}")
        self.text = text
        self.kind = " ".join([word for word in text.split() if word.isalpha()][:5])


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
        self.cut: Counter[frozenset[str]] = Counter()
        """Pairs that cannot talk, and how many cuts there are between them."""
        self.deaf: Counter[tuple[str, str]] = Counter()
        """The same one way: what the first says does not reach the second."""
        self.loss = 0.0
        self.duplicates = DUPLICATES
        self.slow = 1.0
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
        if self.passes(source, target):
            deliver()

    def passes(self, source: str, target: str) -> bool:
        """Return whether what the first says reaches the second now."""
        return self.cut[frozenset((source, target))] <= 0 and self.deaf[source, target] <= 0

    def cut_off(self, pairs: Iterable[tuple[str, str]], lasts_ms: float, *, one_way: bool = False) -> None:
        """Cut these off from each other for a while, or with `one_way` the second of each from the first."""
        ways = sorted(set(pairs))
        self.say(f"network: cut {'one way ' if one_way else ''}between {['-'.join(pair) for pair in ways]} for {lasts_ms:.0f} ms")
        here: Counter[object] = self.deaf if one_way else self.cut  # type: ignore[assignment]
        keys: set[object] = {*ways} if one_way else {frozenset(pair) for pair in ways}
        here.update(keys)
        self.after(lasts_ms, lambda: here.subtract(keys))

    def trouble(self, loss: float, slow: float, duplicates: float, lasts_ms: float) -> None:
        """For a while the network loses and repeats so large a part of what is sent, and takes so many times as long."""
        self.say(f"network: loses {loss:.0%}, repeats {duplicates:.0%}, {slow:.0f} times as slow for {lasts_ms:.0f} ms")
        self.loss, self.slow, self.duplicates = loss, slow, duplicates
        self.after(lasts_ms, self.fair)

    def fair(self) -> None:
        """The network loses nothing more and repeats little."""
        self.loss, self.slow, self.duplicates = 0.0, 1.0, DUPLICATES

    def heal(self) -> None:
        """All can talk."""
        self.fair()
        self.cut.clear()
        self.deaf.clear()

    # invariants

    def fail(self, text: str) -> None:
        story = "\n".join(self.lines)
        raise Violation(text, story)

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
