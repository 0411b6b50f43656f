"""The service of locks before it is the manager: what it says of that, and since when it says that nothing was lost."""

import asyncio
from typing import Any

import msgspec
import pytest

from unios.core.nodes import Alive, alive_key
from unios.errors import Denied, DiskFull, UniosError
from unios.services.locks import EPOCH, EpochRecord, Manager
from unios.store.model import Put, Record, Revision, Transaction, TransactionResult


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


def _record(key: str, value: bytes) -> Record:
    return Record(key, value, 1, 1, 1)
