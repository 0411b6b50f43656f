"""Recording: what becomes of a process is written in order, nothing that is known is left unwritten, and what ends at once costs one write."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.kernel.test_stopping import MemoryStore
from tests.wire.pairs import bounded, until
from unios.core.processes import ProcessRecord, process_key
from unios.kernel import callers, spawning
from unios.kernel.carrying import NOTHING
from unios.kernel.events import Events
from unios.kernel.reconciling import Reconciling
from unios.kernel.records import Records
from unios.kernel.spawning import Recorder
from unios.store.model import Put, Transaction

OVER = {"code": 0, "cpu_ms": 1}


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def transact(self, transaction: Transaction) -> Any:
        self.count += 1
        await self.gate.wait()
        return await super().transact(transaction)


class Scene:
    """One pending process of n1, whose record the recorder knows."""

    def __init__(self) -> None:
        self.store = Counting()
        clock = itertools.count(1_000)

        async def nothing(*_key: object, **_fields: object) -> Any:
            return NOTHING

        node = SimpleNamespace(
            name="n1",
            store=self.store,
            records=Records(self.store),  # type: ignore[arg-type]
            events=Events(self.store, "n1", lambda: next(clock)),  # type: ignore[arg-type]
            wall_ms=lambda: next(clock),
            trees=SimpleNamespace(bounded=frozenset()),
            carrying=SimpleNamespace(collect=nothing, done=nothing),
        )
        self.recorder = Recorder(node)  # type: ignore[arg-type]

    async def begin(self) -> None:
        record = ProcessRecord(300, 1, "pending", "root", node="n1")
        done = await self.store.transact(Transaction(then=(Put(process_key(300), msgspec.msgpack.encode(record)),)))
        self.recorder.know(record, done.revision.number)
        self.store.count = 0

    async def state(self) -> str:
        return (await Records(self.store).read(300))[0].state  # type: ignore[arg-type]


def scene(work: Any) -> None:
    async def main() -> None:
        one = Scene()
        await one.begin()
        await work(one)

    bounded(main)


def test_what_ends_at_once_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "RUNNING_S", 60.0)

    async def work(one: Scene) -> None:
        one.recorder.running(300, 1)
        one.recorder.ended(300, 1, OVER)
        await one.recorder.drain()
        assert one.store.count == 1 and await one.state() == "exited" and not one.recorder._soon

    scene(work)


def test_what_goes_on_is_written_as_running_and_before_a_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def soon(one: Scene) -> None:
        one.recorder.running(300, 1)
        await until(lambda: one.store.count == 1)
        await one.recorder.drain()
        assert await one.state() == "running"

    async def drained(one: Scene) -> None:
        one.recorder.running(300, 1)
        await one.recorder.drain()
        assert await one.state() == "running"

    scene(soon)
    monkeypatch.setattr(spawning, "RUNNING_S", 60.0)
    scene(drained)


def test_an_end_that_comes_as_the_task_has_just_looked_for_the_last_time_is_written() -> None:
    async def work(one: Scene) -> None:
        write = one.recorder._write_running

        async def then_the_end(pid: int, incarnation: int) -> None:
            await write(pid, incarnation)
            asyncio.get_running_loop().call_soon(one.recorder.ended, 300, 1, OVER)  # in the step in which the task ends, before anybody hears that

        one.recorder._write_running = then_the_end  # type: ignore[method-assign]
        one.recorder.running(300, 1)
        one.recorder._kick(300, 1)
        while one.recorder._tasks or one.recorder._wanted:
            await asyncio.sleep(0)
        assert await one.state() == "exited"

    scene(work)


# the glance


def test_a_glance_asks_the_store_only_for_what_stays_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unios.kernel.reconciling.DOUBT_S", 0.0)
    doubts: list[frozenset[Any]] = []
    asked: list[int] = []

    async def work() -> None:
        looked: list[int] = []

        async def look_again() -> None:
            looked.append(1)

        reconciling = Reconciling(SimpleNamespace(name="n1", trees=SimpleNamespace(look_again=look_again)))  # type: ignore[arg-type]
        monkeypatch.setattr(reconciling, "_doubts", lambda: doubts.pop(0))

        async def compare() -> None:
            asked.append(1)

        monkeypatch.setattr(reconciling, "_compare", compare)
        for first, then, expected in ((set(), None, 0), ({1}, set(), 0), ({1}, {2}, 0), ({1, 2}, {2, 3}, 1)):
            doubts[:] = [frozenset(one) for one in ((first, then) if first else (first,))]
            asked.clear()
            await reconciling._glance()
            assert len(asked) == expected and not doubts
        assert len(looked) == 4

    bounded(work)


# accounts


def test_an_account_is_asked_for_once_a_second_and_one_that_is_not_there_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    asked: list[str] = []
    now = [100.0]
    real = pwd.getpwnam

    def counting(name: str) -> Any:
        asked.append(name)
        return real(name)

    monkeypatch.setattr(callers.pwd, "getpwnam", counting)
    monkeypatch.setattr(callers.time, "monotonic", lambda: now[0])
    callers._accounts.clear()
    try:
        for _ in range(3):
            assert callers.account_of("daemon") == callers.account_of("daemon") is not None
            assert callers.account_of("nobody-of-that-name") is None
        assert asked.count("daemon") == 1 and asked.count("nobody-of-that-name") == 3
        now[0] += callers.ACCOUNT_S
        callers.account_of("daemon")
        assert asked.count("daemon") == 2
    finally:
        callers._accounts.clear()
