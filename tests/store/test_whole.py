"""All records at one moment, and many changed at once with a new generation: the same on each engine."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.store.engines import ENGINES, Engine, opened, with_store
from unios.errors import Compacted
from unios.store.client import StoreClient
from unios.store.etcd import translation, whole
from unios.store.etcd.keys import Keys
from unios.store.mirror import Mirror
from unios.store.model import Delete, Put, Store

NEW = msgspec.msgpack.encode(b"new")


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = ENGINES[request.param](tmp_path)
    yield made
    made.stop()


def client_of(store: Store) -> StoreClient:
    assert isinstance(store, StoreClient)
    return store


async def everything(store: Store) -> dict[str, bytes]:
    return {record.key: record.value async for page in client_of(store).dump() for record in page.records}


async def put_all(store: Store, count: int, value: bytes) -> None:
    await asyncio.gather(*(store.put(f"/k/{number:05}", value) for number in range(count)))


def test_a_dump_is_of_one_moment_whatever_is_written_meanwhile(engine: Engine) -> None:
    async def work(store: Store) -> None:
        await put_all(store, 900, b"a" * 2_000)
        pages = client_of(store).dump()
        first = await anext(pages)
        await put_all(store, 900, b"b")
        await store.delete("/k/00899")
        rest = [page async for page in pages]
        assert rest and {page.revision for page in rest} == {first.revision}
        records = [record for page in (first, *rest) for record in page.records]
        assert len(records) == 900 and {record.value for record in records} == {b"a" * 2_000}
        assert len(await everything(store)) == 899

    with_store(engine, work)


def test_an_empty_store_has_a_page(engine: Engine) -> None:
    async def work(store: Store) -> None:
        assert [page.records async for page in client_of(store).dump()] == [()]

    with_store(engine, work)


def test_after_a_restore_watchers_read_anew_and_leases_go_on(engine: Engine) -> None:
    async def work(store: Store) -> None:
        await put_all(store, 20, msgspec.msgpack.encode(b"old"))
        lease = await store.lease_grant(20_000)
        await store.put("/alive", b"", lease=lease)
        before = (await store.range("/k/"))[1]
        batches = store.watch("/k/")
        await anext(batches)
        mirror: Mirror[bytes] = Mirror(store, "/k/", bytes)
        task = asyncio.create_task(mirror.run())
        await mirror.wait_complete()
        await client_of(store).restore([Put("/k/new", NEW), *(Delete(f"/k/{number:05}") for number in range(20))])
        with pytest.raises(Compacted):
            async for _batch in batches:
                pass
        with pytest.raises(Compacted):
            async for _batch in store.watch("/k/", after=before):
                pass
        while dict(mirror.values) != {"/k/new": b"new"}:
            await asyncio.sleep(0.01)
        task.cancel()
        assert (await store.range("/k/"))[1].generation != before.generation
        assert await store.lease_renew(lease) == 20_000 and [*await everything(store)] == ["/alive", "/k/new"]
        await store.put("/k/later", b"")
        assert sorted(await everything(store)) == ["/alive", "/k/later", "/k/new"]

    with_store(engine, work)


def test_a_restored_store_outlives_its_process(engine: Engine) -> None:
    async def work(store: Store) -> None:
        await client_of(store).restore([Put("/x", b"1")])
        generation = (await store.range("/x"))[1].generation
        engine.restart()
        async with opened(engine) as again:
            found, revision = await again.range("/x")
            assert found.records[0].value == b"1" and revision.generation == generation

    with_store(engine, work)


def test_one_that_takes_several_requests_is_done_whole(engine: Engine) -> None:
    async def work(store: Store) -> None:
        await client_of(store).restore([Put(f"/k/{number:05}", b"v" * 6_000) for number in range(3_000)])
        assert len(found := await everything(store)) == 3_000 and {len(value) for value in found.values()} == {6_000}

    with_store(engine, work)


@pytest.mark.parametrize(("count", "size", "requests"), [(0, 0, 1), (1_000, 100, 1), (60_000, 10, 1), (3_000, 6_000, 3)])
def test_what_fits_is_one_request(count: int, size: int, requests: int) -> None:
    made = whole.requests_of([translation.operation(Keys(b"/unios/s/"), Put(f"/k/{number}", b"v" * size)) for number in range(count)])
    assert len(made) == requests and all(len(inner) < 1_024 and sum(map(len, inner)) < 8 * 1024 * 1024 for inner in made)
