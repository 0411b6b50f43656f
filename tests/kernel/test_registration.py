"""Registration of a node whose store is being started at the same time."""

import asyncio
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unios import __version__
from unios.core.nodes import NodeRecord
from unios.errors import Unavailable
from unios.ids import LeaseId
from unios.kernel.registration import Registration
from unios.store.model import Generation, Put, RangeResult, Record, Revision, Transaction, TransactionResult
from unios.wire.installation import release
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN


class ComingStore:
    """A store that answers from the n-th request on."""

    def __init__(self, early: int) -> None:
        self.early, self.asked = early, list[str]()

    def _answer(self, op: str) -> None:
        self.asked.append(op)
        if len(self.asked) <= self.early:
            raise Unavailable("the store is being restarted")

    async def range(self, _key: str) -> None:
        self._answer("range")

    async def lease_grant(self, _ttl_ms: int) -> LeaseId:
        self._answer("grant")
        return LeaseId(7)


async def registered(store: ComingStore, folder: Path, store_machine: str) -> tuple[LeaseId, int]:
    node: Any = types.SimpleNamespace(
        name="n1", place="here", store=store, folder=types.SimpleNamespace(run=folder), system=types.SimpleNamespace(has_store=store_machine == "m")
    )
    registration = Registration(node)

    async def enter(_lease: LeaseId) -> int:
        return 1

    registration._enter = enter  # type: ignore[method-assign]
    return await registration.register()


def test_a_store_that_comes_a_moment_later_is_waited_for(tmp_path: Path) -> None:
    store = ComingStore(early=3)
    assert asyncio.run(registered(store, tmp_path, "m")) == (7, 1)
    assert store.asked == ["range"] * 4 + ["grant"]


def test_a_store_that_does_not_come_is_asked_for_at_the_next_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unios.kernel.registration.STORE_COMES_MS", 20)
    with pytest.raises(Unavailable):
        asyncio.run(registered(ComingStore(early=10**9), tmp_path, "m"))


def test_a_store_of_another_machine_is_not_waited_for(tmp_path: Path) -> None:
    store = ComingStore(early=1)
    with pytest.raises(Unavailable):
        asyncio.run(registered(store, tmp_path, "other"))
    assert store.asked == ["grant"]


class StandingStore:
    """One in which the lease of a kernel before this one stands, with more of its ports than are answered at once, and a record of the node."""

    def __init__(self) -> None:
        self.record = NodeRecord("n1", "m", 3, cores=4, version="0.0.9", protocol=0)
        self.written = 0

    async def transact(self, transaction: Transaction) -> TransactionResult:
        (put,) = transaction.then
        assert isinstance(put, Put)
        self.record, self.written = msgspec.msgpack.decode(put.value, type=NodeRecord), self.written + 1
        return TransactionResult(True, (), Revision(Generation("g"), 2))

    async def lease_renew(self, _lease: LeaseId) -> int:
        return 1_000

    async def range(self, key: str, *, prefix: bool = False, after: str = "", limit: int = 0) -> tuple[RangeResult, Revision]:
        revision = Revision(Generation("g"), 1)
        if not prefix:
            value = msgspec.msgpack.encode(self.record) if key == "/nodes/n1" else b""
            return RangeResult((Record(key, value, 1, 1, 1, LeaseId(7)),)), revision
        keys = [f"/ports/a/{number:04}/{node}" for number in range(1_000) for node in ("n1", "n2")]
        found = [Record(key, b"", 1, 1, 1, LeaseId(7)) for key in keys if key > after]
        return RangeResult(tuple(found[:300]), len(found) > 300), revision


def test_the_ports_of_a_kernel_that_died_are_taken_back_all_of_them_and_no_other_nodes(tmp_path: Path) -> None:
    begun: list[tuple[LeaseId, list[str]]] = []
    (tmp_path / "lease.json").write_text('{"lease": 7, "incarnation": 3}')
    store = StandingStore()
    node: Any = types.SimpleNamespace(
        name="n1",
        place="here",
        store=store,
        folder=types.SimpleNamespace(run=tmp_path),
        system=types.SimpleNamespace(has_store=False),
        publishing=types.SimpleNamespace(begin=lambda lease, told: begun.append((lease, list(told)))),
    )
    assert asyncio.run(Registration(node).register()) == (7, 3)
    assert begun == [(7, [f"a/{number:04}" for number in range(1_000)])]
    assert store.record == NodeRecord(
        "n1", "m", 3, cores=4, version=__version__, protocol=PROTOCOL_MAX, protocol_min=PROTOCOL_MIN, release=release()
    ), "the kernel before was of another version"
    assert asyncio.run(Registration(node).register()) == (7, 3)
    assert store.written == 1, "nothing is written of what is so"
