"""What every engine must do: the promises of store/model.py, one test each."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.engines import WITH_SHARED, Engine, opened, with_store
from unios.errors import CallerError, Compacted, NotFound, ProtocolError
from unios.store.model import Batch, Compare, Delete, Event, Put, Range, RangeResult, Revision, Store, Transaction


@pytest.fixture(params=sorted(WITH_SHARED))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = WITH_SHARED[request.param](tmp_path)
    yield made
    made.stop()


async def value(store: Store, key: str) -> bytes | None:
    result, _revision = await store.range(key)
    return result.records[0].value if result.records else None


def test_put_get_delete_and_the_numbers_of_a_record(engine: Engine) -> None:
    async def work(store: Store) -> None:
        first = await store.put("/a", b"1")
        second = await store.put("/a", b"2")
        assert second.number == first.number + 1 or (not engine.dense and second.number > first.number)
        result, revision = await store.range("/a")
        (record,) = result.records
        assert (record.value, record.created, record.modified, record.version) == (b"2", first.number, second.number, 2)
        assert revision == second or not engine.dense
        assert (await store.delete("/a"))[0] == 1
        assert (await store.delete("/a"))[0] == 0
        assert await value(store, "/a") is None
        third = await store.put("/a", b"3")
        (record,) = (await store.range("/a"))[0].records
        assert (record.created, record.version) == (third.number, 1)

    with_store(engine, work)


def test_range_by_prefix_is_ordered_and_paged(engine: Engine) -> None:
    async def work(store: Store) -> None:
        for key in ("/p/b", "/p/a", "/q", "/p/c", "/p", "/p/ä"):
            await store.put(key, key.encode())
        result, _ = await store.range("/p/", prefix=True)
        assert [record.key for record in result.records] == ["/p/a", "/p/b", "/p/c", "/p/ä"]
        first, _ = await store.range("/p/", prefix=True, limit=2)
        assert [record.key for record in first.records] == ["/p/a", "/p/b"] and first.more
        rest, _ = await store.range("/p/", prefix=True, after="/p/b")
        assert [record.key for record in rest.records] == ["/p/c", "/p/ä"] and not rest.more
        assert (await store.delete("/p/", prefix=True))[0] == 4
        assert await value(store, "/p") == b"/p"

    with_store(engine, work)


def test_transaction_takes_one_branch_atomically(engine: Engine) -> None:
    async def work(store: Store) -> None:
        create = Transaction((Compare("/k", "version", "==", 0),), (Put("/k", b"mine"), Put("/other", b"x")), (Range("/k"),))
        done = await store.transact(create)
        assert done.succeeded and done.results == (0, 0)
        again = await store.transact(create)
        assert not again.succeeded and (again.revision == done.revision or not engine.dense)
        (seen,) = again.results
        assert isinstance(seen, RangeResult) and seen.records[0].value == b"mine"
        first, second = (await store.range("/k"))[0].records[0], (await store.range("/other"))[0].records[0]
        assert first.modified == second.modified == done.revision.number
        for compare, holds in (
            (Compare("/k", "value", "==", b"mine"), True),
            (Compare("/k", "value", "!=", b"mine"), False),
            (Compare("/none", "value", "==", b""), False),
            (Compare("/none", "value", "!=", b"x"), True),
            (Compare("/none", "modified", "==", 0), True),
            (Compare("/k", "modified", "<", first.modified), False),
            (Compare("/k", "version", ">", 0), True),
            (Compare("/k", "lease", "==", 0), True),
        ):
            assert (await store.transact(Transaction((compare,)))).succeeded is holds, compare

    with_store(engine, work)


def test_one_of_many_racing_claims_wins(engine: Engine) -> None:
    async def work(store: Store) -> None:
        base = (await store.put("/claim", b"free")).number
        claims = [Transaction((Compare("/claim", "modified", "==", base),), (Put("/claim", b"%d" % n),)) for n in range(20)]
        results = await asyncio.gather(*(store.transact(claim) for claim in claims))
        winners = [n for n, result in enumerate(results) if result.succeeded]
        assert len(winners) == 1
        assert await value(store, "/claim") == b"%d" % winners[0]

    with_store(engine, work)


def test_bad_requests_change_nothing(engine: Engine) -> None:
    async def work(store: Store) -> None:
        before = await store.put("/a", b"1")
        for bad in (
            Transaction(then=(Put("", b""),)),
            Transaction(then=(Put("/a\n", b""),)),
            Transaction(then=(Put("/x" * 600, b""),)),
            Transaction(then=(Put("/b", b"1"), Put("/b", b"2"))),
            Transaction(then=tuple(Put(f"/{n}", b"") for n in range(513))),
            Transaction((Compare("/a", "value", "==", 1),), (Put("/b", b""),)),
            Transaction(then=(Put("/c", b""), Put("/d", bytes(4 * 1024 * 1024 + 1)))),
        ):
            with pytest.raises(CallerError):
                await store.transact(bad)
        with pytest.raises(NotFound):
            await store.transact(Transaction(then=(Put("/b", b""), Put("/c", b"", lease=999))))
        found, revision = await store.range("/", prefix=True)
        assert [(record.key, record.value) for record in found.records] == [("/a", b"1")] and (revision == before or not engine.dense)

    with_store(engine, work)


def test_an_answer_that_is_too_large_is_refused_in_words_and_the_store_goes_on(engine: Engine) -> None:
    async def work(store: Store) -> None:
        for key in ("/a", "/b"):
            await store.put(key, bytes(4 * 1024 * 1024))
        async with asyncio.timeout(20):
            with pytest.raises(ProtocolError, match="limit"):
                await store.transact(Transaction(then=(Range("/a"), Range("/b"))))
            await store.put("/c", b"1")
            assert await value(store, "/c") == b"1"

    with_store(engine, work)


async def collect(watch: object, count: int) -> list[Event]:
    events: list[Event] = []
    async for batch in watch:  # type: ignore[attr-defined]
        events.extend(batch.events)
        if len(events) >= count:
            break
    await watch.aclose()  # type: ignore[attr-defined]
    return events


def test_watch_delivers_everything_in_order_from_a_revision(engine: Engine) -> None:
    async def work(store: Store) -> None:
        start = await store.put("/w/0", b"0")
        await store.put("/w/1", b"1")
        await store.put("/elsewhere", b"")
        await store.transact(Transaction(then=(Put("/w/2", b"2"), Delete("/w/0"))))

        async def writing() -> None:
            for n in range(3, 60):
                await store.put(f"/w/{n}", b"")

        task = asyncio.create_task(writing())
        events = await collect(store.watch("/w/", after=start), 60)
        await task
        assert [(event.kind, event.record.key) for event in events[:3]] == [("put", "/w/1"), ("put", "/w/2"), ("delete", "/w/0")]
        assert events[1].number == events[2].number > events[0].number
        assert events[2].record.value == b"0"
        assert [event.record.key for event in events[3:]] == [f"/w/{n}" for n in range(3, 60)]

    with_store(engine, work)


def test_watch_from_now_on_first_says_where_it_begins(engine: Engine) -> None:
    async def work(store: Store) -> None:
        before = await store.put("/w/a", b"")
        watch = store.watch("/w/")
        first: Batch = await anext(watch)  # type: ignore[arg-type]
        assert first == Batch(before) or (not engine.dense and first.events == () and first.revision.number > before.number)
        after = await store.put("/w/b", b"")
        assert await anext(watch) == Batch(after, (Event("put", after.number, (await store.range("/w/b"))[0].records[0]),))  # type: ignore[arg-type]

    with_store(engine, work)


def test_compacted_history_is_said_to_be_gone(engine: Engine) -> None:
    async def work(store: Store) -> None:
        old = await store.put("/a", b"1")
        new = await store.put("/a", b"2")
        await store.put("/a", b"3")
        await store.compact(new)
        unknown = [old, Revision(new.generation, 0), Revision(type(new.generation)("another"), new.number)]
        for after in unknown if engine.goes_back else [*unknown, Revision(new.generation, 10**9)]:
            with pytest.raises(Compacted):
                await collect(store.watch("/a", after=after), 1)
        assert [event.record.value for event in await collect(store.watch("/a", after=new), 1)] == [b"3"]
        assert await value(store, "/a") == b"3"

    with_store(engine, work)


def test_lease_keeps_its_keys_while_renewed_and_takes_all_at_once(engine: Engine) -> None:
    async def work(store: Store) -> None:
        lease = await store.lease_grant(1_000)
        await store.transact(Transaction(then=(Put("/l/a", b"", lease), Put("/l/b", b"", lease), Put("/l/c", b""))))
        start, watch = (await store.range("/l/a"))[1], store.watch("/l/", after=(await store.range("/l/a"))[1])
        loop = asyncio.get_running_loop()
        until = loop.time() + 2.2  # more than twice its time to live
        while loop.time() < until:
            assert await store.lease_renew(lease) == 1_000
            await asyncio.sleep(0.02)
        assert await value(store, "/l/a") == b""
        events = await collect(watch, 2)
        assert [(event.kind, event.record.key) for event in events] == [("delete", "/l/a"), ("delete", "/l/b")]
        assert events[0].number == events[1].number > start.number
        assert not engine.dense or events[0].number == start.number + 1
        assert await value(store, "/l/c") == b""
        with pytest.raises(NotFound):
            await store.lease_renew(lease)
        with pytest.raises(NotFound):
            await store.put("/l/d", b"", lease=lease)

    with_store(engine, work)


def test_lease_let_go_by_a_put_does_not_take_the_key(engine: Engine) -> None:
    async def work(store: Store) -> None:
        lease = await store.lease_grant(10_000)
        await store.put("/l/a", b"", lease=lease)
        await store.put("/l/b", b"", lease=lease)
        await store.put("/l/a", b"free")
        await store.lease_revoke(lease)
        assert [record.key for record in (await store.range("/l/", prefix=True))[0].records] == ["/l/a"]
        for ttl in (0, 1, 10**10):
            with pytest.raises(CallerError):
                await store.lease_grant(ttl)

    with_store(engine, work)


def test_restart_keeps_what_was_acknowledged_and_gives_leases_their_time_again(engine: Engine) -> None:
    async def work(store: Store) -> None:
        lease = await store.lease_grant(1500)
        await store.put("/l", b"leased", lease=lease)
        last = await store.put("/a", b"kept")
        watch = store.watch("/", after=last)
        seen: list[str] = []

        async def watching() -> None:
            async for batch in watch:
                seen.extend(event.record.key for event in batch.events)

        task = asyncio.create_task(watching())
        await asyncio.sleep(1.0)
        await asyncio.to_thread(engine.restart)
        restarted = asyncio.get_running_loop().time()
        async with opened(engine) as other:
            assert await value(other, "/a") == b"kept"
            assert (await other.range("/a"))[1] == last or not engine.dense
            await other.put("/b", b"")
            while await value(other, "/l") is not None:
                await asyncio.sleep(0.02)
            assert asyncio.get_running_loop().time() - restarted > 1.0
        while seen != ["/b", "/l"]:
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with_store(engine, work)


def test_statistics_count(engine: Engine) -> None:
    async def work(store: Store) -> None:
        before = await store.statistics()
        for n in range(10):
            await store.put(f"/s/{n}", b"")
        after = await store.statistics()
        assert after.keys == before.keys + 10 and after.transactions >= before.transactions + 10
        assert 1 <= after.syncs - before.syncs <= 20
        moved = after.revision.number - before.revision.number
        assert moved == 10 if engine.dense else moved >= 10

    with_store(engine, work)
