"""Snapshots: what `unios top` shows of one moment, as plain rows, and the arithmetic from one to the next. Pure: reads no clock, asks nobody."""

from typing import NamedTuple


class NodeRow(NamedTuple):
    """A node. None: it has not said."""

    name: str
    state: str
    cores: int = 0
    busy: float | None = None
    """0 to 1, of all of its machine's cores."""
    memory_bytes: int | None = None
    """In use on its machine."""
    memory_total: int = 0
    load: float | None = None
    running: int = 0
    waiting: int = 0
    link: str = ""
    reason: str = ""


class ProcessRow(NamedTuple):
    """A process. None: it is not known, or not yet."""

    pid: int
    user: str
    state: str
    node: str
    command: str
    nice: int = 0
    cpu: float | None = None
    """Of one core; 1.5: one and a half."""
    memory_bytes: int | None = None
    cpu_ms: int | None = None
    reason: str = ""


class Snapshot(NamedTuple):
    """One moment. `at_s`: a monotonic clock. `trouble`: what could not be looked at, as a sentence; what is shown of it is older."""

    at_s: float
    nodes: tuple[NodeRow, ...] = ()
    processes: tuple[ProcessRow, ...] = ()
    trouble: str = ""


class Rates:
    """Turns sums of processor time into shares: what grew between two looks by the time between them."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, int], tuple[float, int]] = {}

    def of(self, sums_ms: dict[tuple[int, int], int], at_s: float) -> dict[tuple[int, int], float]:
        """Return shares of a core by (pid, incarnation); none for what was not there at the last look, or has counted backwards."""
        shares = {}
        for key, now in sums_ms.items():
            then_s, before = self._before.get(key, (at_s, 0))
            if at_s > then_s and now >= before:
                shares[key] = (now - before) / 1000 / (at_s - then_s)
        self._before = {key: (at_s, now) for key, now in sums_ms.items()}
        return shares


def whole(nodes: tuple[NodeRow, ...]) -> float | None:
    """Return how busy the machines are together, by their cores; None if none has said."""
    known = [node for node in nodes if node.busy is not None and node.cores]
    cores = sum(node.cores for node in known)
    return sum((node.busy or 0.0) * node.cores for node in known) / cores if cores else None
