"""The store's process goes from one engine to the other while it is asked; killed at any step it leaves one store in force."""

import asyncio
import subprocess
import sys
import time

import msgspec
import pytest

from tests.kernel.moving import store as moving_store
from tests.kernel.moving.rig import all_of, engine_of, with_served
from tests.store.engines import EtcdMember
from unios.core.nodes import NodeRecord
from unios.errors import CallerError, Compacted, NotFound, OutcomeUnknown, Unavailable
from unios.ids import Generation
from unios.kernel import cluster, system
from unios.kernel.system import ETCD, SQLITE, SystemFile
from unios.store import client
from unios.store.client import StoreClient
from unios.store.model import Compare, Transaction
from unios.store.sqlite import SqliteEngine
from unios.wire.home import Home


def test_leases_keys_and_the_order_of_revisions_go_along(home: Home) -> None:
    async def work(store: StoreClient) -> None:
        lease, other = await store.lease_grant(20_000), await store.lease_grant(1_500)
        for value in range(60):
            await store.put("/k", b"%d" % value)
        await store.put("/alive", b"n1", lease=lease)
        await store.put("/passing", b"", lease=other)
        await store.put("/quorum/n9", b"of another cluster")
        before = (await store.range("/k"))[0].records[0]
        assert await store.move(ETCD) == ETCD and await store.move(ETCD) == ETCD
        assert await all_of(store) == {"/k": b"59", "/alive": b"n1", "/passing": b""}
        after = (await store.range("/k"))[0].records[0]
        assert after.created > before.modified and after.modified > before.modified
        assert (await store.range("/alive"))[0].records[0].lease == lease and await store.lease_renew(lease) == 20_000
        with pytest.raises(NotFound):
            await store.put("/x", b"", lease=9)
        while (await store.range("/passing"))[0].records:  # what nobody renews ends here too
            await asyncio.sleep(0.05)
        await store.lease_revoke(lease)
        assert [*await all_of(store)] == ["/k"]
        known = system.read(home.system_file, SystemFile)
        assert (known.engine, known.gateway, known.has_store) == (ETCD, True, True)

    with_served(home, work)


@pytest.mark.parametrize(("target", "op"), [(one, op) for one in ("created", "modified") for op in ("==", "!=", "<", ">")])
def test_a_compare_with_a_revision_of_before_holds_as_for_a_record_that_has_changed(home: Home, target: str, op: str) -> None:
    async def work(store: StoreClient) -> None:
        numbers = []
        for value in range(12):  # each number that a record of the new store could have by chance
            await store.put("/k", b"%d" % value)
            numbers.append((await store.range("/k"))[1].number)
        await store.move(ETCD)
        for number in range(1, max(numbers) + 1):
            there, absent = (Compare(key, target, op, number) for key in ("/k", "/none"))  # type: ignore[arg-type]
            assert (await store.transact(Transaction((there,)))).succeeded == (op in ("!=", ">"))
            assert (await store.transact(Transaction((absent,)))).succeeded == (op in ("!=", "<"))
        found = (await store.range("/k"))[0].records[0]
        for number in (found.created - 1, found.created, found.created + 1):
            expected = {"==": found.created == number, "!=": found.created != number, "<": found.created < number, ">": found.created > number}[op]
            assert (await store.transact(Transaction((Compare("/k", target, op, number),)))).succeeded == expected  # type: ignore[arg-type]

    with_served(home, work)


@pytest.mark.parametrize("way", [(ETCD,), (ETCD, SQLITE)])
def test_whoever_asks_meanwhile_waits_and_watches_are_read_anew(home: Home, way: tuple[str, ...]) -> None:
    async def work(store: StoreClient) -> None:
        for before in way[:-1]:
            await store.move(before)
        await store.put("/k", b"0")
        lease = await store.lease_grant(20_000)
        old = (await store.range("/k"))[1]
        batches = store.watch("/k")
        await anext(batches)
        stop, waits, acknowledged = asyncio.Event(), list[float](), dict[str, bytes]()

        async def write(name: int) -> None:
            count = 0
            while not stop.is_set():
                sent, key = time.monotonic(), f"/written/{name}/{count}"
                await store.put(key, b"%d" % count)
                acknowledged[key] = b"%d" % count
                assert await store.lease_renew(lease) == 20_000
                waits.append(time.monotonic() - sent)
                count += 1

        writers = [asyncio.create_task(write(name)) for name in range(20)]
        await asyncio.sleep(0.1)
        await store.move(way[-1])
        stop.set()
        await asyncio.gather(*writers)
        assert {key: value for key, value in (await all_of(store)).items() if key.startswith("/written/")} == acknowledged
        assert max(waits) < 2.5
        with pytest.raises(Compacted):
            async for _batch in batches:
                pass
        with pytest.raises(Compacted):
            async for _batch in store.watch("/k", after=old):
                pass
        news = store.watch("/k", after=(await store.range("/k"))[1])
        await anext(news)
        await store.put("/k", b"1")
        assert (await anext(news)).events[0].record.value == b"1"

    with_served(home, work)


def test_where_it_cannot_go_it_stays_and_goes_on(home: Home, member: EtcdMember) -> None:
    async def work(store: StoreClient) -> None:
        node = msgspec.msgpack.encode(NodeRecord("n2", "elsewhere", 1))  # one of another machine is none of its business
        await store.put("/nodes/n2", node)
        lease = await store.lease_grant(1_000)
        await store.put("/alive/n2", b"", lease=lease)
        cluster.write(home, msgspec.structs.replace(there, members=()))
        with pytest.raises(CallerError, match="has no etcd"):
            await store.move(ETCD)
        with pytest.raises(CallerError, match="cannot be moved from sqlite to elsewhere"):
            await store.move("elsewhere")
        while (await store.range("/alive/n2"))[0].records:  # leases end as before
            await asyncio.sleep(0.05)
        assert await store.move("") == SQLITE
        cluster.write(home, there)
        assert await store.move(ETCD) == ETCD and await all_of(store) == {"/nodes/n2": node}

    there = cluster.read(home)
    assert there is not None
    with_served(home, work)
    with pytest.raises(Unavailable, match="was left: the records of the system are in etcd now"):
        SqliteEngine(home.store / "store.db", Generation("x"))


@pytest.mark.parametrize("step", moving_store.STEPS)
def test_killed_at_any_step_there_is_one_store_in_force(home: Home, step: str) -> None:
    command = [sys.executable, "-m", "tests.kernel.moving.store", str(home.path)]

    async def until_it_dies() -> None:
        dying = subprocess.Popen([*command, step])
        store = StoreClient(client.at(home.store))
        assert await engine_of(store) == SQLITE
        lease = await store.lease_grant(20_000)
        await store.put("/k", b"here", lease=lease)
        with pytest.raises(OutcomeUnknown):
            await store.move(ETCD)
        assert dying.wait(10) == moving_store.DIED
        await store.close()

    async def look() -> str:
        store = StoreClient(client.at(home.store))
        try:
            async with asyncio.timeout(10):
                engine = await engine_of(store)
            found = (await store.range("/k"))[0].records[0]
            assert found.value == b"here" and await store.lease_renew(found.lease)  # type: ignore[arg-type]
            await store.put("/later", b"")
            assert await store.move(ETCD) == ETCD
            assert sorted(await all_of(store)) == ["/k", "/later"]
            return engine
        finally:
            await store.close()

    asyncio.run(until_it_dies())
    again = subprocess.Popen(command)
    try:
        assert asyncio.run(look()) == (ETCD if step in moving_store.DECIDED else SQLITE)
        assert system.read(home.system_file, SystemFile).engine == ETCD
    finally:
        again.terminate()
        again.wait(10)
    with pytest.raises(Unavailable, match="was left"):
        SqliteEngine(home.store / "store.db", Generation("x"))
