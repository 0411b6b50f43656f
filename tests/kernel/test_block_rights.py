"""Whose blocks one gets, and from which nodes they are asked for."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unios.core.nodes import NodeRecord
from unios.errors import CallerError, Denied
from unios.kernel.block_operations import owner
from unios.kernel.block_sources import BlockSources
from unios.kernel.blocks import BlockStore
from unios.kernel.callers import Caller
from unios.limits import BUNDLE_BLOCKS_MAX


def caller(user: str, *, privileged: bool = False) -> Caller:
    return Caller(user, 1_000, privileged, "n1")


def test_everybody_has_blocks_of_his_own_and_only_the_privileged_name_another() -> None:
    assert owner(caller("ann"), "") == "ann" == owner(caller("ann"), "ann")
    assert owner(caller("root", privileged=True), "ann") == "ann" and owner(caller("root", privileged=True), "") == "root"
    for other in ("bob", "root", "ANN"):
        with pytest.raises(Denied):
            owner(caller("ann"), other)


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


def test_a_bundle_of_too_many_blocks_is_refused_before_any_is_written(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path))
    with store.batch("ann", frozenset) as batch, pytest.raises(CallerError, match="bundle"):
        asyncio.run(sources().take(batch, [b"x"] * (BUNDLE_BLOCKS_MAX + 1)))
    assert store.used_bytes == 0
