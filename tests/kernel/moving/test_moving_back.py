"""The store's process comes back from etcd into its file while it is asked; killed at any step it leaves one store in force."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest

from tests.e2e.system import wait_for
from tests.kernel.moving import store as moving_store
from tests.kernel.moving.rig import all_of, engine_of, with_served
from tests.store.engines import EtcdMember
from unios.core.moving import MOVING
from unios.core.nodes import NodeRecord
from unios.errors import CallerError, OutcomeUnknown, Unavailable
from unios.ids import Generation
from unios.kernel import cluster, storehost, system
from unios.kernel.moving import Mover
from unios.kernel.system import ETCD, SQLITE, SystemFile
from unios.store import client
from unios.store.client import StoreClient
from unios.store.etcd import leaving, messages
from unios.store.etcd.address import Address, parse
from unios.store.etcd.channel import Channel
from unios.store.etcd.keys import Keys
from unios.store.etcd.leases import EtcdLeases
from unios.store.model import Compare, Transaction
from unios.store.returned import NoRoom, Return
from unios.store.sqlite import SqliteEngine
from unios.wire.home import Home

T = TypeVar("T")


def test_back_in_the_file_all_is_as_it_was_with_its_numbers(home: Home) -> None:
    async def work(store: StoreClient) -> None:
        first = await store.lease_grant(20_000)
        await store.put("/k", b"0")
        await store.move(ETCD)
        lease, other = await store.lease_grant(20_000), await store.lease_grant(1_500)
        for value in range(20):
            await store.put("/k", b"%d" % value)
        await store.put("/alive", b"n1", lease=lease)
        await store.put("/passing", b"", lease=other)
        await store.put("/quorum/n1", b"of the cluster")
        before, at = await store.range("/k")
        assert await store.move(SQLITE) == SQLITE and await store.move(SQLITE) == SQLITE
        assert await all_of(store) == {"/k": b"19", "/alive": b"n1", "/passing": b""}
        after, now = await store.range("/k")
        assert after == before and now.generation != at.generation and now.number >= at.number
        for key, target, op, number in (("/k", "modified", "==", before.records[0].modified), ("/k", "version", "==", 21)):
            assert (await store.transact(Transaction((Compare(key, target, op, number),)))).succeeded  # type: ignore[arg-type]
        for known in (first, lease):
            assert await store.lease_renew(known) == 20_000
        assert await store.lease_grant(20_000) not in (first, lease, other)
        await store.put("/k", b"new")
        assert (await store.range("/k"))[0].records[0].modified > at.number
        while (await store.range("/passing"))[0].records:  # what nobody renews ends here too
            await asyncio.sleep(0.05)
        known_now = system.read(home.system_file, SystemFile)
        assert (known_now.engine, known_now.gateway, known_now.has_store, known_now.moves) == (SQLITE, False, True, 2)
        cluster.write(home, made)
        assert await store.move(ETCD) == ETCD and (await store.range("/k"))[0].records[0].value == b"new"
        assert await store.move(SQLITE) == SQLITE and (await store.range("/k"))[0].records[0].value == b"new"
        while await count_in(address):  # an etcd that others may have too is left without what was ours
            await asyncio.sleep(0.02)

    made = cluster.read(home)
    assert made is not None
    address = cluster.address_of(home, made)
    with_served(home, work)


async def count_in(address: Address) -> int:
    """Return how many keys etcd has in all."""
    channel = Channel(address)
    try:
        return messages.read_range(await channel.call("KV/Range", messages.range_(b"\0", b"\0", count_only=True))).total
    finally:
        await channel.close()


def test_where_it_cannot_come_back_it_stays_and_goes_on(home: Home) -> None:
    async def work(store: StoreClient) -> None:
        await store.move(ETCD)
        node = NodeRecord("n2", "elsewhere", 1)
        await store.put("/nodes/n2", msgspec.msgpack.encode(node))
        lease = await store.lease_grant(1_000)
        await store.put("/alive/n2", b"", lease=lease)
        with pytest.raises(CallerError, match="n2 may go on writing there"):
            await store.move(SQLITE)
        await store.put("/nodes/n2", msgspec.msgpack.encode(msgspec.structs.replace(node, state="left")))
        while (await store.range("/alive/n2"))[0].records:  # leases end as before
            await asyncio.sleep(0.05)
        (home.store / "store.db").rename(home.store / "aside.db")
        SqliteEngine(home.store / "store.db", Generation("another")).close()
        with pytest.raises(Unavailable, match="never left"):
            await store.move(SQLITE)
        (home.store / "store.db").unlink()
        await store.put("/k", b"")
        assert await store.move("") == ETCD
        assert await store.move(SQLITE) == SQLITE  # into a file that is not there yet
        assert sorted(await all_of(store)) == ["/k", "/nodes/n2"]

    with_served(home, work)


def test_a_file_that_was_left_once_more_is_no_store_though_a_power_cut_took_the_words(home: Home) -> None:
    async def work(store: StoreClient) -> None:
        for to in (ETCD, SQLITE, ETCD):
            await store.move(to)

    with_served(home, work)
    with contextlib.closing(sqlite3.connect(home.store / "store.db")) as database, database:
        database.execute("UPDATE meta SET value = 1 WHERE name = 'format'")
    assert storehost.which(home) is not None and system.read(home.system_file, SystemFile).moves == 3


@pytest.mark.parametrize("attempt", ["", "here.a"], ids=["alone", "after others gave up"])
@pytest.mark.parametrize("step", moving_store.BACK)
def test_killed_at_any_step_of_the_way_back_there_is_one_store_in_force(home: Home, step: str, attempt: str) -> None:
    command = [sys.executable, "-m", "tests.kernel.moving.store", str(home.path)]

    async def ask(work: Callable[[StoreClient], Awaitable[None]]) -> None:
        store = StoreClient(client.at(home.store))
        try:
            async with asyncio.timeout(10):
                engines.append(await engine_of(store))
                await work(store)
        finally:
            await store.close()

    async def go(store: StoreClient) -> None:
        await store.put("/k", b"here", lease=await store.lease_grant(20_000))
        assert await store.move(ETCD) == ETCD

    async def until_it_dies(store: StoreClient) -> None:
        await store.put("/there", b"")
        with pytest.raises(OutcomeUnknown):
            await back(store)

    async def back(store: StoreClient) -> str:
        if attempt:
            await store.put(MOVING, attempt.encode())
        return await store.move(SQLITE, attempt)

    async def look(store: StoreClient) -> None:
        found = (await store.range("/k"))[0].records[0]
        assert found.value == b"here" and await store.lease_renew(found.lease)  # type: ignore[arg-type]
        await store.put("/later", b"")
        assert await (store.move("") if engines[-1] == SQLITE else back(store)) == SQLITE
        assert sorted(await all_of(store)) == ["/k", "/later", "/there"]

    engines: list[str] = []
    for arguments, work in (((), go), ((step,), until_it_dies), ((), look)):
        process = subprocess.Popen([*command, *arguments])
        try:
            asyncio.run(ask(work))
        finally:
            if not arguments:
                process.terminate()
            assert process.wait(10) == (moving_store.DIED if arguments else 0)
    assert engines == [SQLITE, ETCD, SQLITE if step in moving_store.BACK_DECIDED else ETCD]
    known = system.read(home.system_file, SystemFile)
    assert (known.engine, known.moves) == (SQLITE, 2)


def test_a_renewal_under_way_when_the_store_comes_back_is_answered(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: StoreClient) -> None:
        await store.move(ETCD)
        lease, asked = await store.lease_grant(20_000), asyncio.Event()

        async def never(_leases: EtcdLeases, _wanted: list[int]) -> dict[int, int]:
            asked.set()
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        monkeypatch.setattr(EtcdLeases, "_write_renewals", never)
        renewal = asyncio.create_task(store.lease_renew(lease))
        await asked.wait()
        assert await store.move(SQLITE) == SQLITE
        assert (
            await asyncio.wait_for(renewal, 0.5) == 20_000
        )  # a node whose renewal fails asks again only after a second, and its processes have been frozen by then

    with_served(home, work)


def test_renewals_are_answered_while_the_disk_takes_its_time_for_the_decision(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    decide, begun, ended = Return.decide, threading.Event(), list[float]()

    def slow(back: Return) -> None:
        begun.set()
        time.sleep(1)
        decide(back)
        ended.append(time.monotonic())

    async def work(store: StoreClient) -> None:
        await store.move(ETCD)
        lease = await store.lease_grant(20_000)
        monkeypatch.setattr(Return, "decide", slow)
        move = asyncio.create_task(store.move(SQLITE))
        await asyncio.to_thread(begun.wait)
        assert await asyncio.wait_for(store.lease_renew(lease), 0.5) == 20_000 and not ended
        assert await move == SQLITE

    with_served(home, work)


def test_a_file_that_is_new_gives_no_lease_the_number_of_one_that_runs(home: Home) -> None:
    async def work(store: StoreClient) -> None:
        first = await store.lease_grant(20_000)
        await store.move(ETCD)
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            (home.store / name).unlink(missing_ok=True)
        await store.move(SQLITE)
        assert await store.lease_grant(20_000) != first and await store.lease_renew(first) == 20_000

    with_served(home, work)


def test_if_there_is_no_room_for_the_decision_the_store_stays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_back: Return) -> None:
        raise NoRoom("the store stays where it is: database or disk is full")

    async def work(store: StoreClient) -> None:
        await store.move(ETCD)
        lease = await store.lease_grant(1_000)
        await store.put("/k", b"", lease=lease)
        with monkeypatch.context() as patched:
            patched.setattr(Return, "decide", full)
            with pytest.raises(Unavailable, match="stays where it is: database or disk is full"):
                await store.move(SQLITE)
        assert await store.move("") == ETCD and await all_of(store) == {"/k": b""}
        while (await store.range("/k"))[0].records:  # leases end as before
            await asyncio.sleep(0.05)
        assert await store.move(SQLITE) == SQLITE

    with_served(home, work)


def test_an_attempt_says_that_it_leaves_before_it_is_decided_and_takes_that_back_if_it_fails(
    home: Home, member: EtcdMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()

    async def left() -> str:
        address = parse(f"etcd://127.0.0.1:{member.port}/s", "s")
        channel = Channel(address)
        try:
            return await leaving.left(channel, Keys(address.root))
        finally:
            await channel.close()

    def full(_back: Return) -> None:
        said.append(asyncio.run(left()))
        raise NoRoom("no room")

    async def work(store: StoreClient) -> None:
        await store.move(ETCD)
        await store.put(MOVING, b"here.b")
        with pytest.raises(Unavailable, match="broken off"):
            await store.move(SQLITE, "here.a")
        assert await store.move("") == ETCD and await left() == ""
        with monkeypatch.context() as patched:
            patched.setattr(Return, "decide", full)
            with pytest.raises(Unavailable, match="no room"):
                await store.move(SQLITE, "here.b")
        assert said == ["here.b"] and await store.move("") == ETCD
        while await left():
            await asyncio.sleep(0.02)
        assert await store.move(SQLITE, "here.b") == SQLITE and await left() == "here.b"

    with_served(home, work)


def test_a_file_that_cannot_be_read_may_be_the_store(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: StoreClient) -> None:
        await store.move(ETCD)
        await store.move(SQLITE)

    def refused(*_given: object, **_words: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = 4874  # there is no room for the index of its log
        raise error

    with_served(home, work)
    file = system.read(home.system_file, SystemFile)
    system.write(home.system_file, msgspec.structs.replace(file, engine=ETCD, gateway=True, moves=1))  # as if the disk had been too full to say it
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", refused)
        with pytest.raises(Unavailable, match="may have the records"):
            storehost.which(home)
    assert storehost.which(home) is None


def test_a_move_that_took_too_long_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(_mover: Mover, _switch: object) -> None:
        raise TimeoutError

    async def work(store: StoreClient) -> None:
        monkeypatch.setattr(Mover, "_to_etcd", late)
        with pytest.raises(Unavailable, match="it took too long"):
            await store.move(ETCD)

    with_served(home, work)


class Other:
    """Another machine's process of the store, at the same etcd, and what etcd is asked beside it."""

    def __init__(self, home: Home, member: EtcdMember) -> None:
        self.home, self.address = home, parse(f"etcd://127.0.0.1:{member.port}/s", "s")
        self.process: subprocess.Popen[bytes] | None = None
        system.note_engine(home.system_file, ETCD)

    def start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", "tests.kernel.moving.store", str(self.home.path)])

    def etcd(self, work: Callable[[Channel, Keys], Awaitable[T]]) -> T:
        async def main() -> T:
            channel = Channel(self.address)
            try:
                return await work(channel, Keys(self.address.root))
            finally:
                await channel.close()

        return asyncio.run(main())

    def set(self, **values: str) -> None:
        async def work(channel: Channel, keys: Keys) -> None:
            for name, value in values.items():
                key = keys.left if name == "left" else keys.record(MOVING)
                await channel.call("KV/Put", messages.put(key, value.encode()))

        self.etcd(work)

    def known(self) -> tuple[bool, str]:
        found = system.read(self.home.system_file, SystemFile)
        return found.gateway, found.forgone


def test_a_gateway_that_was_given_up_before_it_had_begun_is_none(home: Home, member: EtcdMember) -> None:
    other = Other(home, member)
    system.forgo(home.system_file, "m2.a")
    assert other.start().wait(20) == 0 and other.known() == (False, "m2.a")


def test_one_that_comes_back_ends_the_attempt_before_it_answers(home: Home, member: EtcdMember) -> None:
    other = Other(home, member)
    other.set(moving="m2.a")
    system.forgo(home.system_file, "m2.a")
    system.come_back(home.system_file, "m2.a")
    process = other.start()
    try:

        async def look() -> None:
            store = StoreClient(client.at(home.store))
            async with asyncio.timeout(20):
                assert await engine_of(store) == ETCD
                assert not (await store.range(MOVING))[0].records
            await store.close()

        asyncio.run(look())
        assert other.known() == (True, "")
    finally:
        process.terminate()
        process.wait(10)


def test_one_that_comes_back_when_the_store_has_gone_is_none(home: Home, member: EtcdMember) -> None:
    other = Other(home, member)
    other.set(moving="m2.a", left="m2.a")
    system.forgo(home.system_file, "m2.a")
    system.come_back(home.system_file, "m2.a")
    assert other.start().wait(20) == 0 and other.known() == (False, "m2.a")


def test_what_an_attempt_of_its_own_has_left_behind_is_taken_back(home: Home, member: EtcdMember) -> None:
    other = Other(home, member)
    other.set(left="here.a")
    process = other.start()
    try:
        wait_for(lambda: other.etcd(leaving.left), lambda found: not found, "etcd has it again")
    finally:
        process.terminate()
        process.wait(10)


def test_one_that_knows_of_no_move_hears_of_it_before_it_answers(home: Home, member: EtcdMember) -> None:
    other = Other(home, member)
    other.set(left="m2.0-a")
    assert other.start().wait(20) == 0 and other.known() == (False, "m2.0-a")
