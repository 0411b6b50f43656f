"""Capacity: what each node offers, and what is set aside there for the processes that are assigned to it. Decides whether one more fits; never where it goes.

Set aside is what was asked for, not what is used: for live processes with a node, from the moment at which they are assigned. These books follow the
mirrors and may be behind; the node's kernel keeps its own (kernel/admission.py), and what it refuses waits again. Invariant: a process is in the books
once, by its pid, however often it is put.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from unios.core.nodes import NodeRecord, may_speak_for
from unios.core.processes import LIVE, ProcessRecord
from unios.demands import Resources

NOTHING: Final = Resources(cpu_milli=0)
_NO_DEVICES: Final[Counter[str]] = Counter()


class Held(NamedTuple):
    """What is set aside for one process."""

    node: str
    user: str
    resources: Resources
    label: str
    array: int
    time_limit_ms: int
    started_ms: int
    program: bytes


class _Node:
    __slots__ = ("cpu_milli", "devices", "held", "memory_bytes", "record")

    def __init__(self, record: NodeRecord) -> None:
        self.record = record
        self.held: dict[int, Held] = {}
        self.cpu_milli = 0
        self.memory_bytes = 0
        self.devices: Counter[str] = Counter()

    def add(self, pid: int, held: Held, sign: int) -> None:
        if sign > 0:
            self.held[pid] = held
        else:
            del self.held[pid]
        self.cpu_milli += sign * held.resources.cpu_milli
        self.memory_bytes += sign * held.resources.memory_bytes
        if held.resources.devices:
            for name, count in self.wanted(held.resources):
                self.devices[name] += sign * count

    def wanted(self, resources: Resources) -> list[tuple[str, int]]:
        """Return kinds and paths with how many of each; a path counts for its kind too."""
        kinds = {device.path: device.kind for device in self.record.devices}
        found = list(devices_of(resources))
        return found + [(kinds[name], count) for name, count in found if name in kinds]


@lru_cache(maxsize=1_024)
def devices_of(resources: Resources) -> tuple[tuple[str, int], ...]:
    """Return what is asked for of devices: (kind or path, how many)."""
    counts: Counter[str] = Counter()
    for text in resources.devices:
        kind, colon, number = text.rpartition(":")
        if colon and number.isascii() and number.isdigit() and not text.startswith("/"):
            counts[kind] += int(number)
        else:
            counts[text] += 1
    return tuple(sorted(counts.items()))


class Use(NamedTuple):
    """Of one user, or of one array: what is set aside for it everywhere."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    processes: int = 0


class Books:
    """Those of a system, as one observer sees it."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._held: dict[int, Held] = {}
        self.users: dict[str, Use] = {}
        self.arrays: Counter[tuple[int, str]] = Counter()
        """How many elements of an array, of a user, have a node."""

    # what is offered

    def offer(self, record: NodeRecord) -> None:
        """That is the node's record now. Idempotent."""
        old = self._nodes.get(record.name)
        node = self._nodes[record.name] = _Node(record)
        for pid, held in old.held.items() if old else ():
            node.add(pid, held, 1)

    def node(self, name: str) -> NodeRecord | None:
        found = self._nodes.get(name)
        return found.record if found else None

    def names(self) -> Iterable[str]:
        """Return the nodes of which anything is known."""
        return self._nodes

    # what is set aside

    def put(self, record: ProcessRecord) -> None:
        """Take the record in as it is now: set aside if it is live and has a node, else given back. Idempotent."""
        self.drop(record.pid)
        if record.node and record.state in LIVE:
            queueing = record.queueing
            started = record.started_ms if record.state != "pending" else 0
            held = Held(
                record.node,
                record.user,
                record.resources,
                record.placing.label,
                queueing.array,
                queueing.time_limit_ms,
                started,
                record.argv[0] if record.argv else b"",
            )
            self._held[record.pid] = held
            self._count(record.pid, held, 1)

    def drop(self, pid: int) -> None:
        """Nothing is set aside for it any more. Idempotent."""
        held = self._held.pop(pid, None)
        if held is not None:
            self._count(pid, held, -1)

    def _count(self, pid: int, held: Held, sign: int) -> None:
        node = self._nodes.get(held.node)
        if node is None:
            node = self._nodes[held.node] = _Node(NodeRecord(held.node, "", 0, cores=0))
        node.add(pid, held, sign)
        use = self.users.get(held.user, Use())
        now = Use(use.cpu_milli + sign * held.resources.cpu_milli, use.memory_bytes + sign * held.resources.memory_bytes, use.processes + sign)
        if now.processes:
            self.users[held.user] = now
        else:
            self.users.pop(held.user, None)
        if held.array:
            self.arrays[held.array, held.user] += sign
            if not self.arrays[held.array, held.user]:
                del self.arrays[held.array, held.user]

    # questions

    def running(self, name: str) -> int:
        """Return how many processes are assigned to a node."""
        node = self._nodes.get(name)
        return len(node.held) if node else 0

    def held_on(self, name: str) -> Iterable[tuple[int, Held]]:
        """Return what is set aside on a node, by pid."""
        node = self._nodes.get(name)
        return node.held.items() if node else ()

    def set_aside(self, name: str) -> Resources:
        """Return what is set aside on a node, without its devices."""
        node = self._nodes.get(name)
        return Resources(node.cpu_milli, node.memory_bytes) if node else NOTHING

    def could_hold(self, name: str, resources: Resources) -> bool:
        """Return whether the node would have room if nothing else were there."""
        node = self._nodes[name]
        return _fits(node, resources, 0, 0, _NO_DEVICES)

    def has_room(self, name: str, resources: Resources) -> bool:
        """Return whether it fits beside what is set aside there now. What asks for nothing always does."""
        node = self._nodes[name]
        return _fits(node, resources, node.cpu_milli, node.memory_bytes, node.devices)

    def would_have_room(self, name: str, resources: Resources, without: Iterable[int]) -> bool:
        """Return whether it would fit if these processes had ended."""
        node = self._nodes[name]
        cpu, memory, devices = node.cpu_milli, node.memory_bytes, Counter(node.devices)
        for pid in without:
            held = node.held[pid].resources
            cpu -= held.cpu_milli
            memory -= held.memory_bytes
            devices.subtract(dict(node.wanted(held)) if held.devices else {})
        return _fits(node, resources, cpu, memory, devices)

    def may_run(self, name: str, record: ProcessRecord) -> bool:
        """Return whether a node may run it at all, were it empty: its user, its pin, what it forbids."""
        node = self._nodes.get(name)
        if node is None or name in record.placing.forbidden or (record.pinned and record.pinned != name):
            return False
        return may_speak_for(node.record.users, record.user)

    def count(self, name: str, matches: Callable[[int, Held], bool]) -> int:
        """Return how many of the processes of a node are such."""
        return sum(1 for pid, held in self.held_on(name) if matches(pid, held))


def _fits(node: _Node, resources: Resources, cpu: int, memory: int, devices: Counter[str]) -> bool:
    if resources.cpu_milli and cpu + resources.cpu_milli > node.record.cores * 1_000:
        return False
    if resources.memory_bytes and node.record.memory_bytes and memory + resources.memory_bytes > node.record.memory_bytes:
        return False
    if not resources.devices:
        return True
    have: Counter[str] = Counter()
    for device in node.record.devices:
        have[device.kind] += 1
        have[device.path] += 1
    return all(devices[name] + count <= have[name] for name, count in node.wanted(resources))
