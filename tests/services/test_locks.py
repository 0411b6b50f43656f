"""The service of locks before it is the manager: what it says of that, and since when it says that nothing was lost."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from unios.core.grants import Open
from unios.core.locks import Locks
from unios.core.nodes import Alive, alive_key
from unios.errors import CallerError, Denied, DiskFull, UniosError
from unios.services.locks import EPOCH, EpochRecord, Line, Manager
from unios.store.model import Put, Record, Revision, Transaction, TransactionResult
from unios.wire.operations import Accepted
from unios.wire.synchronising import pack


def manager() -> Manager:
    one = Manager.__new__(Manager)
    one._me = "n1"
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
