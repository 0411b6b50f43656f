"""What the recovery service writes for the nodes that have a member of the store's etcd, and whom it tries next."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from unios.core import quorum as decisions
from unios.core.nodes import Etcd, NodeRecord
from unios.core.quorum import QuorumRecord, record_key
from unios.errors import Unavailable
from unios.ids import Generation
from unios.services import quorum
from unios.services.quorum import QuorumKeeping
from unios.store.model import Delete, Put, Range, RangeResult, Record, Transaction, TransactionResult
from unios.store.requests import Health, MemberHealth, MemberRequest, MemberView
from unios.store.sqlite import SqliteEngine


def peer(number: int) -> str:
    return f"https://10.0.0.{number}:1001"


class Store:
    """The records of an engine, and members as etcd lists them; a learner is never promoted. `refuses`: etcd takes no removal."""

    def __init__(self, *listed: MemberView) -> None:
        self.listed = list(listed)
        self.engine = SqliteEngine(":memory:", Generation("g"))
        self.asked: list[tuple[str, int, str]] = []
        self.refuses = False
        self.ill: set[int] = set()

    async def members(self) -> tuple[MemberView, ...]:
        return tuple(self.listed)

    async def health(self) -> Health:
        return Health(tuple(MemberHealth(one.id, one.name, one.peer, one.client, one.learner, one.id not in self.ill) for one in self.listed))

    async def change_member(self, request: MemberRequest) -> tuple[MemberView, ...]:
        self.asked.append((request.what, request.id, request.peer))
        if request.what == "add":
            self.listed.append(MemberView(200 + len(self.asked), "", request.peer, "", True))
        if request.what == "remove":
            if self.refuses:
                raise Unavailable("etcd does not take it at present")
            self.listed = [one for one in self.listed if one.id != request.id]
        return tuple(self.listed)

    async def transact(self, transaction: Transaction) -> TransactionResult:
        found = self.engine.run([transaction])[0].result
        assert isinstance(found, TransactionResult), found
        return found

    async def range(self, key: str, *, prefix: bool = False) -> tuple[RangeResult, None]:
        found = (await self.transact(Transaction(then=(Range(key, prefix),)))).results[0]
        assert isinstance(found, RangeResult)
        return found, None

    async def put(self, key: str, value: bytes) -> None:
        await self.transact(Transaction(then=(Put(key, value),)))

    async def delete(self, key: str) -> None:
        await self.transact(Transaction(then=(Delete(key),)))

    def of(self, key: str) -> Record | None:
        found = self.engine.run([Transaction(then=(Range(key),))])[0].result
        assert isinstance(found, TransactionResult) and isinstance(found.results[0], RangeResult)
        return next(iter(found.results[0].records), None)

    def write(self, record: QuorumRecord) -> None:
        self.engine.run([Transaction(then=(Put(record_key(record.node), msgspec.msgpack.encode(record)),))])

    def record(self, node: str) -> QuorumRecord | None:
        found = self.of(record_key(node))
        return msgspec.msgpack.decode(found.value, type=QuorumRecord) if found is not None else None


def keeping(store: Store, *left: int) -> QuorumKeeping:
    nodes = {
        f"/nodes/n{at}": NodeRecord(f"n{at}", f"m{at}", 1, etcd=Etcd("3.4", peer(at), ""), state="left" if at in left else "joined")
        for at in (1, 2, 3)
    }
    view: Any = SimpleNamespace(
        nodes=SimpleNamespace(values=nodes),
        store=store,
        membership=SimpleNamespace(view=lambda name: ("left" if nodes[f"/nodes/{name}"].state == "left" else "ready", "")),
    )
    return QuorumKeeping(view, lambda kind, text: Put(f"/events/{kind}", text.encode()))


def test_a_record_says_which_member_it_is_about() -> None:
    store = Store(MemberView(101, "n1", peer(1), ""), MemberView(102, "n2", peer(2), ""), MemberView(103, "n3", peer(3), ""))
    store.write(QuorumRecord("n2", "", member=77))  # it has been taken out and added again since
    store.write(QuorumRecord("n3", "", wanted=False))
    asyncio.run(keeping(store, 3)._write_records(tuple(store.listed)))
    assert [(found.member, found.wanted) for name in ("n1", "n2", "n3") if (found := store.record(name))] == [(101, True), (102, True), (0, False)]


def test_a_learner_that_does_not_catch_up_does_not_keep_the_others_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum, "EVERY_S", 0)
    monkeypatch.setattr(decisions, "LEARNS_MS", 1)

    async def main() -> None:
        store = Store(MemberView(101, "n1", peer(1), ""))
        kept = keeping(store)
        while sum(what == "add" for what, *_rest in store.asked) < 2:
            await kept.look()
            await asyncio.sleep(0.002)
        changes = [asked for asked in store.asked if asked[0] != "promote"]
        assert [what for what, *_rest in changes] == ["add", "remove", "add"]
        assert changes[0][2] == peer(2) and changes[2][2] == peer(3)
        assert (found := store.record("n2")) is not None and not found.wanted

    asyncio.run(asyncio.wait_for(main(), 10))


THREE = tuple(MemberView(100 + at, f"n{at}", peer(at), "") for at in (1, 2, 3))


def test_a_removal_that_etcd_refuses_is_not_told_and_taken_back_at_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum, "EVERY_S", 0.0001)

    async def main() -> None:
        store = Store(*THREE)
        kept, store.refuses = keeping(store, 3), True
        for _look in range(12):
            with contextlib.suppress(Unavailable):
                await kept.look()
            await asyncio.sleep(0.001)
        assert (found := store.record("n3")) is not None and not found.wanted
        told = store.of(record_key("n3"))
        assert told is not None and told.version <= 8, "it is tried again ever more rarely"
        assert all((one := store.record(f"n{at}")) is not None and one.wanted for at in (1, 2))

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_removal_is_not_decided_on_what_another_decision_has_changed() -> None:
    async def main() -> None:
        store = Store(*THREE)
        kept = keeping(store, 3)
        listed = store.health

        async def meanwhile() -> Health:
            await store.put(decisions.CHANGES, b"")  # a node was told that it may leave
            return await listed()

        store.health = meanwhile  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="another decision"):
            await kept.look()
        assert store.asked == []

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_member_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERY_S", "HEALTH_S"):
        monkeypatch.setattr(quorum, name, 0)
    monkeypatch.setattr(decisions, "ILL_ALONE_MS", 20)

    async def main() -> None:
        store = Store(*THREE)
        kept, store.ill = keeping(store), {102}
        await kept.look()
        assert store.asked == []
        while len(store.asked) < 2:
            await kept.look()
            await asyncio.sleep(0.002)
        assert store.asked == [("remove", 102, ""), ("add", 0, peer(2))]

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_store_that_does_not_answer_keeps_nobody_waiting_and_is_asked_by_one_look_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quorum, "EVERY_S", 0)

    async def main() -> None:
        store, asked = Store(*THREE), 0

        async def never(_transaction: Transaction) -> TransactionResult:
            nonlocal asked
            asked += 1
            await asyncio.Event().wait()
            raise AssertionError

        store.transact = never  # type: ignore[method-assign]
        kept = keeping(store)
        for _ in range(5):
            kept.start_look()
            await asyncio.sleep(0)
        assert asked == 1

    asyncio.run(asyncio.wait_for(main(), 5))
