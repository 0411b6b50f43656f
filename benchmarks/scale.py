"""scale: what each of 3, 30 and 300 nodes asks of the store and is told by it, at rest, as a node comes, and as processes live and end; on both engines.

Counted by the store's own tallies, not timed: a slow machine counts the same. A second at rest is so many rounds in which each node renews its lease as often
as it does in a second.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benchmarks.etcd import OneMember
from benchmarks.peers import Peers
from benchmarks.row import Report, Row, limited
from benchmarks.simulated import SimulatedNode, at_socket, persisted
from unios.core.processes import ProcessRecord, process_key
from unios.core.seats import SEAT_RENEW_MS, SEATS
from unios.ids import Pid
from unios.limits import LEASE_TICK_MS
from unios.store.client import StoreClient, at
from unios.store.model import StoreStatistics, Traffic

SIZES = (3, 30, 300)
LIVES = 20
STATES = ("pending", "running", "exited")
SETTLED_S = 0.4
GROWTH = 1.5
SEAT_BYTES = 40
ONCE = len(STATES) + 1 + 0.5
"""Each of its states, the end of its record, and a share of the mark by which it is known that all has been heard."""
TIMED = ("heard j/", "heard lg/")
"""Seats and signs of life of the judges of leases come by time, which is longer here than it would be: of seats so many are added as come in a second."""
ROUNDS = 1_000 // LEASE_TICK_MS


@dataclass(frozen=True, slots=True)
class Sum:
    """Of all store processes of a system."""

    requests: int = 0
    """That they were asked."""
    told: int = 0
    """Messages to watchers."""
    events: int = 0
    """In these messages; of gateways also what they heard of etcd, on the way there."""
    bytes: int = 0

    def __sub__(self, other: "Sum") -> "Sum":
        return Sum(self.requests - other.requests, self.told - other.told, self.events - other.events, self.bytes - other.bytes)


class Storing:
    """A system's store, and how its nodes reach it."""

    def __init__(self, folders: list[Path], member: OneMember | None = None) -> None:
        self.folders = folders
        self._member = member
        self._asking = [StoreClient(at(folder), timeout_ms=60_000) for folder in folders]

    def node(self, number: int) -> SimulatedNode:
        door = at_socket(self.folders[number % len(self.folders)] / "sock")
        return SimulatedNode(number, door, far=self._member is None)

    async def statistics(self) -> list[StoreStatistics]:
        return [await client.statistics() for client in self._asking]

    async def settled(self) -> Sum:
        """Return the figures once all that was written is told."""
        if self._member is not None:  # its gateways write signs of life while nobody renews: it never comes to rest
            await self._member.heard_all()
            return summed(await self.statistics())
        last = summed(await self.statistics())
        while True:
            await asyncio.sleep(SETTLED_S)
            now = summed(await self.statistics())
            if now == last:
                return now
            last = now

    async def close(self) -> None:
        for client in self._asking:
            await client.close()


def summed(found: list[StoreStatistics]) -> Sum:
    """Return what the store's processes were asked by nodes, and what was told: to nodes by an embedded engine, to gateways by etcd."""
    requests, told, events, size = 0, 0, 0, 0
    for one in found:
        asked = list(one.asked.values())
        heard = [row for name, row in one.etcd.items() if name.startswith("heard ") and name not in TIMED]
        outward: list[Traffic] = heard if one.etcd else list(one.told.values())
        requests += sum(row.messages for row in asked)
        told += sum(row.messages for row in outward)
        events += sum(row.events for row in outward)
        size += sum(row.bytes for row in (*asked, *outward))
    return Sum(requests, told, events, size)


def run(_peers: Peers) -> Report:
    """Measure."""
    report = Report("scale", strict=True)
    kinds = ["embedded"]
    if shutil.which("etcd") is None or find_spec("grpc") is None:
        report.notes.append("etcd or grpcio is not installed here: of that engine nothing was measured.")
    else:
        kinds.append("etcd")
    for kind in kinds:
        rest: dict[int, Sum] = {}
        life: dict[int, float] = {}
        for size in SIZES:
            print(f"{kind}, {size} nodes", file=sys.stderr)
            rest[size], life[size] = asyncio.run(_measure(kind, size, report))
        few, many = SIZES[0], SIZES[-1]
        for what in ("requests", "events", "bytes"):
            before, after = getattr(rest[few], what) / few, getattr(rest[many], what) / many
            if before or after:
                report.rows.append(
                    limited(f"{kind}: growth of a node's {what} at rest, from {few} to {many} nodes", after / max(before, 1), "times", 1, GROWTH)
                )
        report.rows.append(
            limited(f"{kind}, {many} nodes: events of one process's life, told to each node; each change once", life[many], "events", LIVES, ONCE)
        )
    report.notes.append(NOTE)
    return report


NOTE = (
    "Bounded is this: at rest all traffic of the store is linear in the nodes (a node's own does not grow with them, but for three gateways to etcd that "
    "judge the leases of all); a change of a record is told once to each node, so that a fixed number of changes costs O(nodes) messages. What does grow with "
    "the square is the sum over nodes that each bring changes of their own: n nodes with a process each a second are n changes told n times, gathered for up "
    "to 100 ms. Simulated: the nodes' records, leases, mirrors and views, of shipped code, in one process, against real store processes and a real etcd of "
    "one member; not: links between kernels, programs, and the way of bytes through a link."
)


async def _measure(kind: str, size: int, report: Report) -> tuple[Sum, float]:
    async with _store(kind, size) as storing:
        nodes = [storing.node(number) for number in range(size)]
        for node in nodes:
            await persisted(node.register)
        for node in nodes:
            node.follow()
            await node.wait_complete()
        before = await storing.settled()
        found = await storing.statistics()
        report.rows.append(Row(f"{kind}, {size} nodes: watches of one node at the store", sum(one.watchers for one in found) / size, "", 1))

        for _round in range(ROUNDS):
            await asyncio.gather(*(node.renew() for node in nodes))
        rest = await storing.settled() - before
        if kind == "etcd":
            seats = size * min(size, SEATS) * 1_000 // SEAT_RENEW_MS
            rest = Sum(rest.requests, rest.told + seats, rest.events + seats, rest.bytes + SEAT_BYTES * seats)
        _rows(report, f"{kind}, {size} nodes, a second at rest", rest, size)

        before = await storing.settled()
        new = storing.node(size)
        await persisted(new.register)
        joined = await storing.settled() - before
        report.rows.append(Row(f"{kind}, {size} nodes: told to one node as another comes", joined.events / size, "events", 1))

        before = await storing.settled()
        await _lives(nodes)
        lived = await storing.settled() - before
        _rows(report, f"{kind}, {size} nodes, a process from start to end", lived, size, LIVES)
        for node in (*nodes, new):
            await node.close()
        return rest, lived.events / LIVES / size


def _rows(report: Report, what: str, found: Sum, size: int, by: int = 1) -> None:
    for name, value, unit in (("asked", found.requests, "requests"), ("told", found.events, "events"), ("both ways", found.bytes, "bytes")):
        report.rows.append(Row(f"{what}: {name}, each node", value / by / size, unit, by))


async def _lives(nodes: list[SimulatedNode]) -> None:
    """Write the records of processes that are submitted, run and end, each on one node, and are tidied away."""
    for number in range(LIVES):
        node = nodes[number % len(nodes)]
        for state in STATES:
            record = ProcessRecord(Pid(1000 + number), 1, state, "somebody", (b"sleep", b"1"), node.name)  # type: ignore[arg-type]
            await persisted(partial(node.store.put, process_key(record.pid), msgspec.msgpack.encode(record)))
        await persisted(partial(node.store.delete, process_key(Pid(1000 + number))))


@asynccontextmanager
async def _store(kind: str, size: int) -> AsyncIterator[Storing]:
    """Have a store with the engine: one process, or as many gateways as nodes in this process, and an etcd of one member."""
    folder = Path(tempfile.mkdtemp(prefix="unios-bench-"))
    try:
        async with AsyncExitStack() as stack:
            if kind == "embedded":
                member = None
                place = folder / "store"
                place.mkdir()
                process = subprocess.Popen([sys.executable, "-m", "unios.store.server", str(place)])
                stack.callback(process.wait)
                stack.callback(process.terminate)
                folders = [place]
                await _listening(place)
            else:
                member = stack.enter_context(OneMember(folder))
                folders = await member.gateways(stack, size)
            storing = Storing(folders, member)
            stack.push_async_callback(storing.close)
            yield storing
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _listening(folder: Path) -> None:
    while not (folder / "sock").exists():
        await asyncio.sleep(0.01)
