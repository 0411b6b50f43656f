"""The service of locks before it is the manager: what it says of that, and since when it says that nothing was lost."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from unios.core.grants import Answer, Ask, Open, Opened, Out, Said
from unios.core.locks import Locks
from unios.core.nodes import Alive, alive_key
from unios.errors import CallerError, Denied, DiskFull, OutcomeUnknown, Unavailable, UniosError
from unios.limits import SEND_QUEUE_BYTES_MAX
from unios.services.lease_seen import LeaseSeen
from unios.services.locks import EPOCH, MANAGER, EpochRecord, Line, Manager, now_ms
from unios.store.model import Compare, Put, Record, Revision, Transaction, TransactionResult
from unios.wire.operations import Accepted
from unios.wire.peer import Call
from unios.wire.synchronising import pack, told


def manager() -> Manager:
    one = Manager.__new__(Manager)
    one._me, one._lease = "n1", cast(LeaseSeen, SimpleNamespace(number=3, holds=True))
    return one


def test_a_service_that_cannot_begin_says_once_what_it_lacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one = manager()
    tries: list[UniosError] = [*[DiskFull("the disk of the store is full")] * 3, Denied("not for this user")]

    async def look() -> dict[str, Record]:
        raise tries.pop(0)

    monkeypatch.setattr("unios.services.locks.RETRY_S", 0)
    monkeypatch.setattr(one, "_look", look)
    assert asyncio.run(one._win()) is None and not tries
    assert capsys.readouterr().out.count("the disk of the store is full") == 1


@pytest.mark.parametrize(("last", "since"), [(None, 1), (EpochRecord(4, False, 2), 5), (EpochRecord(4, True, 2), 2), (EpochRecord(4, True), 4)])
def test_a_manager_knows_since_when_no_manager_has_lost_anything(last: EpochRecord | None, since: int) -> None:
    one = manager()
    put: list[Any] = []

    class Store:
        async def transact(self, transaction: Transaction) -> TransactionResult:
            put.extend(each for each in transaction.then if isinstance(each, Put) and each.key == EPOCH)
            return TransactionResult(True, Revision("g", 1))

    one._store = Store()  # type: ignore[assignment]
    record = None if last is None else _record(EPOCH, msgspec.msgpack.encode(last))
    locks = asyncio.run(one._take(None, record, _record(alive_key("n1"), msgspec.msgpack.encode(Alive(3)))))
    assert locks is not None and locks.since == since
    assert msgspec.msgpack.decode(put[0].value, type=EpochRecord).since == since


def test_a_connection_is_of_one_session_whose_end_is_known_by_the_connections() -> None:
    one = manager()
    one._locks, one._lines, one._linux = Locks(1, 0, grace_ms=0), {}, {}
    stamp = Accepted(1, "locks", "ann", False, "n1", 0, 0)

    class Quiet:
        def tell(self, _message: object) -> None:
            pass

    line = cast(Line, Quiet())
    assert one._take_in(stamp, "", line, pack(Open("first", "x"))) == "first"
    assert one._take_in(stamp, "first", line, pack(Open("first", "x", turn=1))) == "first"
    with pytest.raises(CallerError, match="one session"):
        one._take_in(stamp, "first", line, pack(Open("second", "x")))
    assert list(one._lines) == list(one._locks.sessions) == ["first"]


def _record(key: str, value: bytes) -> Record:
    return Record(key, value, 1, 1, 1)


STAMP = Accepted(1, "locks", "ann", False, "n1", 0, 0)


class Deadline:
    """The node's lease as the service sees it."""

    def __init__(self) -> None:
        self.number, self.is_future, self.looked = 3, True, 0

    @property
    def holds(self) -> bool:
        self.looked += 1
        return self.is_future

    def holds_as(self, number: int) -> bool:
        return self.is_future and self.number == number


class Saying:
    """The request of one session: what it says, what it is told, and whether it was closed."""

    has_no_more = False

    def __init__(self, *said: Said, is_read: bool = True) -> None:
        self.said, self.told, self.closed, self.is_read = list(said), [], "", is_read
        self.peer = self

    def arrived(self) -> Iterator[msgspec.Raw]:
        while self.said:
            yield pack(self.said.pop(0))

    def send_now(self, body: msgspec.Raw) -> bool:
        self.told.append(told(body)) if self.is_read else None
        return self.is_read

    async def send(self, _body: msgspec.Raw) -> None:
        await asyncio.get_running_loop().create_future()

    def close(self, why: str) -> None:
        self.closed = why


def serving(lease: Deadline) -> Manager:
    one = manager()
    one._lease, one._number = cast(LeaseSeen, lease), lease.number
    one._locks, one._lines, one._linux = Locks(1, now_ms(), grace_ms=0), {}, {}
    return one


def line_of(call: Saying) -> Line:
    return Line(cast(Call, call))


def test_while_the_nodes_deadline_has_passed_nothing_is_heard_or_said_and_after_another_lease_never_again() -> None:
    async def run() -> None:
        lease = Deadline()
        one, call = serving(lease), Saying(Open("s", "x"), Ask(1, "take", "lock", "a"))
        line = line_of(call)
        lease.is_future = False
        one._hear(STAMP, line)
        assert not call.told and len(call.said) == 2 and line.waits is not None
        lease.is_future = True
        one._hear_later(STAMP, line)
        assert [type(message) for message in call.told] == [Opened, Answer] and not call.closed
        call.said.append(Ask(2, "take", "lock", "b"))
        lease.number += 1
        one._hear(STAMP, line)
        assert len(call.told) == 2 and "over" in call.closed and line.over.done()

    asyncio.run(run())


def test_the_manager_looks_at_the_clock_only_under_its_lease_and_ends_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        async def listen(self, *_about: object) -> None:
            pass

    async def run() -> None:
        lease, ticks = Deadline(), 0
        one = serving(lease)
        locks = one._locks
        assert locks is not None
        locks.open("ann", Open("s", "x"), now_ms())

        def tick(_now_ms: int) -> Out:
            nonlocal ticks
            ticks += 1
            return []

        async def win() -> Locks:
            return locks

        monkeypatch.setattr(locks, "tick", tick)
        monkeypatch.setattr(one, "_win", win)
        one._kernel, one._used_s = Kernel(), 0.0  # type: ignore[assignment]
        lease.is_future = False
        running = asyncio.create_task(one.run())
        while lease.looked < 3:
            await asyncio.sleep(0)
        assert ticks == 0
        lease.is_future = True
        while ticks < 2:
            await asyncio.sleep(0)
        lease.number += 1
        assert await running is True

    monkeypatch.setattr("unios.services.locks.SYNC_LOOK_MS", 1)
    asyncio.run(run())


def test_what_a_connection_brings_after_another_of_the_same_session_counts_for_nothing() -> None:
    async def run() -> None:
        one = serving(Deadline())
        early = Saying(Open("s", "x", turn=1))
        late = Saying(Open("s", "x", turn=2))
        early_line = line_of(early)
        one._hear(STAMP, early_line)
        one._hear(STAMP, line_of(late))
        early.said = [Ask(1, "take", "lock", "a")]
        one._hear(STAMP, early_line)
        assert "another connection" in early.closed and one._locks is not None and one._locks.thing("ann", "lock", "a") is None
        stale = Saying(Open("s", "x", turn=1))
        one._hear(STAMP, line_of(stale))
        assert "another connection" in stale.closed and one._lines["s"].call is cast(Call, late)

    asyncio.run(run())


def test_a_session_that_reads_nothing_is_cut_off() -> None:
    async def run() -> None:
        call = Saying(is_read=False)
        line = line_of(call)
        for _ in range(4 * SEND_QUEUE_BYTES_MAX // (1 << 20)):
            line.tell(Answer(1, 1, data=bytes(1 << 20)))
        assert call.closed
        assert line._sending is not None
        line._sending.cancel()

    asyncio.run(run())


def test_a_session_whose_process_is_known_to_have_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        lease = Deadline()
        one = serving(lease)
        for name, pid in (("alive", 1), ("dead", 2), ("cut off", 3)):
            one._hear(STAMP, line_of(Saying(Open(name, "x", linux=("boot", 1, pid, 0)))))
        assert one._locks is not None
        for name in ("alive", "dead"):
            del one._lines[name]
        monkeypatch.setattr("unios.services.locks.is_gone", lambda linux: linux[2] != 1)
        lease.is_future = False
        one._look_for_dead()
        assert len(one._locks.sessions) == 3
        lease.is_future = True
        one._look_for_dead()
        assert sorted(one._locks.sessions) == ["alive", "cut off"] and sorted(one._linux) == ["alive", "cut off"]

    asyncio.run(run())


def test_an_epoch_is_taken_only_if_nobody_else_has_taken_one_and_the_nodes_lease_stands_and_it_is_not_clean_before_it_ends() -> None:
    one = manager()
    done: list[Transaction] = []

    class Store:
        async def transact(self, transaction: Transaction) -> TransactionResult:
            done.append(transaction)
            return TransactionResult(False, Revision("g", 1))

    one._store = Store()  # type: ignore[assignment]
    epoch = _record(EPOCH, msgspec.msgpack.encode(EpochRecord(4, True)))
    assert asyncio.run(one._take(None, epoch, _record(alive_key("n1"), msgspec.msgpack.encode(Alive(3))))) is None
    (transaction,) = done
    assert set(transaction.compares) == {
        Compare(MANAGER, "modified", "==", 0),
        Compare(EPOCH, "modified", "==", epoch.modified),
        Compare(alive_key("n1"), "modified", "==", 1),
    }
    (written,) = [each for each in transaction.then if isinstance(each, Put) and each.key == EPOCH]
    assert not msgspec.msgpack.decode(written.value, type=EpochRecord).clean


def test_nobody_is_manager_while_the_nodes_kernel_has_registered_it_and_not_moved_its_deadline() -> None:
    one = manager()  # a transaction would fail: there is no store
    record = _record(alive_key("n1"), msgspec.msgpack.encode(Alive(4)))
    assert asyncio.run(one._take(None, None, record)) is None


@pytest.mark.parametrize(
    ("failures", "resigned", "asked"),
    [
        ([], True, 1),
        ([DiskFull("full")], False, 1),
        ([OutcomeUnknown("cut off")], True, 2),
        ([OutcomeUnknown("cut off"), Unavailable("away")], True, 3),
    ],
)
def test_a_manager_goes_on_if_it_cannot_resign_and_asks_again_if_it_may_have(
    monkeypatch: pytest.MonkeyPatch, failures: list[UniosError], resigned: bool, asked: int
) -> None:
    one = manager()
    one._locks, one._number, one._record = Locks(1, 0, grace_ms=0), 3, b"mine"
    done: list[Transaction] = []

    class Store:
        async def transact(self, transaction: Transaction) -> TransactionResult:
            done.append(transaction)
            if len(done) <= len(failures):
                raise failures[len(done) - 1]
            return TransactionResult(True, Revision("g", 1))

    one._store = Store()  # type: ignore[assignment]
    monkeypatch.setattr("unios.services.locks.RETRY_S", 0)
    assert asyncio.run(one._resign()) is resigned and len(done) == asked
    assert (one._number == 3) is not resigned
