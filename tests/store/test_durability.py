"""What was acknowledged is on disk: killed stores, full disks, counted syncs, and requests that a store has to survive."""

import asyncio
import contextlib
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.store.engines import SqliteProcess, opened, with_store
from unios.errors import CallerError, Compacted, NotFound, OutcomeUnknown, Unavailable
from unios.ids import LeaseId
from unios.store import sqlite
from unios.store.model import Batch, Event, Put, Range, Record, Revision, Store, Transaction
from unios.store.watchers import BATCH_BYTES_MAX, parts

SEED = 20_241
KILLS = 15
PUTS = 30

ANSWERS_EARLY = """
import pathlib, sys
from unios.store import server, sqlite

def run(self, jobs):
    before = (self.number, self.compacted, self._lease)
    if not self._db.in_transaction:
        self._db.execute("BEGIN IMMEDIATE")
    outcomes = [self._one(job) for job in jobs]
    if self.transactions % 50 == 0:
        self._save(before)
        self._db.execute("COMMIT")
    return outcomes

sqlite.SqliteEngine.run = run
sys.exit(server.main(pathlib.Path(sys.argv[1]), lambda: None))
"""
"""A store that breaks the promise: it acknowledges first and writes later."""

SYNCS_NOTHING = """
import pathlib, sys
from unios.store import server, sqlite

set_up = sqlite.SqliteEngine._set_up

def without_syncs(self, generation):
    set_up(self, generation)
    self._db.execute("PRAGMA synchronous=OFF")

sqlite.SqliteEngine._set_up = without_syncs
sys.exit(server.main(pathlib.Path(sys.argv[1]), lambda: None))
"""
"""A store that survives being killed and no power cut."""

SHARES_NOTHING = """
import pathlib, sys
from unios.store import host, server

host.BATCH_JOBS_MAX = 1
sys.exit(server.main(pathlib.Path(sys.argv[1]), lambda: None))
"""


class Mutant(SqliteProcess):
    """A store process with one protection switched off by a launcher script."""

    def __init__(self, folder: Path, launcher: str, *, wrap: tuple[str, ...] = ()) -> None:
        script = folder / "mutant.py"
        script.write_text(launcher)
        # What follows in argv, `python -m unios.store.server`, is only more arguments for `sh -c`; the folder comes last.
        super().__init__(folder, wrap=("sh", "-c", f'for last; do :; done; exec {" ".join(wrap)} "$0" {script} "$last"', sys.executable))


async def storm(engine: SqliteProcess, dice: random.Random, kills: int) -> tuple[list[int], set[str]]:
    """Put numbered keys, four writers at a time, while the store is killed again and again; return the acknowledged numbers and what is there."""
    acknowledged: list[int] = []
    numbers = itertools.count()
    stop = False

    async def write(store: Store) -> None:
        while not stop:
            number = next(numbers)
            try:
                await store.put(f"/k/{number:06d}", b"%d" % number)
                acknowledged.append(number)
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.002)

    async with opened(engine) as store:
        writers = [asyncio.create_task(write(store)) for _ in range(4)]
        for _ in range(kills):
            before = len(acknowledged)
            while len(acknowledged) == before:
                await asyncio.sleep(0.001)
            await asyncio.sleep(dice.uniform(0.0, 0.04))
            await asyncio.to_thread(engine.restart)
        stop = True
        await asyncio.gather(*writers)
        found, after = set[str](), ""
        while True:
            result, _revision = await store.range("/k/", prefix=True, after=after)
            found.update(record.key for record in result.records)
            if not result.more:
                return acknowledged, found
            after = result.records[-1].key


def lost(engine: SqliteProcess, kills: int) -> tuple[int, set[str]]:
    acknowledged, found = asyncio.run(storm(engine, random.Random(SEED), kills))
    return len(acknowledged), {f"/k/{number:06d}" for number in acknowledged} - found


def test_every_acknowledged_put_survives_a_storm_of_kills(tmp_path: Path) -> None:
    engine = SqliteProcess(tmp_path)
    try:
        count, missing = lost(engine, KILLS)
    finally:
        engine.stop()
    assert count > KILLS and not missing, f"seed {SEED}"


def test_the_storm_notices_a_store_that_acknowledges_before_it_writes(tmp_path: Path) -> None:
    engine = Mutant(tmp_path, ANSWERS_EARLY)
    try:
        assert lost(engine, 3)[1]
    finally:
        engine.stop()


# syncs, as the kernel saw them

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def trace(folder: Path, start: Callable[[tuple[str, ...]], SqliteProcess]) -> tuple[list[str], int]:
    """Do PUTS puts one after the other; return what the process did for each, in order, and how many syncs it says it made.

    `<` is a request's arrival, `s` a sync that succeeded, `>` an answer.
    """
    log = folder / "strace.txt"
    engine = start(("strace", "-D", "-f", "-q", "-s", "512", "-o", str(log), "-e", "trace=fdatasync,fsync,recvmsg,sendmsg,sendto,write"))
    syncs = 0

    async def work(store: Store) -> None:
        nonlocal syncs
        before = await store.statistics()
        for number in range(PUTS):
            await store.put(f"/traced/{number:03d}", b"x")
        syncs = (await store.statistics()).syncs - before.syncs

    try:
        with_store(engine, work)
    finally:
        engine.stop()
    deadline = time.monotonic() + 10
    while "+++ exited" not in log.read_text()[-200:] and time.monotonic() < deadline:
        time.sleep(0.01)  # strace -D is nobody's child
    marks = "".join(mark(line) for line in log.read_text().splitlines())
    puts = re.findall(r"P[^P>]*>", marks)
    return puts, syncs


def mark(line: str) -> str:
    """Return what one line of strace's output means for the promise: P a put's arrival, s a sync that is done, > an answer."""
    if re.search(r"(fdatasync|fsync)(\(| resumed).*= 0$", line):
        return "s"
    if "recvmsg" in line and "/traced/" in line:
        return "P"
    return ">" if re.search(r"send(to|msg)\(.*reply", line) else ""


@needs_strace
def test_each_put_is_synced_between_its_arrival_and_its_answer_and_the_count_agrees(tmp_path: Path) -> None:
    puts, syncs = trace(tmp_path, lambda wrap: SqliteProcess(tmp_path, wrap=wrap))
    assert len(puts) == PUTS
    assert all("s" in put for put in puts), puts
    assert abs(syncs - sum(put.count("s") for put in puts)) <= 2, (syncs, puts)


@needs_strace
def test_the_trace_notices_a_store_that_does_not_sync(tmp_path: Path) -> None:
    puts, _syncs = trace(tmp_path, lambda wrap: Mutant(tmp_path, SYNCS_NOTHING, wrap=wrap))
    assert len(puts) == PUTS
    assert not any("s" in put for put in puts), puts


def test_a_hundred_puts_at_once_share_their_syncs(tmp_path: Path) -> None:
    engine = SqliteProcess(tmp_path)

    async def work(store: Store) -> None:
        before = await store.statistics()
        await asyncio.gather(*(store.put(f"/g/{number}", b"x") for number in range(100)))
        after = await store.statistics()
        assert after.transactions - before.transactions >= 100
        assert after.syncs - before.syncs <= 25

    try:
        with_store(engine, work)
    finally:
        engine.stop()


def test_without_batches_a_hundred_puts_cost_a_hundred_syncs(tmp_path: Path) -> None:
    engine = Mutant(tmp_path, SHARES_NOTHING)

    async def work(store: Store) -> None:
        before = await store.statistics()
        await asyncio.gather(*(store.put(f"/g/{number}", b"x") for number in range(100)))
        assert (await store.statistics()).syncs - before.syncs >= 100

    try:
        with_store(engine, work)
    finally:
        engine.stop()


# a full disk


def may_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return os.geteuid() == 0 and shutil.which("unshare") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs root, to mount a small disk")
def test_a_full_disk_refuses_writes_in_words_and_loses_nothing(tmp_path: Path) -> None:
    # The small disk is mounted in a namespace of the server's own: nothing of it is left when the server has ended.
    (tmp_path / "disk").mkdir()
    mount = 'disk=$1; shift; mount -t tmpfs -o size=3m none "$disk" && mkdir "$disk/store" && exec "$@"'
    engine = OnSmallDisk(tmp_path / "disk", wrap=("unshare", "-m", "--propagation", "private", "sh", "-c", mount, "sh", str(tmp_path / "disk")))
    disk = engine.seen
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()

    async def work(store: Store) -> None:
        (disk / "ballast").write_bytes(bytes(512 * 1024))
        kept: list[str] = []
        refusal = ""
        for number in range(400):
            try:
                await store.put(f"/d/{number}", os.urandom(16 * 1024))
                kept.append(f"/d/{number}")
            except Unavailable as error:
                refusal = str(error)
                break
        assert len(kept) > 10 and "disk" in refusal and "store" in refusal, refusal
        for key in (kept[0], kept[-1]):
            assert (await store.range(key))[0].records
        assert not (await store.range(f"/d/{len(kept)}"))[0].records
        with pytest.raises(Unavailable):
            await store.put("/d/refused", os.urandom(16 * 1024))
        (disk / "ballast").unlink()
        await store.put("/d/again", b"works")
        found, after = set[str](), ""
        while True:
            result, _revision = await store.range("/d/", prefix=True, after=after)
            found.update(record.key for record in result.records)
            if not result.more:
                break
            after = result.records[-1].key
        assert found == {*kept, "/d/again"}

    try:
        with_store(engine, work)
    finally:
        engine.stop()


class OnSmallDisk(SqliteProcess):
    """A store whose folder only its own process sees; the test reaches it through /proc/<pid>/root."""

    def start(self) -> None:
        self.process = subprocess.Popen([*self._wrap, sys.executable, "-m", "unios.store.server", str(self.folder)])
        self.seen = Path(f"/proc/{self.process.pid}/root{self.folder.parent}")
        while not (self.seen / "store" / "sock").exists():
            assert self.process.poll() is None
            os.sched_yield()
        self.folder = self.seen / "store"


# one process for one folder


def test_a_second_store_process_on_a_folder_ends_at_once_with_0_and_does_no_harm(tmp_path: Path) -> None:
    engine = SqliteProcess(tmp_path)

    async def work(store: Store) -> None:
        await store.put("/a", b"1")
        command = [sys.executable, "-m", "unios.store.server", str(engine.folder)]
        second = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=10, check=False)
        assert (second.returncode, second.stderr) == (0, b"")
        async with opened(engine) as other:
            assert (await other.range("/a"))[0].records[0].value == b"1"
        await store.put("/a", b"2")

    try:
        with_store(engine, work)
    finally:
        engine.stop()


def test_a_folder_is_free_again_when_its_store_was_killed(tmp_path: Path) -> None:
    engine = SqliteProcess(tmp_path)
    try:
        engine.restart()
        with_store(engine, lambda store: store.put("/a", b"1"))  # type: ignore[arg-type, return-value]
    finally:
        engine.stop()


# requests that are too big, or wrong


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteProcess]:
    made = SqliteProcess(tmp_path)
    yield made
    made.stop()


Work = Callable[[Store], Awaitable[None]]


async def fill(store: Store, count: int) -> Revision:
    """Put so many values of 3 MiB; return the revision before."""
    start = await store.put("/start", b"")
    for number in range(count):
        await store.put(f"/big/{number}", bytes(3 * 1024 * 1024))
    return start


def test_a_range_over_the_size_of_a_message_comes_in_pages(engine: SqliteProcess) -> None:
    async def work(store: Store) -> None:
        await fill(store, 4)
        keys, after = list[str](), ""
        while True:
            result, _revision = await store.range("/big/", prefix=True, after=after)
            keys += [record.key for record in result.records]
            if not result.more:
                break
            after = keys[-1]
        assert keys == [f"/big/{number}" for number in range(4)]

    with_store(engine, work)


def test_a_history_over_the_size_of_a_message_comes_in_batches_of_whole_revisions(engine: SqliteProcess) -> None:
    async def work(store: Store) -> None:
        start = await fill(store, 4)
        keys = list[str]()
        async for batch in store.watch("/big/", after=start):
            keys += [event.record.key for event in batch.events]
            assert batch.revision.number == start.number + len(keys)
            if len(keys) == 4:
                break
        assert keys == [f"/big/{number}" for number in range(4)]

    with_store(engine, work)


def test_one_change_that_is_over_the_size_of_a_message_is_to_be_read_again(engine: SqliteProcess) -> None:
    async def work(store: Store) -> None:
        await fill(store, 3)
        start = await store.put("/big/last", b"")
        await store.delete("/big/", prefix=True)
        with pytest.raises(Compacted):
            await anext(store.watch("/big/", after=start))  # type: ignore[arg-type]

    with_store(engine, work)


def test_a_batch_is_cut_between_revisions_only() -> None:
    generation = sqlite.Generation("g")
    value = bytes(BATCH_BYTES_MAX // 3)
    events = tuple(Event("put", number, Record(f"/{n}", value, 1, number, 1)) for n, number in enumerate((5, 5, 6, 6, 7)))
    found = list(parts(Batch(Revision(generation, 9), events)))
    assert [[event.number for event in part.events] for part in found] == [[5, 5], [6, 6], [7]]
    assert [part.revision.number for part in found] == [5, 6, 9]
    assert list(parts(Batch(Revision(generation, 9)))) == [Batch(Revision(generation, 9))]


def test_numbers_that_no_store_has_are_refused_and_do_not_end_it(engine: SqliteProcess) -> None:
    async def work(store: Store) -> None:
        for lease in (-1, 2**63, 2**64 - 1):
            with pytest.raises(NotFound):
                await store.put("/a", b"", lease=LeaseId(lease))
            with contextlib.suppress(NotFound):
                await store.lease_revoke(LeaseId(lease))
        with pytest.raises(CallerError):
            await store.transact(Transaction(then=(Put("/b", b""), Range("/", True, limit=-2))))
        for number in (-1, 2**63, 2**64 - 1):
            with pytest.raises(Compacted):
                await store.compact(Revision((await store.statistics()).revision.generation, max(number, 2**40)))
            with pytest.raises(Compacted):
                await anext(store.watch("/", after=Revision((await store.statistics()).revision.generation, number)))  # type: ignore[arg-type]
        assert (await store.range("/", prefix=True))[0].records == ()

    with_store(engine, work)


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 0)])
def test_only_a_store_that_need_not_outlive_a_power_cut_syncs_nothing(tmp_path: Path, durable: bool, level: int) -> None:
    engine = sqlite.SqliteEngine(tmp_path / "store.db", sqlite.Generation("g"), durable=durable)
    assert engine._db.execute("PRAGMA synchronous").fetchone() == (level,)
    engine.close()
