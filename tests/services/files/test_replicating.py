"""What the journal has comes to the log in order, many at a time; who waits for an entry is told when it is there, and not before."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from unios.core.files.entry import Entry, Patch, encode
from unios.services.files import replicating as replicating_of
from unios.services.files.replicating import Replicating

SOON_S = 20.0


class PlayedLog:
    """A log that takes a batch when it is let."""

    def __init__(self) -> None:
        self.batches: list[tuple[bytes, ...]] = []
        self.lets, self.arrived = asyncio.Event(), asyncio.Event()
        self.lets.set()

    async def append(self, *entries: bytes) -> int:
        self.arrived.set()
        await self.lets.wait()
        first = len(self.entries)
        self.batches.append(entries)
        return first

    @property
    def entries(self) -> list[bytes]:
        return [entry for batch in self.batches for entry in batch]


class World:
    def __init__(self, confirmed: int = 0) -> None:
        self.of, self.log = Replicating(confirmed), PlayedLog()
        self.told: list[tuple[int, int]] = []
        self.reached: list[Any] = []

    def tell(self, *numbers: int) -> None:
        for at in numbers:
            self.of.tell(Entry(at, ()))

    def wait_for(self, at: int) -> None:
        self.of.when(at, lambda error: self.reached.append((at, error)))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON_S):
            while not holds():
                await asyncio.sleep(0)


def play(what: Callable[[World], Awaitable[None]], confirmed: int = 0) -> World:
    """Run it beside a Replicating that runs."""

    async def main() -> World:
        world = World(confirmed)
        running = asyncio.create_task(world.of.run(world.log, lambda at, place: world.told.append((at, place))))  # type: ignore[arg-type]
        try:
            await what(world)
        finally:
            assert not running.done(), running.exception()
            running.cancel()
        return world

    return asyncio.run(main())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that nobody waits for gather for ever."""
    monkeypatch.setattr(replicating_of, "CALM_S", 3_600.0)


def test_entries_come_to_the_log_in_order_and_it_is_told_where(patient: None) -> None:
    async def what(world: World) -> None:
        world.tell(1, 2, 4)
        world.wait_for(4)
        await world.until(lambda: bool(world.told))
        world.tell(7)
        world.wait_for(7)
        await world.until(lambda: len(world.told) == 2)
        assert world.of.confirmed == 7

    world = play(what)
    assert world.log.batches == [tuple(encode(Entry(at, ())) for at in batch) for batch in ((1, 2, 4), (7,))]
    assert world.told == [(4, 2), (7, 3)]


def test_a_batch_has_a_bound_and_what_is_over_it_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating_of, "BATCH_BYTES", 3 * len(encode(Entry(1, ()))))

    async def what(world: World) -> None:
        world.tell(*range(1, 11))
        await world.until(lambda: world.of.confirmed == 10)

    assert [len(batch) for batch in play(what).log.batches] == [3, 3, 3, 1]


def test_an_entry_that_is_larger_than_a_batch_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating_of, "BATCH_BYTES", 10)

    async def what(world: World) -> None:
        world.of.tell(Entry(1, (), (Patch(1, 0, 0, bytes(100), 100),)))
        world.tell(2)
        await world.until(lambda: world.of.confirmed == 2)

    assert len(play(what).log.batches) == 2


def test_who_waits_is_told_when_it_is_there_and_not_before(patient: None) -> None:
    async def what(world: World) -> None:
        world.log.lets.clear()
        world.tell(1, 2, 3)
        for at in (2, 1, 3):
            world.wait_for(at)
        await world.log.arrived.wait()
        world.tell(4)
        world.wait_for(4)
        assert world.reached == []
        world.log.lets.set()
        await world.until(lambda: len(world.reached) == 4)
        assert world.reached == [(1, None), (2, None), (3, None), (4, None)]

    play(what)


def test_who_waits_for_what_is_there_is_told_at_once(patient: None) -> None:
    async def what(world: World) -> None:
        world.wait_for(5)
        assert world.reached == [(5, None)]
        world.tell(6)
        world.wait_for(5)
        assert world.reached == [(5, None), (5, None)]
        world.wait_for(6)
        assert len(world.reached) == 2
        await world.until(lambda: len(world.reached) == 3)
        world.wait_for(6)
        assert len(world.reached) == 4

    play(what, confirmed=5)


def test_who_waits_for_more_than_has_been_told_waits_for_all_that_has(patient: None) -> None:
    """The log has nothing of some entries of the journal."""

    async def what(world: World) -> None:
        world.tell(3)
        world.wait_for(9)
        assert world.reached == []
        await world.until(lambda: bool(world.reached))
        assert world.of.confirmed == 3
        world.wait_for(12)
        assert world.reached == [(9, None), (12, None)]

    play(what)


def test_somebody_who_waits_ends_the_calm_and_without_him_it_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hurry(world: World) -> None:
        monkeypatch.setattr(replicating_of, "CALM_S", 3_600.0)
        world.tell(1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.log.batches == [], "nobody waits: it gathers"
        world.tell(2)
        world.wait_for(1)
        await world.until(lambda: world.of.confirmed == 2)
        assert len(world.log.batches) == 1
        world.tell(3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(world.log.batches) == 1, "nobody waits for that"
        world.wait_for(3)
        await world.until(lambda: world.of.confirmed == 3)
        monkeypatch.setattr(replicating_of, "CALM_S", 0.001)
        world.tell(4)
        await world.until(lambda: world.of.confirmed == 4)
        assert world.reached == [(1, None), (3, None)]

    play(hurry)


def test_somebody_who_waits_for_what_is_in_the_next_batch_ends_the_calm_too(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating_of, "BATCH_BYTES", 3 * len(encode(Entry(1, ()))))

    async def what(world: World) -> None:
        world.tell(1, 2, 3, 4)
        world.wait_for(4)
        await world.until(lambda: bool(world.reached))

    assert [len(batch) for batch in play(what).log.batches] == [3, 1]


def test_much_waits_for_nobody(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating_of, "BATCH_BYTES", 100)

    async def what(world: World) -> None:
        world.of.tell(Entry(1, (), (Patch(1, 0, 0, bytes(100), 100),)))
        await world.until(lambda: world.of.confirmed == 1)

    play(what)


def test_it_is_full_while_much_is_not_on_its_way(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating_of, "AHEAD_BYTES", 2 * len(encode(Entry(1, ()))))

    async def what(world: World) -> None:
        world.tell(1, 2)
        assert not world.of.is_full
        world.tell(3)
        assert world.of.is_full
        world.wait_for(3)
        await world.until(lambda: world.of.confirmed == 3)
        assert not world.of.is_full

    play(what)


def test_threads_may_tell_and_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating_of, "BATCH_BYTES", 60)
    count, threads = 300, 4

    async def what(world: World) -> None:
        lock, following = threading.Lock(), iter(range(1, count * threads + 1))
        reached = list[tuple[int, int]]()

        def work() -> None:
            for _ in range(count):
                with lock:  # the volume's
                    at = next(following)
                    world.tell(at)
                world.of.when(at, lambda _error, at=at: reached.append((at, world.of.confirmed)))  # type: ignore[misc]

        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(threads)))
        await world.until(lambda: len(reached) == count * threads)
        assert sorted(at for at, _confirmed in reached) == list(range(1, count * threads + 1))
        assert all(at <= confirmed for at, confirmed in reached)

    assert play(what).log.entries == [encode(Entry(at, ())) for at in range(1, count * threads + 1)]


def test_a_log_that_another_writes_by_now_ends_it_and_nobody_is_told(patient: None) -> None:
    class Lost(Exception):
        pass

    class LostLog:
        async def append(self, *_entries: bytes) -> int:
            raise Lost

    async def main() -> None:
        of, reached = Replicating(), list[object]()
        of.tell(Entry(1, ()))
        of.when(1, reached.append)
        with pytest.raises(Lost):
            await of.run(LostLog(), lambda _at, _place: None)  # type: ignore[arg-type]
        assert reached == [] and of.confirmed == 0

    asyncio.run(main())
