"""The etcd engine: several gateways to one etcd, an etcd that goes away, and what is translated for it."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.engines import EtcdGateway, EtcdMember, opened, with_store
from unios.errors import CallerError, Compacted, Misused, NotFound, OutcomeUnknown, Unavailable
from unios.ids import Generation
from unios.limits import VALUE_BYTES_MAX
from unios.store import bounds
from unios.store.etcd import messages, protobuf, translation
from unios.store.etcd.address import parse
from unios.store.etcd.channel import Channel
from unios.store.etcd.feed import Beginning
from unios.store.etcd.gateway import Gateway
from unios.store.etcd.keys import Keys
from unios.store.etcd.leases import EtcdLeases
from unios.store.etcd.recent import Recent
from unios.store.model import Compare, Delete, Event, Put, Range, Record, Revision, Store, Transaction


@pytest.fixture
def pair(tmp_path: Path, member: EtcdMember) -> Iterator[tuple[EtcdGateway, EtcdGateway]]:
    made = [EtcdGateway(tmp_path / name, member=member) for name in ("one", "two")]
    yield made[0], made[1]
    for gateway in made:
        gateway.stop()


async def keys(store: Store, prefix: str = "/") -> list[str]:
    return [record.key for record in (await store.range(prefix, prefix=True))[0].records]


def test_two_systems_in_one_etcd_do_not_meet(tmp_path: Path, member: EtcdMember) -> None:
    ours, others = (EtcdGateway(tmp_path / name, member=member, system=name) for name in ("a", "ab"))

    async def work(store: Store) -> None:
        async with opened(others) as other:
            start = await store.put("/x", b"ours")
            lease = await store.lease_grant(10_000)
            assert (await other.put("/x", b"theirs")).generation != start.generation
            with pytest.raises(NotFound):
                await other.put("/y", b"", lease=lease)
            with pytest.raises(NotFound):
                await other.lease_renew(lease)
            assert (await other.delete("/", prefix=True))[0] == 1
            await store.put("/end", b"")
            seen = [event.record.key async for batch in _until(store, "/", start, 1) for event in batch]
            assert seen == ["/end"] and await keys(store) == ["/end", "/x"] and (await store.statistics()).keys == 2

    try:
        with_store(ours, work)
    finally:
        ours.stop()
        others.stop()


async def _until(store: Store, prefix: str, after: object, count: int):  # type: ignore[no-untyped-def]
    found = 0
    async for batch in store.watch(prefix, after=after):  # type: ignore[arg-type]
        found += len(batch.events)
        yield batch.events
        if found >= count:
            return


def test_an_answer_that_comes_after_newer_news_is_none_of_an_older_store(pair: tuple[EtcdGateway, EtcdGateway]) -> None:
    """A gateway that hears of a write before the answer to what was asked before it took that for a store that had gone back."""

    async def work(one: Store) -> None:
        async with opened(pair[1]) as two:
            await asyncio.gather(*(one.put(f"/k/{number}", b"x" * 500) for number in range(300)))

            async def write(store: Store, name: str) -> None:
                for number in range(60):
                    await store.put(name, b"%d" % number)

            async def read() -> None:
                for _ in range(25):
                    found = (await one.range("/k/", prefix=True))[0]
                    assert len(found.records) == 300

            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(write(one, f"/w/{number}"))
                    group.create_task(write(two, f"/v/{number}"))
                    group.create_task(read())

    with_store(pair[0], work)


def test_a_lease_may_be_renewed_at_any_gateway_and_ends_at_all(pair: tuple[EtcdGateway, EtcdGateway]) -> None:
    async def work(one: Store) -> None:
        async with opened(pair[1]) as two:
            lease = await one.lease_grant(800)
            await one.put("/l", b"", lease=lease)
            loop = asyncio.get_running_loop()
            until = loop.time() + 2.5
            while loop.time() < until:
                await asyncio.sleep(0.1)
                last = loop.time()
                assert await two.lease_renew(lease) == 800
            assert await keys(one) == ["/l"]
            while await keys(one):
                await asyncio.sleep(0.02)
            assert 0.79 <= loop.time() - last < 2.5
            for store in (one, two):
                with pytest.raises(NotFound):
                    await store.lease_renew(lease)

    with_store(pair[0], work)


def test_a_gateway_that_was_stopped_ends_no_lease_that_was_renewed_elsewhere(pair: tuple[EtcdGateway, EtcdGateway]) -> None:
    async def work(one: Store) -> None:
        lease = await one.lease_grant(600)
        await one.put("/l", b"", lease=lease)
        process = pair[1].process
        assert process is not None
        loop = asyncio.get_running_loop()
        for stopped in (True, False):
            os.kill(process.pid, signal.SIGSTOP if stopped else signal.SIGCONT)
            until = loop.time() + 1.5
            while loop.time() < until:
                assert await one.lease_renew(lease) == 600
                await asyncio.sleep(0.05)
        assert await keys(one) == ["/l"]

    with_store(pair[0], work)


def test_a_judge_that_did_not_hear_of_a_renewal_ends_nothing(tmp_path: Path, member: EtcdMember) -> None:
    """Its feed may be late: what it would end it compares with what it heard of last."""
    gateway = EtcdGateway(tmp_path / "one", member=member)

    async def work(store: Store) -> None:
        lease = await store.lease_grant(1_000)
        await store.put("/l", b"", lease=lease)
        address = parse(f"etcd://127.0.0.1:{member.port}/tested")
        channel, found, clock = Channel(address), Keys(address.root), [0]
        judge = EtcdLeases(channel, found, "late", lambda: clock[0])
        try:
            held = messages.read_range(await channel.call("KV/Range", messages.range_(found.lease(lease))))
            judge.begin(Beginning((await store.range("/l"))[1].generation, held.revision, held.found, ()))
            await store.lease_renew(lease)
            for _look in range(8):
                clock[0] += 250
                judge.heard()
            assert judge._tasks
            await asyncio.gather(*judge._tasks)
            assert await store.lease_renew(lease) == 1_000 and await keys(store) == ["/l"]
        finally:
            await channel.close()

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_a_judge_that_hears_late_that_a_lease_was_made_does_not_revoke_it(tmp_path: Path, member: EtcdMember) -> None:
    """It heard that the making had begun, and then nothing for longer than one takes."""
    gateway = EtcdGateway(tmp_path / "one", member=member)

    async def work(store: Store) -> None:
        lease = await store.lease_grant(10_000)
        revision = await store.put("/l", b"", lease=lease)
        address = parse(f"etcd://127.0.0.1:{member.port}/tested")
        channel, found, clock = Channel(address), Keys(address.root), [0]
        judge = EtcdLeases(channel, found, "late", lambda: clock[0])
        try:
            judge.begin(Beginning(revision.generation, 1, (), (messages.KeyValue(found.ending(lease), b"", 1, 1, 1),)))
            clock[0] = 60_000
            judge.heard()
            assert judge._tasks
            await asyncio.gather(*judge._tasks)
            assert await keys(store) == ["/l"] and await store.lease_renew(lease) == 10_000
        finally:
            await channel.close()

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_an_end_that_its_gateway_did_not_finish_is_finished_by_another(tmp_path: Path, member: EtcdMember) -> None:
    gateway = EtcdGateway(tmp_path / "one", member=member)

    async def work(store: Store) -> None:
        lease = await store.lease_grant(10_000)
        await store.put("/l", b"", lease=lease)
        address = parse(f"etcd://127.0.0.1:{member.port}/tested")
        channel, found = Channel(address), Keys(address.root)
        try:  # what a gateway does first, and then dies
            judge = EtcdLeases(channel, found, "dying", lambda: 0)
            assert (await judge._transact([], judge._close(lease))).succeeded
            with pytest.raises(NotFound):
                await store.lease_renew(lease)
            with pytest.raises(NotFound):
                await store.put("/late", b"", lease=lease)
            async with asyncio.timeout(5):
                while await keys(store) or messages.read_range(await channel.call("KV/Range", messages.range_(found.ending(lease)))).found:
                    await asyncio.sleep(0.05)
        finally:
            await channel.close()

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_while_etcd_is_away_no_leases_time_runs_and_what_was_asked_is_said_honestly(tmp_path: Path, member: EtcdMember) -> None:
    gateway = EtcdGateway(tmp_path / "one", member=member)

    async def work(store: Store) -> None:
        lease = await store.lease_grant(600)
        await store.put("/l", b"", lease=lease)
        assert member.process is not None
        os.kill(member.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown):
                await store.put("/unknown", b"")
            with pytest.raises(Unavailable):
                await store.range("/l")
        finally:
            os.kill(member.process.pid, signal.SIGCONT)
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(Unavailable, OutcomeUnknown):
                    assert await store.lease_renew(lease) == 600
                    break
        assert "/l" in await keys(store)

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_an_etcd_that_is_not_there_is_named(tmp_path: Path, member: EtcdMember) -> None:
    gateway = EtcdGateway(tmp_path / "one", member=member)
    member.stop()

    async def work(store: Store) -> None:
        with pytest.raises(Unavailable, match="etcd"):
            await store.put("/a", b"")
        await asyncio.to_thread(member.start)
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(Unavailable, OutcomeUnknown):
                    await store.put("/a", b"")
                    break
        assert await keys(store) == ["/a"]

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_a_watch_goes_on_through_another_gateway_with_what_that_one_never_heard(pair: tuple[EtcdGateway, EtcdGateway]) -> None:
    async def work(one: Store) -> None:
        start = await one.put("/w/0", b"")
        for number in range(1, 40):
            await one.transact(Transaction(then=(Put(f"/w/{number}", b"x"), Delete(f"/w/{number - 1}"))))
        await asyncio.to_thread(pair[1].kill)
        await asyncio.to_thread(pair[1].start)
        async with opened(pair[1]) as two:
            writing = asyncio.create_task(_write(one, 40, 60))
            seen: list[Event] = []
            async for batch in _until(two, "/w/", start, 59):
                seen += batch
            await writing
        wanted = [pair for n in range(1, 40) for pair in ((f"/w/{n}", "put"), (f"/w/{n - 1}", "delete"))]
        assert [(event.record.key, event.kind) for event in seen][: len(wanted)] == wanted
        numbers = [event.number for event in seen]
        assert numbers == sorted(numbers)

    with_store(pair[0], work)


async def _write(store: Store, first: int, end: int) -> None:
    for number in range(first, end):
        await store.put(f"/w/{number}", b"")


def test_an_etcd_that_lost_its_data_is_another_generation(tmp_path: Path) -> None:
    gateway = EtcdGateway(tmp_path)

    async def work(store: Store) -> None:
        for number in range(5):
            last = await store.put(f"/{number}", b"")
        watch = store.watch("/", after=last)

        async def watching() -> None:
            async for _batch in watch:
                pass

        task = asyncio.create_task(watching())
        await store.put("/heard", b"")
        gateway.member.stop()
        shutil.rmtree(tmp_path / "etcd")
        await asyncio.to_thread(gateway.member.start)
        with pytest.raises(Compacted):
            await asyncio.wait_for(task, 10)
        found, now = await store.range("/", prefix=True)
        assert found.records == () and now.generation != last.generation

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_the_largest_value_and_the_longest_transaction_go_through(tmp_path: Path, member: EtcdMember) -> None:
    gateway = EtcdGateway(tmp_path / "one", member=member)

    async def work(store: Store) -> None:
        await store.put("/large/1", bytes(VALUE_BYTES_MAX))
        await store.put("/large/2", bytes(VALUE_BYTES_MAX))
        found, _ = await store.range("/large/", prefix=True)
        assert len(found.records) == 1 and found.more
        rest, _ = await store.range("/large/", prefix=True, after="/large/1")
        assert [len(record.value) for record in rest.records] == [VALUE_BYTES_MAX] and not rest.more
        lease = await store.lease_grant(10_000)
        compares = tuple(Compare(f"/many/{n}", "value", "!=", b"x") for n in range(20))
        done = await store.transact(Transaction(compares, tuple(Put(f"/many/{n:03}", b"", lease) for n in range(492))))
        assert done.succeeded and len(await keys(store, "/many/")) == 492
        page, _ = await store.range("/many/", prefix=True, limit=300)
        assert len(page.records) == 300 and page.more
        done = await store.transact(Transaction((Compare("/many/000", "value", "!=", b""),), (), (Range("/many/001"),)))
        assert not done.succeeded and len(done.results) == 1
        await store.lease_revoke(lease)
        assert await keys(store, "/many/") == []

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


# without etcd


def test_an_address_is_read_and_never_shown_with_its_password() -> None:
    found = parse("etcd://me:s%40fe@a:1,b/home?ca=/ca.pem")
    assert found.members == ("a:1", "b:2379") and (found.user, found.password, found.ca) == ("me", "s@fe", "/ca.pem")
    assert "fe" not in repr(found) and found.root == b"/unios/home/"
    for bad in ("http://a/home", "etcd:///home", "etcd://a", "etcd://a/x/y", "etcd://a/home?tls=1"):
        with pytest.raises(Misused):
            parse(bad)


@pytest.mark.parametrize("number", [1, 127, 128, 2**31, 2**63 - 1, -1])
def test_numbers_are_read_as_they_were_written(number: int) -> None:
    assert list(protobuf.fields(protobuf.integer(3, number) + protobuf.blob(4, b"x"))) == [(3, number), (4, b"x")]


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"\x08\xff", b"\x0b", b"\x08" + b"\xff" * 11])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 it says what is wrong
        list(protobuf.fields(data))


def test_bounds_are_held_before_etcd_is_asked() -> None:
    with pytest.raises(CallerError):
        bounds.check(Transaction(then=tuple(Put(f"/{n}", b"") for n in range(513))))
    with pytest.raises(NotFound):
        translation.request(Keys(b"/unios/x/"), Transaction(then=(Put("/a", b"", -1),)))


def test_a_prefix_ends_before_the_next_key_that_lacks_it() -> None:
    assert messages.after(b"/a/") == b"/a0" and messages.after(b"a\xff") == b"b" and messages.after(b"\xff") == b"\0"


def test_recent_events_are_had_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unios.store.etcd.recent.RECENT_EVENTS_MAX", 3)
    recent = Recent(10)
    for number in (11, 12, 13):
        recent.note(number, [Event("put", number, Record(f"/{key}", b"", number, number, 1)) for key in "ab"])
    assert recent.after("/", 11) is None and recent.floor == 12 and recent.heard == 13
    assert [event.number for event in recent.after("/a", 12) or []] == [13]


def test_a_channel_that_turns_to_other_members_ends_its_watch_with_an_error_and_not_its_task(member: EtcdMember) -> None:
    async def main() -> None:
        channel = Channel(parse(f"etcd://127.0.0.1:{member.port}/turning"))
        watch = channel.watch(b"/unios/turning/", 0)
        assert (await anext(watch)).created
        channel.turn_to((f"localhost:{member.port}",))
        assert messages.read_range(await channel.call("KV/Range", messages.range_(b"/x"))).total == 0
        with pytest.raises(Unavailable, match="another member is asked"):
            await anext(watch)
        await channel.close()

    asyncio.run(main())


def test_members_are_read_as_etcd_writes_them() -> None:
    id_ = 2**63 + 5
    one = protobuf.integer(1, id_) + protobuf.blob(2, b"n1") + protobuf.blob(3, b"https://a:1") + protobuf.blob(4, b"https://a:2")
    learner = protobuf.integer(1, 7) + protobuf.blob(3, b"https://b:1") + protobuf.integer(5, 1)
    found = messages.read_members(protobuf.blob(1, b"") + protobuf.blob(2, one) + protobuf.blob(2, learner))
    assert found == (messages.Listed(id_, "n1", ("https://a:1",), ("https://a:2",), False), messages.Listed(7, "", ("https://b:1",), (), True))
    assert messages.read_members(protobuf.blob(3, learner), 3)[0].id == 7


def test_an_etcd_that_is_away_is_asked_for_a_sign_of_life_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """With leases that were due the gateway asked again at once, for as long as etcd was away: an eighth of a core."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    class Away:
        asked = 0

        async def call(self, _name: str, _request: bytes, *, timeout_s: float) -> bytes:
            self.asked += 1
            raise Unavailable(f"away for {timeout_s} s")

    async def work() -> None:
        away, clock = Away(), [0]
        leases = EtcdLeases(away, Keys(b"/unios/x/"), "g", lambda: clock[0])  # type: ignore[arg-type]
        leases.begin(Beginning(Generation("g"), 1, (messages.KeyValue(b"/unios/x/l/7", b"1000", 1, 1, 1),), ()))
        clock[0] = 60_000
        monkeypatch.setattr(asyncio, "sleep", note)
        task = asyncio.create_task(leases.run())
        while away.asked < 12:
            await sleep(0)
        task.cancel()

    asyncio.run(work())
    between = [seconds for seconds in waits if seconds > 0.01]
    assert between[:3] == [0.05, 0.1, 0.2] and set(between[3:]) == {0.25}


def test_who_is_let_in_between_two_generations_is_told_to_read_anew() -> None:
    """He was among the watchers of the old one, after those had been cut off, and heard nothing any more."""

    class Slow:
        members = ()

        def __init__(self) -> None:
            self.asked, self.answered = asyncio.Event(), asyncio.Event()

        async def call(self, _name: str, _request: bytes) -> bytes:
            self.asked.set()
            await self.answered.wait()
            return b""

    async def work() -> None:
        slow = Slow()
        gateway = Gateway(slow, b"/unios/x/", lambda: 0)  # type: ignore[arg-type]
        gateway._begin(Beginning(Generation("old"), 5, (), ()))
        watching = asyncio.create_task(gateway.watch("/k/", Revision(Generation("old"), 5)))
        await slow.asked.wait()
        gateway._break()
        slow.answered.set()
        watcher = await watching
        gateway._begin(Beginning(Generation("new"), 9, (), ()))
        assert watcher.cut_off

    asyncio.run(work())
