"""Group commit: what goes to etcd as one has nothing to do with each other, is answered each for itself, and nothing waits for long or is done twice."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.engines import EtcdGateway, EtcdMember, with_store
from tests.wire.pairs import bounded, settled, until
from unios.errors import CallerError, DiskFull, Misused, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.ids import Generation, LeaseId
from unios.store.etcd import group_commit, protobuf
from unios.store.etcd.gateway import Gateway, Older
from unios.store.etcd.group_commit import CALLS_FREE, GROUP_MAX, LARGE_BYTES, PART_BYTES, READS_MAX, GroupCommit, footprint
from unios.store.etcd.recent import Recent
from unios.store.model import Compare, Delete, Put, Range, RangeResult, Revision, Store, Transaction, TransactionResult

DONE = TransactionResult(True, Revision(Generation("g"), 1), (0,))


def put(key: str, value: bytes = b"x") -> Transaction:
    return Transaction(then=(Put(key, value),))


class Etcd:
    """Notes what it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Transaction, ...]] = []
        self.open: list[asyncio.Future[None]] = []
        self.refuses: dict[str, UniosError] = {}
        """key -> what becomes of a request in which it is put"""
        self.commit = GroupCommit(self.ask)

    async def ask(self, transactions: tuple[Transaction, ...]) -> list[TransactionResult | UniosError]:
        self.asked.append(transactions)
        self.open.append(asyncio.get_running_loop().create_future())
        await self.open[-1]
        for transaction in transactions:
            for operation in transaction.then:
                if operation.key in self.refuses:
                    raise self.refuses[operation.key]
        return [DONE] * len(transactions)

    def answer(self, count: int = 1) -> None:
        for waiting in [one for one in self.open if not one.done()][:count]:
            waiting.set_result(None)

    def keys(self) -> list[list[str]]:
        return [[operation.key for one in each for operation in one.then] for each in self.asked]

    async def busy(self) -> list[asyncio.Task[TransactionResult]]:
        """Have as many under way as are free to be."""
        tasks = [asyncio.ensure_future(self.commit.do(put(f"/busy/{at}"))) for at in range(CALLS_FREE)]
        await settled()
        assert len(self.asked) == CALLS_FREE
        self.asked.clear()
        return tasks


def asks(etcd: Etcd, transactions: Sequence[Transaction]) -> list[asyncio.Task[TransactionResult]]:
    return [asyncio.ensure_future(etcd.commit.do(transaction)) for transaction in transactions]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No group goes because it has waited."""
    monkeypatch.setattr(group_commit, "GROUP_WAIT_S", 60)


def test_what_comes_while_etcd_is_busy_goes_as_one_with_the_first_answer(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        tasks = asks(etcd, [put(f"/{at}") for at in range(10)])
        await settled()
        assert etcd.asked == []
        etcd.answer()
        await settled()
        assert etcd.keys() == [[f"/{at}" for at in range(10)]]
        etcd.answer(99)
        assert await asyncio.gather(*tasks, *busy) == [DONE] * (10 + CALLS_FREE)

    bounded(work)


def test_a_group_waits_no_longer_than_a_moment_for_an_etcd_that_does_not_answer() -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        tasks = asks(etcd, [put("/a"), put("/b")])
        await until(lambda: etcd.keys() == [["/a", "/b"]])
        etcd.answer(99)
        await asyncio.gather(*tasks, *busy)

    bounded(work)


def test_what_touches_the_same_goes_by_itself_and_at_once(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        reads = Transaction((Compare("/a", "version", "==", 0),), (Put("/c", b""),))
        tasks = asks(etcd, [put("/a"), put("/b"), put("/a"), reads])
        await settled()
        assert etcd.keys() == [["/a"], ["/c"]]
        etcd.answer()
        await settled()
        assert etcd.keys()[2:] == [["/a", "/b"]]
        etcd.answer(99)
        await asyncio.gather(*tasks, *busy)

    bounded(work)


def test_a_full_group_waits_for_nobody(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        tasks = asks(etcd, [put(f"/{at}") for at in range(GROUP_MAX + 3)])
        await settled()
        assert [len(each) for each in etcd.asked] == [GROUP_MAX]
        for at in range(12):
            tasks += asks(etcd, [put(f"/large/{at}", bytes(44_000))])
        await settled()
        assert [len(each) for each in etcd.asked] == [GROUP_MAX, 15], "half a megabyte is enough"
        etcd.answer(99)
        await until(lambda: all(task.done() for task in busy))
        etcd.answer(99)
        await asyncio.gather(*tasks)

    bounded(work)


@pytest.mark.parametrize("error", [OutcomeUnknown("the answer is lost"), Unavailable("no leader")], ids=["unknown", "unavailable"])
def test_what_nobody_knows_of_a_group_is_said_to_each_and_done_no_second_time(patient: None, error: UniosError) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        etcd.refuses = {"/b": error}
        tasks = asks(etcd, [put("/a"), put("/b")])
        await settled()
        etcd.answer()
        await settled()
        etcd.answer(99)
        assert await asyncio.gather(*tasks, return_exceptions=True) == [error, error]
        assert etcd.keys() == [["/a", "/b"]]
        await asyncio.gather(*busy)

    bounded(work)


def test_one_that_etcd_refuses_takes_nobody_with_it(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        refused = CallerError("too many operations")
        etcd.refuses = {"/b": refused}
        tasks = asks(etcd, [put("/a"), put("/b"), put("/c")])
        await settled()
        for _ in range(4):
            etcd.answer(99)
            await settled()
        assert await asyncio.gather(*tasks, return_exceptions=True) == [DONE, refused, DONE]
        assert etcd.keys() == [["/a", "/b", "/c"], ["/a"], ["/b"], ["/c"]]
        await asyncio.gather(*busy)

    bounded(work)


def test_what_nobody_waits_for_any_more_is_not_asked(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        given_up, other = asks(etcd, [put("/a"), put("/b")])
        await settled()
        given_up.cancel()
        await settled()
        etcd.answer()
        await settled()
        assert etcd.keys() == [["/b"]]
        etcd.answer(99)
        await asyncio.gather(other, *busy)

    bounded(work)


def test_a_gateway_that_stops_tells_who_waits_that_nobody_knows(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        under_way = asks(etcd, [put("/a")])
        await settled()
        etcd.answer()
        await settled()
        waiting = asks(etcd, [put("/b")])
        await settled()
        assert etcd.keys() == [["/a"]]
        await etcd.commit.close()
        with pytest.raises(OutcomeUnknown):
            await under_way[0]
        with pytest.raises(Unavailable):
            await waiting[0]
        with pytest.raises(Unavailable):
            await etcd.commit.do(put("/c"))
        etcd.answer(99)
        await asyncio.gather(*busy)

    bounded(work)


def test_what_goes_by_itself() -> None:
    assert footprint(Transaction(then=(Range("/a"), Range("/b")))) is None, "it writes nothing: an answer that is lost is no question"
    assert footprint(Transaction(then=(Put("/a", b""), Delete("/b", prefix=True)))) is None
    assert footprint(Transaction(then=(Put("/a", b""),), otherwise=(Range("/b", prefix=True),))) is None
    assert footprint(put("/a", bytes(LARGE_BYTES))) is None
    assert footprint(Transaction(then=(Put("/a", b""), Delete("/b")))) is None, "what was there is told to who watches, however large"
    many = tuple(Compare(f"/{at}" + "k" * 900, "version", "==", 0) for at in range(80))
    assert footprint(Transaction(many, (Put("/a", b""),))) is None, "keys are bytes too"
    differs = tuple(Compare(f"/{at}", "value", "!=", b"") for at in range(3))
    assert footprint(Transaction(differs, (), (Put("/a", bytes(20_000)),))) is None, "etcd is given it four times"
    found = footprint(Transaction((Compare("/c", "value", "==", b"123"),), (Put("/ä", b"12"), Range("/r")), (Put("/d", b""),)))
    assert found == ({"/c", "/r"}, {"/ä", "/d"}, len("/c/a/r/d") + 1 + 5 + 4 * PART_BYTES, 1)


def test_no_more_is_read_in_a_group_than_all_can_wait_for(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        tasks = asks(etcd, [Transaction((), (Put(f"/{at}", b""), Range(f"/r/{at}"))) for at in range(READS_MAX + 2)])
        await settled()
        assert [len(each) for each in etcd.asked] == [READS_MAX]
        etcd.answer(99)
        await settled()
        etcd.answer(99)
        await asyncio.gather(*tasks, *busy)

    bounded(work)


def test_a_group_that_had_not_begun_when_the_gateway_stopped_is_answered(patient: None) -> None:
    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        tasks = asks(etcd, [put("/a"), put("/b")])
        await settled()
        etcd.commit._depart()
        await etcd.commit.close()
        assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [OutcomeUnknown] * 2
        assert etcd.asked == []
        etcd.answer(99)
        await asyncio.gather(*busy)

    bounded(work)


KEYS = st.sampled_from([f"/{name}" for name in "abcdef"])
TRANSACTIONS = st.builds(
    lambda compared, written, read, otherwise: Transaction(
        tuple(Compare(key, "version", ">", 0) for key in compared),
        tuple(Put(key, b"") for key in written),
        (*map(Range, read), *(Put(key, b"") for key in otherwise)),
    ),
    *(st.lists(KEYS, max_size=2, unique=True) for _ in range(4)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(TRANSACTIONS, st.just(None)), max_size=30))
def test_nothing_in_a_group_touches_what_another_in_it_writes_and_each_is_asked_once(steps: list[Transaction | None]) -> None:
    """None: an answer comes."""

    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        tasks = []
        for step in steps:
            if step is None:
                etcd.answer()
            else:
                tasks += asks(etcd, [step])
            await settled()
        while not all(task.done() for task in (*tasks, *busy)):
            etcd.answer(99)
            await asyncio.sleep(0.001)
        for each in etcd.asked:
            for at, one in enumerate(each):
                for other in each[at + 1 :]:
                    (reads, writes, *_), (others, written, *_) = (footprint(each) or ((), ()) for each in (one, other))
                    assert not set(writes) & {*written, *others} and not set(written) & {*reads}
        assert sorted(map(repr, (one for each in etcd.asked for one in each))) == sorted(map(repr, filter(None, steps)))

    bounded(work)


def test_the_time_that_one_group_may_wait_is_not_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "GROUP_WAIT_S", 0.2)

    async def work() -> None:
        etcd = Etcd()
        busy = await etcd.busy()
        tasks = asks(etcd, [put("/a")])
        await asyncio.sleep(0.15)
        etcd.answer()
        await settled()
        tasks += asks(etcd, [put("/b")])
        await asyncio.sleep(0.1)
        assert etcd.keys() == [["/a"]]
        etcd.answer(99)
        await settled()
        etcd.answer(99)
        await asyncio.gather(*tasks, *busy)

    bounded(work)


class Backwards:
    """A channel to an etcd that is at revision 3 when 50 have been heard of."""

    async def call(self, *_args: object, writes: bool) -> bytes:
        return protobuf.blob(1, protobuf.integer(3, 3)) + protobuf.integer(2, 1) + protobuf.blob(3, protobuf.blob(2, b""))


def test_an_answer_from_before_what_has_been_heard_is_no_answer() -> None:
    async def work() -> None:
        gateway = Gateway(cast(Any, Backwards()), b"/r/", lambda: 0)
        gateway._recent = Recent(50)
        with pytest.raises(OutcomeUnknown, match="older state"):
            await gateway._together((put("/a"),))
        with pytest.raises(Older):
            await gateway._together((Transaction((Compare("/a", "version", "==", 0),), (Range("/a"),)),))
        gateway._recent = Recent(3)
        assert (await gateway._together((put("/a"),)))[0] == TransactionResult(True, Revision(Generation(""), 3), (0,))

    bounded(work)


# with an etcd


def test_each_of_many_at_a_time_is_answered_for_itself(tmp_path_factory: pytest.TempPathFactory, member: EtcdMember) -> None:
    """Counters that many raise at once by compare and set, a lease that has ended, and one that does not hold: each is told its own outcome."""
    gateway = EtcdGateway(tmp_path_factory.mktemp("gateway"), member=member)

    async def raise_(store: Store, key: str, times: int) -> int:
        failed = 0
        for _ in range(times):
            while True:
                (found,), revision = (await store.range(key))[0].records or (None,), 0
                version, now = (found.version, int(found.value)) if found else (0, 0)
                done = await store.transact(
                    Transaction((Compare(key, "version", "==", version),), (Put(key, b"%d" % (now + 1)), Range(f"{key}/none")), (Range(key),))
                )
                assert len(done.results) == (2 if done.succeeded else 1) and done.revision.number > revision
                if done.succeeded:
                    assert done.results[1] == RangeResult(())
                    break
                (seen,) = done.results
                assert isinstance(seen, RangeResult) and seen.records[0].key == key and seen.records[0].version > version
                failed += 1
        return failed

    async def refused(store: Store, lease: LeaseId, number: int) -> None:
        with pytest.raises(NotFound):
            await store.put(f"/refused/{number}", b"", lease=lease)

    async def work(store: Store) -> None:
        ended, lives = await store.lease_grant(60_000), await store.lease_grant(60_000)
        await store.lease_revoke(ended)
        begin = await store.put("/begin", b"")
        workers = [raise_(store, f"/counter/{at % 20}", 10) for at in range(40)]
        failed, *_ = await asyncio.gather(
            asyncio.gather(*workers),
            asyncio.gather(*(refused(store, ended, at) for at in range(30))),
            asyncio.gather(*(store.put(f"/leased/{at}", b"", lease=lives) for at in range(30))),
        )
        assert sum(failed) > 0, "two raise each counter: one of them has to ask again now and then"
        found = (await store.range("/counter/", prefix=True))[0].records
        assert {record.key: (record.value, record.version) for record in found} == {f"/counter/{at}": (b"20", 20) for at in range(20)}
        assert (await store.range("/refused/", prefix=True))[0].records == ()
        assert {record.lease for record in (await store.range("/leased/", prefix=True))[0].records} == {lives}
        seen, numbers = 0, list[int]()
        async for batch in store.watch("/", after=begin):
            seen += len(batch.events)
            numbers += [event.number for event in batch.events]
            if seen >= 430:
                break
        assert seen == 430 and numbers == sorted(numbers) and len(set(numbers)) < 430, "some went together, and all were told, in order"

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_one_too_large_for_etcd_is_refused_alone(tmp_path_factory: pytest.TempPathFactory, member: EtcdMember) -> None:
    gateway = EtcdGateway(tmp_path_factory.mktemp("gateway"), member=member)

    async def work(store: Store) -> None:
        asked = [store.put(f"/{at}", bytes(40_000)) for at in range(60)]
        twice = store.transact(Transaction(then=(Put("/twice", b""), Delete("/twice"))))
        *_, refused = await asyncio.gather(*asked, twice, return_exceptions=True)
        assert isinstance(refused, CallerError | Misused)
        assert len((await store.range("/", prefix=True))[0].records) == 60

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_a_full_etcd_refuses_groups_too_and_lets_what_gives_space_back_through(tmp_path: Path) -> None:
    """It counts only what a transaction puts itself, and nothing that one within puts: with no space left everything went through in groups."""
    member = EtcdMember(tmp_path, flags={"quota-backend-bytes": str(8 * 1024 * 1024)})
    gateway = EtcdGateway(tmp_path / "gateway", member=member)

    async def fill(store: Store) -> None:
        for at in range(1_000):
            await store.put(f"/fill/{at % 50}", bytes(60_000))

    async def work(store: Store) -> None:
        with pytest.raises(DiskFull):
            await fill(store)
        before = (await store.statistics()).bytes
        found = await asyncio.gather(*(store.put(f"/many/{at}", bytes(30_000)) for at in range(100)), return_exceptions=True)
        assert {type(one) for one in found} == {DiskFull}
        assert (await store.statistics()).bytes < before + 1_000_000
        assert sum(count for count, _revision in await asyncio.gather(*(store.delete(f"/fill/{at}") for at in range(40)))) == 40

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()
        member.stop()


def test_many_large_records_that_are_deleted_at_a_time_are_all_told(tmp_path_factory: pytest.TempPathFactory, member: EtcdMember) -> None:
    gateway = EtcdGateway(tmp_path_factory.mktemp("gateway"), member=member)

    async def work(store: Store) -> None:
        for at in range(16):
            begin = await store.put(f"/large/{at}", bytes(1_000_000))
        seen: list[str] = []

        async def look() -> None:
            async for batch in store.watch("/large/", after=begin):
                seen.extend(event.record.key for event in batch.events)
                if len(seen) == 16:
                    return

        looking = asyncio.create_task(look())
        await asyncio.gather(*(store.transact(Transaction(then=(Delete(f"/large/{at}"), Put(f"/small/{at}", b"")))) for at in range(16)))
        await looking
        assert sorted(seen) == sorted(f"/large/{at}" for at in range(16))

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()


def test_a_foreign_etcd_with_its_own_bounds_takes_groups_of_long_keys(tmp_path: Path) -> None:
    member = EtcdMember(tmp_path, flags={"max-txn-ops": None, "max-request-bytes": None})
    gateway = EtcdGateway(tmp_path / "gateway", member=member)

    async def work(store: Store) -> None:
        long = [
            Transaction(tuple(Compare(f"/c/{at}/{part}/{'k' * 980}", "version", "==", 0) for part in range(40)), (Put(f"/w/{at}", b""),))
            for at in range(60)
        ]
        twice = [
            Transaction((Compare(f"/v/{at}", "value", "!=", b"x"),), (Put(f"/v/{at}", bytes(25_000)),), (Range(f"/v/{at}"),)) for at in range(60)
        ]
        found = await asyncio.gather(*map(store.transact, long), *map(store.transact, twice), *(store.put(f"/small/{at}", b"") for at in range(40)))
        assert len(found) == 160
        assert len((await store.range("/", prefix=True))[0].records) == 160
        with pytest.raises(CallerError, match="max-request-bytes"):
            await store.put("/large", bytes(3_000_000))  # nothing was done, and that is known

    try:
        with_store(gateway, work)
    finally:
        gateway.stop()
        member.stop()
