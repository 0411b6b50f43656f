"""A node that stops and cannot do it to the end."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from unios.core.nodes import NodeRecord, node_key
from unios.core.processes import ProcessRecord, process_key
from unios.errors import Unavailable, UniosError
from unios.kernel.records import Records
from unios.kernel.stopping import Stopping
from unios.store.model import Delete, Put, Range, RangeResult, Revision, Transaction, TransactionResult
from unios.store.sqlite import SqliteEngine
from unios.wire.operations import Leave


class MemoryStore:
    """A real engine in memory. While `away` is set it refuses; it is set after so many transactions."""

    def __init__(self) -> None:
        self.engine = SqliteEngine(":memory:", "g")  # type: ignore[arg-type]
        self.away = False
        self.left = -1

    async def transact(self, transaction: Transaction) -> TransactionResult:
        if self.left == 0:
            self.away = True
        self.left -= 1
        if self.away:
            raise Unavailable("the store is away")
        result = self.engine.run([transaction])[0].result
        if isinstance(result, UniosError):
            raise result
        assert isinstance(result, TransactionResult)
        return result

    async def delete(self, key: str) -> int:
        found = (await self.transact(Transaction(then=(Delete(key),)))).results[0]
        assert isinstance(found, int)
        return found

    async def range(self, key: str, **options: Any) -> tuple[RangeResult, Revision]:
        result = await self.transact(Transaction(then=(Range(key, **options),)))
        found = result.results[0]
        assert isinstance(found, RangeResult)
        return found, result.revision


class Init:
    async def ask(self, op: str, **_fields: object) -> dict[str, object]:
        return {}


def test_a_leave_that_fails_half_way_takes_up_again(tmp_path: Any) -> None:
    async def main() -> None:
        store = MemoryStore()
        record = ProcessRecord(300, 1, "running", "ann", node="n1")
        nodes = [NodeRecord(name, name, 1, users=("ann",)) for name in ("n1", "n2")]
        puts = [Put(node_key(node.name), msgspec.msgpack.encode(node)) for node in nodes]
        await store.transact(Transaction(then=(*puts, Put(process_key(300), msgspec.msgpack.encode(record)))))
        tasks: list[asyncio.Task[Any]] = []
        said: list[str] = []
        node = SimpleNamespace(
            name="n1",
            store=store,
            records=Records(store),  # type: ignore[arg-type]
            system=SimpleNamespace(store_machine="other", machine="n1"),
            nodes=SimpleNamespace(values={node_key(node.name): node for node in nodes}),
            processes=SimpleNamespace(values={}),
            membership=SimpleNamespace(names=lambda *_states: ["n1", "n2"]),
            trees=SimpleNamespace(trees={}, init=lambda *_key: Init()),
            quorum=SimpleNamespace(
                check_leave=lambda _together: asyncio.sleep(0),
                let_go=lambda: asyncio.sleep(0, said.append("forgotten")),
                stay=lambda: asyncio.sleep(0, said.append("stays")),
            ),
            recorder=SimpleNamespace(drain=lambda: asyncio.sleep(0)),
            events=SimpleNamespace(put=lambda kind, text, pid=0: Put(f"/events/{kind}", text.encode())),
            leasing=SimpleNamespace(lease=0, give_back=lambda: asyncio.sleep(0, said.append("given back")), take_up=lambda: said.append("taken up")),
            wall_ms=lambda: 1,
            start=lambda work: tasks.append(asyncio.get_running_loop().create_task(work)),
        )
        stopping = Stopping(node)  # type: ignore[arg-type]
        store.left = 3  # the processes are read, the node is marked as stopping: then the store goes away
        with pytest.raises(UniosError):
            await stopping.leave(Leave())
        assert not stopping.under_way and len(tasks) == 2 and said == ["given back", "taken up", "stays"]
        store.away, store.left = False, -1
        await tasks[0]
        found = (await store.range(node_key("n1")))[0].records[0]
        assert not msgspec.msgpack.decode(found.value, type=NodeRecord).stopped

    asyncio.run(main())
