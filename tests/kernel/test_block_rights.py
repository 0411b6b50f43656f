"""Whose blocks one gets, and from which nodes they are asked for."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unios.core.nodes import NodeRecord
from unios.demands import Carry
from unios.errors import CallerError, Denied, NoRoom, NotFound
from unios.kernel.block_operations import BlockOperations, owner
from unios.kernel.block_sources import BlockSources
from unios.kernel.blocks import BlockStore
from unios.kernel.callers import Caller
from unios.kernel.carrying import Carrying
from unios.limits import BUNDLE_BLOCKS_MAX, DISK_FREE_BYTES_MIN, FILES_USER
from unios.wire.carries import ListBlocks, OfBlocks
from unios.wire.manifests import Entry, name_of


def caller(user: str, *, privileged: bool = False) -> Caller:
    return Caller(user, 1_000, privileged, "n1")


def test_everybody_has_blocks_of_his_own_and_only_the_privileged_name_another() -> None:
    assert owner(caller("ann"), "") == "ann" == owner(caller("ann"), "ann")
    assert owner(caller("root", privileged=True), "ann") == "ann" and owner(caller("root", privileged=True), "") == "root"
    for other in ("bob", "root", "ANN"):
        with pytest.raises(Denied):
            owner(caller("ann"), other)


def test_blocks_of_files_are_for_the_privileged_whatever_somebody_is_called() -> None:
    assert owner(caller("root", privileged=True), FILES_USER) == FILES_USER
    for asker, named in (("ann", FILES_USER), (FILES_USER, ""), (FILES_USER, FILES_USER)):
        with pytest.raises(Denied):
            owner(caller(asker), named)


def sources(**users: tuple[str, ...]) -> BlockSources:
    records = {f"/nodes/{name}": NodeRecord(name=name, machine=name[0], incarnation=1, users=users[name]) for name in users}
    node: Any = SimpleNamespace(name="a1", system=SimpleNamespace(machine="a"))
    node.nodes = SimpleNamespace(values=records)
    node.membership = SimpleNamespace(names=lambda *_states: sorted(users))
    return BlockSources(cast(Any, SimpleNamespace(node=node)))


def test_only_nodes_that_speak_for_the_user_are_asked_and_other_machines_first() -> None:
    found = sources(a1=("*", "root"), a2=("*", "root"), b1=("ann",), b2=("bob",), c1=("*",))
    assert found.others("ann") == ["b1", "c1", "a2"]
    assert found.others("bob") == ["b2", "c1", "a2"]
    assert found.others("root") == ["a2"]
    assert found.others("ann", "c1") == ["c1", "b1", "a2"] and found.others("ann", "a2") == ["b1", "c1", "a2"]


def test_blocks_of_files_are_asked_for_in_the_name_of_the_nodes_own_user(tmp_path: Path) -> None:
    """Nobody speaks for who is no user, and a node that speaks for everybody but root is no place for what root keeps in files."""
    asked: list[tuple[str, str, str, str]] = []

    class Stream:
        async def __aenter__(self) -> "Stream":
            return self

        async def __aexit__(self, *_exc: object) -> None:
            pass

        async def next(self, _type: Any) -> None:
            return None

        async def send(self, _item: object) -> None:
            pass

        def end(self) -> None:
            pass

    async def call(node: str, op: str, body: OfBlocks, _type: Any, *, user: str, **_named: object) -> bytes:
        asked.append((node, op, body.user, user))
        return body.names if len(asked) == 3 else b""

    async def stream(node: str, op: str, body: OfBlocks, *, user: str) -> Stream:
        asked.append((node, op, body.user, user))
        return Stream()

    async def threaded(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    one = sources(a1=("*", "root"), b1=("ann",), c1=("*",), d1=("*", "root"))
    carrying: Any = one._carrying
    store = BlockStore(str(tmp_path))
    carrying.node.user, carrying.node.links = "root", SimpleNamespace(call=call, stream=stream)
    carrying.threaded, carrying.blocks, carrying.batch = threaded, store, lambda user: store.batch(user, frozenset)
    names = [name_of(b"x")]
    assert one.others(FILES_USER) == ["d1"]
    asyncio.run(one.fetch(FILES_USER, names))
    assert asyncio.run(one.copy(FILES_USER, names, 2)).nodes == ("a1", "d1")
    assert asked == [("d1", f"blocks.{op}", FILES_USER, "root") for op in ("has", "get", "has", "put")]
    carrying.node.user = "ann"
    assert one.others(FILES_USER) == ["b1", "c1", "d1"]


def test_a_bundle_of_too_many_blocks_is_refused_before_any_is_written(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path))
    with store.batch("ann", frozenset) as batch, pytest.raises(CallerError, match="bundle"):
        asyncio.run(sources().take(batch, [b"x"] * (BUNDLE_BLOCKS_MAX + 1)))
    assert store.used_bytes == 0


def test_blocks_that_are_to_be_had_and_find_no_room_here_are_not_called_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node is tried: the process ends with "data lost" only if nobody has them."""
    store = BlockStore(str(tmp_path), bytes_max=10)
    one = sources(b1=("ann",))

    async def threaded(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    async def fetch_from(_node: str, user: str, _names: list[bytes]) -> None:
        with store.batch(user, frozenset) as batch:
            batch.add(b"x" * 100)

    cast(Any, one._carrying).threaded, cast(Any, one._carrying).blocks = threaded, store
    monkeypatch.setattr(one, "_fetch_from", fetch_from)
    name = name_of(b"x" * 100)
    with pytest.raises(NoRoom):
        asyncio.run(one.fetch("ann", [name]))
    carrying: Any = SimpleNamespace(sources=one, node=SimpleNamespace(name="n1"))

    async def manifest(_user: str, _names: bytes) -> list[Entry]:
        return [Entry(b"f", "f", size=100, blocks=name)]

    carrying.manifest, carrying._work = manifest, str(tmp_path)
    with pytest.raises(CallerError, match="no room") as refused:
        asyncio.run(Carrying._brought(carrying, "ann", Carry(b"m" * 32)))
    assert not isinstance(refused.value, NotFound)
    monkeypatch.setattr("unios.kernel.carrying.free_bytes", lambda _folder: DISK_FREE_BYTES_MIN + 99)
    with pytest.raises(CallerError, match="100 bytes are needed"):
        asyncio.run(Carrying._brought(carrying, "ann", Carry(b"m" * 32)))


class Asked:
    """A request as an operation sees it, with bundles to receive."""

    def __init__(self, body: object, *bundles: list[bytes]) -> None:
        self._body, self._bundles, self.sent = body, list(bundles), list[Any]()

    def decode(self, _type: type) -> Any:
        return self._body

    async def receive(self, _type: Any) -> list[bytes] | None:
        return self._bundles.pop(0) if self._bundles else None

    async def send(self, bundle: list[bytes]) -> None:
        self.sent += bundle


@pytest.fixture
def operations(tmp_path: Path) -> BlockOperations:
    """On a node alone."""
    carrying = sources()._carrying
    store = BlockStore(str(tmp_path))

    async def threaded(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    fields = {"blocks": store, "threaded": threaded, "pinned": frozenset, "batch": lambda user: store.batch(user, frozenset)}
    for name, value in {**fields, "sources": BlockSources(carrying)}.items():
        setattr(carrying, name, value)
    return BlockOperations(carrying)


def do(operations: BlockOperations, op: str, user: str, body: object, *bundles: list[bytes]) -> tuple[Any, list[bytes]]:
    asked: Any = Asked(body, *bundles)
    return asyncio.run(getattr(operations, op)(caller(user), asked)), asked.sent


def test_no_operation_gives_or_takes_another_users_blocks(operations: BlockOperations) -> None:
    name = name_of(b"secret")
    assert do(operations, "put", "ann", OfBlocks(name), [b"secret"])[0].bytes == 6
    for op in ("has", "get", "put", "drop"):
        with pytest.raises(Denied):
            do(operations, op, "bob", OfBlocks(name, user="ann"))
    with pytest.raises(Denied):
        do(operations, "list", "bob", ListBlocks(user="ann"))
    assert do(operations, "has", "bob", OfBlocks(name))[0] == name and do(operations, "get", "bob", OfBlocks(name))[1] == []
    assert do(operations, "list", "bob", ListBlocks())[0] == () and do(operations, "drop", "bob", OfBlocks(name))[0].count == 0
    assert do(operations, "get", "ann", OfBlocks(name))[1] == [b"secret"]


def test_a_request_names_no_more_blocks_than_may_be(operations: BlockOperations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unios.kernel.block_operations.BLOCK_NAMES_MAX", 2)
    for op in ("has", "get", "put", "drop"):
        for names in (bytes(3 * 32), b"x" * 31):
            with pytest.raises(CallerError):
                do(operations, op, "ann", OfBlocks(names))


@pytest.mark.parametrize("copies", [0, -1, 3])
def test_copies_are_as_many_as_there_may_be(operations: BlockOperations, copies: int) -> None:
    with pytest.raises(CallerError, match="copies"):
        do(operations, "put", "ann", OfBlocks(name_of(b"x"), copies=copies), [b"x"])


def test_a_block_that_was_named_and_did_not_come_is_not_acknowledged(operations: BlockOperations) -> None:
    with pytest.raises(CallerError, match="did not come"):
        do(operations, "put", "ann", OfBlocks(name_of(b"x") + name_of(b"y")), [b"x"])
