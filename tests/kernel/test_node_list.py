"""What a kernel says of the nodes when it has just begun."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wire.pairs import bounded
from unios.core.nodes import NodeRecord
from unios.kernel import node_operations
from unios.kernel.node_operations import NodeOperations


class Nodes:
    """A mirror that has heard of nothing yet."""

    def __init__(self) -> None:
        self.values: dict[str, NodeRecord] = {}
        self._complete = asyncio.Event()

    async def wait_complete(self) -> None:
        await self._complete.wait()

    def hear(self, record: NodeRecord) -> None:
        self.values[f"/nodes/{record.name}"] = record
        self._complete.set()


def operations(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Any:
    node: Any = SimpleNamespace(nodes=nodes, processes=SimpleNamespace(values={}))
    monkeypatch.setattr(NodeOperations, "_view", lambda _self, record, _running, _children: record.name)
    return NodeOperations(node)


def test_a_kernel_that_has_just_begun_lists_the_nodes_once_it_has_heard_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        nodes = Nodes()
        listing = asyncio.ensure_future(operations(nodes, monkeypatch).list(None, None))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not listing.done()
        nodes.hear(NodeRecord(name="n1", machine="m", incarnation=1))
        assert await listing == ("n1",)

    bounded(work)


def test_while_the_store_is_away_it_says_after_a_while_that_it_knows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr(node_operations, "FIRST_VIEW_S", 0.01)
        assert await operations(Nodes(), monkeypatch).list(None, None) == ()

    bounded(work)
