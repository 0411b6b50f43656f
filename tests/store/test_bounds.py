"""The store's bounds in bytes, and leases whose end the disk refuses."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from tests.wire.pairs import bounded, settled, until
from unios.core.leases import Leases
from unios.errors import Compacted, NotFound, Unavailable
from unios.ids import Generation
from unios.limits import HISTORY_BYTES_KEPT, WATCH_QUEUE_BYTES_MAX, WATCH_QUEUE_EVENTS_MAX
from unios.store import sqlite
from unios.store.host import StoreHost
from unios.store.model import Batch, Compare, Delete, Put, Revision, Transaction
from unios.store.sqlite import Compact, Grant, Job, Look, Outcome, SqliteEngine

MIB = 1024 * 1024
GENERATION = Generation("g")


def put(engine: SqliteEngine, key: str, value: bytes) -> int:
    engine.run([Transaction(then=(Put(key, value),))])
    return engine.number


def kept(engine: SqliteEngine) -> tuple[int, int]:
    """Return how many revisions the history has, and how many bytes of values."""
    count, size = engine._db.execute("SELECT count(DISTINCT number), coalesce(sum(length(value)), 0) FROM history").fetchone()
    return int(count), int(size)


def look(engine: SqliteEngine, number: int) -> Batch:
    result = engine.run([Look("/", Revision(GENERATION, number))])[0].result
    if isinstance(result, Exception):
        raise result
    assert isinstance(result, Batch)
    return result


# history


def test_history_is_bounded_in_bytes_and_the_newest_stays() -> None:
    engine = SqliteEngine(":memory:", GENERATION, history_bytes_kept=MIB)
    for _ in range(100):
        put(engine, "/a", bytes(100_000))
        assert kept(engine)[1] <= MIB
    count, size = kept(engine)
    assert 5 <= count <= 10 and size >= MIB // 2
    assert engine.compacted == engine.number - count
    assert [event.number for event in look(engine, engine.compacted).events] == list(range(engine.compacted + 1, engine.number + 1))
    with pytest.raises(Compacted):
        look(engine, engine.compacted - 1)


def test_a_revision_that_is_larger_than_the_bound_leaves_no_history_and_does_no_other_harm() -> None:
    engine = SqliteEngine(":memory:", GENERATION, history_bytes_kept=MIB)
    for number in range(20):
        put(engine, f"/{number}", bytes(100_000))
    before = engine.number
    engine.run([Transaction(then=(Delete("/", prefix=True),))])
    assert kept(engine) == (0, 0) and look(engine, engine.number).events == ()
    with pytest.raises(Compacted):
        look(engine, before)
    assert put(engine, "/a", b"x") == before + 2 and [event.number for event in look(engine, before + 1).events] == [before + 2]


def test_the_bound_in_bytes_holds_over_a_restart_and_over_what_was_refused(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "db", GENERATION, history_bytes_kept=10 * MIB)
    for number in range(20):
        put(engine, f"/ä{number}", bytes(100_000))
    engine.run([Compact(Revision(GENERATION, 4))])
    engine.close()
    engine = SqliteEngine(tmp_path / "db", GENERATION, history_bytes_kept=MIB)
    assert engine._history_bytes == engine._sum_history() > 16 * 100_000
    put(engine, "/small", b"")
    assert kept(engine)[1] <= MIB
    counted = engine._history_bytes
    engine._db.execute("CREATE TEMP TRIGGER full BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    with pytest.raises(Unavailable):
        put(engine, "/refused", bytes(100_000))
    engine._db.execute("DROP TRIGGER full")
    assert engine._history_bytes == counted == engine._sum_history()
    engine.close()


def test_the_bounds_in_bytes_leave_room_for_what_the_wire_takes() -> None:
    assert 2 * 8 * MIB <= WATCH_QUEUE_BYTES_MAX < HISTORY_BYTES_KEPT


# watchers


class Refusing(SqliteEngine):
    """Refuses every batch while `full`."""

    full = False

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        if self.full:
            raise Unavailable("the disk is full")
        return super().run(jobs)


def hosted(work: Callable[[StoreHost, Refusing, list[int]], Awaitable[None]]) -> None:
    """Do `work` with a host, its engine, and its clock."""

    async def main() -> None:
        clock = [0]
        engine = Refusing(":memory:", GENERATION)
        host = StoreHost(engine, lambda: clock[0])
        task = asyncio.create_task(host.run())
        try:
            await work(host, engine, clock)
        finally:
            engine.full = False
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            host.close()

    bounded(main)


def test_a_watcher_is_cut_off_at_a_bound_in_bytes_and_not_before() -> None:
    async def work(host: StoreHost, _engine: Refusing, _clock: list[int]) -> None:
        reader, sleeper, other = [await host.watch(prefix, None) for prefix in ("/a", "/a", "/b")]
        for watcher in (reader, sleeper, other):
            assert (await watcher.next()).batch.events == ()
        value, count = bytes(MIB - 100), WATCH_QUEUE_BYTES_MAX // MIB + 1
        for number in range(2 * count):
            await host.do(Transaction(then=(Put("/a", value),)))
            assert len((await reader.next()).batch.events) == 1
            assert sleeper.cut_off == (number + 1 >= count)
        assert count < WATCH_QUEUE_EVENTS_MAX and not sleeper._waiting
        with pytest.raises(Compacted):
            await sleeper.next()
        assert not other.cut_off and not reader.cut_off and reader._bytes == 0

    hosted(work)


def test_a_history_that_a_watcher_could_not_hold_is_to_be_read_instead() -> None:
    engine = SqliteEngine(":memory:", GENERATION)
    numbers = [put(engine, "/a", bytes(MIB)) for _ in range(WATCH_QUEUE_BYTES_MAX // MIB + 1)]
    with pytest.raises(Compacted):
        look(engine, 0)
    assert len(look(engine, numbers[1]).events) == len(numbers) - 2


# leases


def test_a_revoked_lease_ends_for_good_even_if_the_disk_refused_it_at_first() -> None:
    async def work(host: StoreHost, engine: Refusing, _clock: list[int]) -> None:
        lease = await host.do(Grant(10_000))
        assert isinstance(lease, int)
        await host.do(Transaction(then=(Put("/l", b"", lease),)))
        engine.full = True
        for _ in range(3):
            with pytest.raises(Unavailable):
                await host.end(lease)
        with pytest.raises(NotFound):
            host.renew(lease)
        engine.full = False
        while engine.leases():
            await asyncio.sleep(0.01)
        assert engine.keys() == 0
        await until(lambda: not host._ended)

    hosted(work)


def test_what_the_disk_refused_is_asked_again_once_for_each_lease_that_there_was() -> None:
    """Else who ends leases again and again while the disk is full makes more and more work."""

    async def work(host: StoreHost, engine: Refusing, clock: list[int]) -> None:
        leases = [await host.do(Grant(400)) for _ in range(3)]
        engine.full = True
        for number in range(50):
            with pytest.raises(Unavailable):
                await host.end(leases[0] if number % 2 else 10_000 + number)  # type: ignore[arg-type]
        while len(host._leases):
            clock[0] += 10
            await asyncio.sleep(0.01)
        assert host._ended <= set(leases)
        await asyncio.sleep(0.3)
        assert len(host._jobs) <= 3
        engine.full = False
        while engine.leases():
            await asyncio.sleep(0.01)

    hosted(work)


def test_leases_know_what_they_have() -> None:
    leases = Leases({1: 500}, 0)
    assert 1 in leases and 2 not in leases


# the WAL


def test_the_wal_is_written_over_from_its_beginning_and_cut_only_when_it_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SqliteEngine(tmp_path / "db", GENERATION)
    wal = tmp_path / "db-wal"
    sizes = []
    for number in range(1_200):
        put(engine, f"/k/{number % 50}", bytes(2_000))
        sizes.append(wal.stat().st_size)
    assert sizes == sorted(sizes), "its length is written anew"
    assert sizes[-1] == sizes[-200] <= 4 * sqlite.CHECKPOINT_PAGES * 4096
    monkeypatch.setattr(sqlite, "WAL_BYTES_KEPT", 1)
    for number in range(400):
        put(engine, f"/k/{number % 50}", bytes(2_000))
    assert wal.stat().st_size < sizes[-1]
    engine.close()
    again = SqliteEngine(tmp_path / "db", GENERATION)
    assert again.number == 1_600 and again.keys() == 50
    again.close()


def test_a_job_sees_what_those_before_it_in_the_batch_wrote_and_nothing_of_a_batch_that_was_refused() -> None:
    engine = SqliteEngine(":memory:", GENERATION)
    free = (Compare("/a", "version", "==", 0),)
    first, second, gone, third = (
        outcome.result
        for outcome in engine.run(
            [
                Transaction(free, (Put("/a", b"1"),)),
                Transaction(free, (Put("/a", b"2"),)),
                Transaction(then=(Delete("/a"),)),
                Transaction(free, (Put("/a", b"3"),)),
            ]
        )
    )
    assert [one.succeeded for one in (first, second, gone, third)] == [True, False, True, True]  # type: ignore[union-attr]
    engine._db.execute("CREATE TEMP TRIGGER full BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    with pytest.raises(Unavailable):
        engine.run([Transaction(then=(Put("/a", b"4"), Put("/b", b"4")))])
    engine._db.execute("DROP TRIGGER full")
    [outcome] = engine.run([Transaction((Compare("/a", "value", "==", b"3"), Compare("/b", "version", "==", 0)), (Put("/b", b"5"),))])
    assert outcome.result.succeeded  # type: ignore[union-attr]
    engine.close()


def test_a_renewal_is_as_good_a_moment_to_judge_as_any() -> None:
    async def work(host: StoreHost, _engine: Refusing, clock: list[int]) -> None:
        await settled()
        kept, left = [cast(int, await host.do(Grant(1_000))) for _ in range(2)]
        for now in range(250, 1_250, 250):  # none of the loop's timers is due in between
            clock[0] = now
            assert host.renew(kept) == 1_000
        with pytest.raises(NotFound):
            host.renew(left)
        assert (await host.statistics()).leases == 1

    hosted(work)


def test_a_judge_that_fails_is_the_stores_end() -> None:
    async def main() -> None:
        clock = [0]
        host = StoreHost(Refusing(":memory:", GENERATION), lambda: clock[0])
        running = asyncio.create_task(host.run())
        await settled()
        clock.clear()
        try:
            with pytest.raises(IndexError):
                await running
        finally:
            host.close()

    bounded(main)
