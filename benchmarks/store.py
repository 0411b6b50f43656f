"""store: what a gateway to etcd adds to the bare client, from a put to whoever watches, on three members that the system runs; and the embedded engine beside it."""

import asyncio
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

from benchmarks.peers import Peers
from benchmarks.row import Report, Row, limited
from benchmarks.samples import percentile
from benchmarks.system import System
from unios.kernel import cluster
from unios.store.client import StoreClient, at
from unios.store.etcd import messages
from unios.store.etcd.channel import Channel
from unios.wire.home import Home

COUNT = 1_000
IN_FLIGHT = 64
VALUE = os.urandom(200)
TIMES = 1.5
WATCH_MS = 20.0
GROWN_S = 60.0

Once = Callable[[], Awaitable[object]]


def run(_peers: Peers) -> Report:
    """Measure."""
    report = Report("store")
    if shutil.which("etcd") is None or find_spec("grpc") is None:
        report.notes.append("etcd or grpcio is not installed here: nothing was measured of it.")
        return report
    with System() as system:
        print("etcd, three members", file=sys.stderr)
        system.command("up", "--nodes", "3", "--store", "etcd")
        _wait_grown(system)
        asyncio.run(_etcd(system, report))
    with System() as system:
        print("sqlite", file=sys.stderr)
        system.up()
        asyncio.run(_sqlite(system, report))
    report.notes.append(
        "Puts of one key cannot go together (decision 0057): there each is a request of its own, as with the bare client, and passes a gateway besides."
    )
    report.notes.append(
        "Bare: the same library (grpcio) and messages, straight to the same members, over TLS too. Members, gateway and whoever asks share this machine's "
        "processors and its disk: on three machines the members' syncs would not wait for each other."
    )
    return report


def _wait_grown(system: System) -> None:
    until = time.monotonic() + GROWN_S
    while time.monotonic() < until:
        if sum("keeps the store as well" in one["text"] for one in json.loads(system.command("events", "--json"))) == 2:
            return
        time.sleep(0.5)
    raise RuntimeError("the system has not got three members of etcd")


async def _etcd(system: System, report: Report) -> None:
    home = Home(system.home)
    found = cluster.read(home)
    assert found is not None
    store, channel = StoreClient(at(home.store)), Channel(cluster.address_of(home, found))
    key = b"/unios-bench/x"
    bare: dict[str, Once] = {
        "put": lambda: channel.call("KV/Put", messages.put(key, VALUE)),
        "range": lambda: channel.call("KV/Range", messages.range_(key)),
    }
    ours: dict[str, Once] = {"put": lambda: store.put("/bench/x", VALUE), "range": lambda: store.range("/bench/x")}
    for op in bare:
        mine, other = await _in_turns(ours[op], bare[op])
        for percent in (50, 99):
            value, reference = (1_000 * percentile(taken, percent) for taken in (mine, other))
            at_most = TIMES if percent == 50 else None
            report.rows.append(
                Row(f"{op} of 200 bytes through a gateway, p{percent}", value, "ms", COUNT, "bare client, same run:", reference, at_most)
            )
    keys, bare_keys = itertools.count(), itertools.count()
    many: tuple[tuple[str, Once, Once, float | None], ...] = (
        (
            "each its own key",
            lambda: store.put(f"/bench/{next(keys) % IN_FLIGHT}", VALUE),
            lambda: channel.call("KV/Put", messages.put(b"%s%d" % (key, next(bare_keys) % IN_FLIGHT), VALUE)),
            TIMES,
        ),
        ("all the same key", ours["put"], bare["put"], TIMES),
    )
    for which, mine_once, other_once, at_most in many:
        mine_s, other_s = await _many(mine_once), await _many(other_once)
        per = 1e6 / COUNT
        row = Row(f"time of a put, {IN_FLIGHT} at a time, {which}", mine_s * per, "us", COUNT, "bare client, same run:", other_s * per, at_most)
        report.rows.append(row)
    report.rows += await _watched(store, "etcd")
    await channel.call("KV/DeleteRange", messages.delete(key, messages.after(key)))
    await channel.close()
    await store.close()


async def _sqlite(system: System, report: Report) -> None:
    store = StoreClient(at(Home(system.home).store))
    for op, once in (("put", lambda: store.put("/bench/x", VALUE)), ("range", lambda: store.range("/bench/x"))):
        taken = await _timed(once, COUNT)
        report.rows += [Row(f"{op}, embedded engine, p{percent}", 1_000 * percentile(taken, percent), "ms", COUNT) for percent in (50, 99)]
    report.rows.append(
        Row(f"time of a put, embedded engine, {IN_FLIGHT} at a time", 1e6 * await _many(lambda: store.put("/bench/x", VALUE)) / COUNT, "us", COUNT)
    )
    report.rows += await _watched(store, "embedded engine")
    await store.close()


async def _in_turns(one: Once, other: Once) -> tuple[list[float], list[float]]:
    """Blocks of each in turns; the first of both does not count."""
    mine: list[float] = []
    theirs: list[float] = []
    for block in range(11):
        first, second = await _timed(one, COUNT // 10), await _timed(other, COUNT // 10)
        if block:
            mine += first
            theirs += second
    return mine, theirs


async def _timed(once: Once, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await once()
        taken.append(time.perf_counter() - began)
    return taken


async def _many(once: Once) -> float:
    """Return the seconds that COUNT take, IN_FLIGHT at a time."""
    left = iter(range(COUNT))

    async def work() -> None:
        for _ in left:
            await once()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - began


async def _watched(store: StoreClient, what: str) -> list[Row]:
    """From before a put is asked to the watcher's being told."""
    taken: list[float] = []
    told = asyncio.Event()

    async def listen() -> None:
        async for batch in store.watch("/bench/"):
            if batch.events:
                told.set()

    task = asyncio.create_task(listen())
    await asyncio.sleep(0.2)
    for _ in range(COUNT):
        told.clear()
        began = time.perf_counter()
        writing = asyncio.ensure_future(store.put("/bench/w", VALUE))
        await told.wait()
        taken.append(time.perf_counter() - began)
        await writing
    task.cancel()
    half, most = (1_000 * percentile(taken, percent) for percent in (50, 99))
    return [Row(f"put to a watcher, {what}, p50", half, "ms", COUNT), limited(f"put to a watcher, {what}, p99", most, "ms", COUNT, WATCH_MS)]
