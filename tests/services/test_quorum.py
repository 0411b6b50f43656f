"""What the recovery service writes for the nodes that have a member of the store's etcd, and whom it tries next."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from unios.core import quorum as decisions
from unios.core.nodes import Etcd, NodeRecord
from unios.core.quorum import QuorumRecord, record_key
from unios.services import quorum
from unios.services.quorum import QuorumKeeping
from unios.store.model import Put, RangeResult, Record
from unios.store.requests import MemberRequest, MemberView


def peer(number: int) -> str:
    return f"https://10.0.0.{number}:1001"


class Store:
    """Records below /quorum/, and members as etcd lists them; a learner is never promoted."""

    def __init__(self, *listed: MemberView) -> None:
        self.listed = list(listed)
        self.records: dict[str, bytes] = {}
        self.asked: list[tuple[str, int, str]] = []

    async def members(self) -> tuple[MemberView, ...]:
        return tuple(self.listed)

    async def change_member(self, request: MemberRequest) -> tuple[MemberView, ...]:
        self.asked.append((request.what, request.id, request.peer))
        if request.what == "add":
            self.listed.append(MemberView(200 + len(self.asked), "", request.peer, "", True))
        if request.what == "remove":
            self.listed = [one for one in self.listed if one.id != request.id]
        return tuple(self.listed)

    async def range(self, start: str, **_options: Any) -> tuple[RangeResult, None]:
        return RangeResult(tuple(Record(key, value, 1, 1, 1, 0) for key, value in self.records.items() if key.startswith(start))), None

    async def put(self, key: str, value: bytes) -> None:
        self.records[key] = value

    async def delete(self, key: str) -> None:
        self.records.pop(key, None)

    def record(self, node: str) -> QuorumRecord | None:
        found = self.records.get(record_key(node))
        return msgspec.msgpack.decode(found, type=QuorumRecord) if found is not None else None


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
    store.records[record_key("n2")] = msgspec.msgpack.encode(QuorumRecord("n2", "", member=77))  # it has been taken out and added again since
    store.records[record_key("n3")] = msgspec.msgpack.encode(QuorumRecord("n3", "", wanted=False))
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
