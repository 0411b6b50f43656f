"""logs: appends to a log with two replicas, each on its disk before it is acknowledged: one after the other, and many at a time."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.peers import Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import percentile
from benchmarks.system import System
from unios.client.aio import Kernel
from unios.client.log import LogReader, LogWriter
from unios.wire.home import Home
from unios.wire.logs import AppendLog, LogAnswer

COUNT = 1_000
BLOCKS = 10
ENTRY = os.urandom(200)
TIMES = 2.0
LANES = 2_000
MANY = 40_000
PER_SECOND = 20_000

Once = Callable[[], Awaitable[object]]


def run(_peers: Peers) -> Report:
    """Measure."""
    report = Report("logs")
    with System() as system:
        system.up()
        asyncio.run(_measure(system, report))
    report.notes.append(
        "The round trip: from the program through its kernel to the other replica's kernel and back, with nothing to be written. All nodes share this machine's "
        "processors and its disk: the two syncs of an append wait for each other here, and on two machines do not."
    )
    return report


async def _measure(system: System, report: Report) -> None:
    folder = Home(Path(system.home)).node("n1")
    kernel = Kernel(folder, role="benchmark")
    running = asyncio.create_task(kernel.run())
    writer = await LogWriter.open(kernel, "bench")
    await _one_by_one(kernel, writer, Path(system.home), report)
    took = await _many(writer)
    report.rows.append(limited(f"time of an append of 200 bytes, {LANES} at a time, two replicas", 1e6 * took / MANY, "us", MANY, 1e6 / PER_SECOND))
    report.rows.append(Row("entry read, from the nearest replica", 1e6 * await _read(kernel, writer) / writer.end, "us", writer.end))
    writer.close()
    running.cancel()


async def _one_by_one(kernel: Kernel, writer: LogWriter, home: Path, report: Report) -> None:
    other = next(node for node in writer.replicas if node != "n1")
    nothing = AppendLog("bench", 1, 0, of=1)
    descriptor = os.open(home / "fsync", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def sync() -> None:
        os.write(descriptor, ENTRY)
        os.fdatasync(descriptor)

    kinds: dict[str, Once] = {
        "append": lambda: writer.append(ENTRY),
        "sync": sync,
        "trip": lambda: kernel.call("logs.append", nothing, LogAnswer, node=other),
        "near": lambda: kernel.call("logs.append", nothing, LogAnswer),
    }
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for block in range(BLOCKS + 1):
        for kind, once in kinds.items():
            times = [await _timed(once) for _ in range(COUNT // BLOCKS)]
            if block:
                taken[kind] += times
    os.close(descriptor)
    for percent in (50, 99):
        value, sync_ms, trip_ms = (1_000 * percentile(taken[kind], percent) for kind in ("append", "sync", "trip"))
        at_most = TIMES if percent == 50 else None
        against = "local fsync + one round trip, same run:"
        report.rows.append(Row(f"append of 200 bytes, two replicas, p{percent}", value, "ms", COUNT, against, sync_ms + trip_ms, at_most))
    for kind, what in (
        ("sync", "write and fdatasync of 200 bytes"),
        ("trip", "round trip to the other replica's kernel"),
        ("near", "to the nearest kernel"),
    ):
        report.rows.append(Row(f"{what}, p50", 1_000 * percentile(taken[kind], 50), "ms", COUNT))


async def _timed(once: Once) -> float:
    began = time.perf_counter()
    await once()
    return time.perf_counter() - began


async def _many(writer: LogWriter) -> float:
    """Return the seconds that MANY appends take, LANES at a time."""
    left = iter(range(MANY))

    async def lane() -> None:
        for _ in left:
            await writer.append(ENTRY)

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(LANES)))
    return time.perf_counter() - began


async def _read(kernel: Kernel, writer: LogWriter) -> float:
    reader = LogReader(kernel, "bench")
    began = time.perf_counter()
    while reader.offset < writer.end:
        await reader.read(wait_ms=1_000)
    return time.perf_counter() - began
