"""Who is taken out of a system."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.kernel.test_stopping import MemoryStore
from unios.core.nodes import NodeRecord, node_key
from unios.errors import CallerError
from unios.kernel import system
from unios.kernel.node_records import remove_node
from unios.store.model import Put, Transaction


@pytest.mark.parametrize("engine", [system.SQLITE, system.ETCD])
def test_the_machine_that_founded_a_system_can_be_removed_unless_it_has_the_store(engine: str) -> None:
    async def main() -> str:
        store = MemoryStore()
        lost = NodeRecord("n1", "first", 1)
        await store.transact(Transaction(then=(Put(node_key("n1"), msgspec.msgpack.encode(lost)),)))
        node: Any = SimpleNamespace(
            store=store,
            system=SimpleNamespace(engine=engine, store_machine="first"),
            nodes=SimpleNamespace(values={node_key("n1"): lost}),
            events=SimpleNamespace(put=lambda kind, text: Put(f"/events/{kind}", text.encode())),
        )
        await remove_node(node, "n1")
        return msgspec.msgpack.decode((await store.range(node_key("n1")))[0].records[0].value, type=NodeRecord).state

    if engine == system.ETCD:
        assert asyncio.run(main()) == "left"
        return
    with pytest.raises(CallerError, match="keeps the system's store"):
        asyncio.run(main())
