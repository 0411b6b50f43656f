"""One connection of a node to the store: each prefix is watched once over it, and whoever shares the watch hears each event once, in order."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.store.engines import SharedConnection, Sharing
from unios.errors import OutcomeUnknown, Unavailable
from unios.store import client
from unios.store.model import Batch
from unios.store.sharing import SharingClient


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SharedConnection]:
    made = SharedConnection(tmp_path)
    yield made
    made.stop()


class Reader:
    """Watches a prefix and notes the values, in a task."""

    def __init__(self, store: client.StoreClient, calm_ms: int = 0) -> None:
        self.values: list[bytes] = []
        self._store, self._calm_ms = store, calm_ms
        self._began = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        batches = cast("AsyncGenerator[Batch, None]", self._store.watch("/n/", calm_ms=self._calm_ms))
        async for batch in batches:
            self._began.set()
            self.values += [event.record.value for event in batch.events]

    async def began(self) -> "Reader":
        await self._began.wait()
        return self

    async def heard(self, last: bytes) -> list[bytes]:
        async with asyncio.timeout(10):
            while not self.values or self.values[-1] != last:
                await asyncio.sleep(0.01)
        return self.values

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def watchers(engine: SharedConnection, wanted: int) -> None:
    """Wait until the store has so many watchers; what was asked of it ends a moment later than here."""
    asking = client.StoreClient(client.at(engine.folder))
    async with asyncio.timeout(10):
        while (await asking.statistics()).watchers != wanted:
            await asyncio.sleep(0.01)
    await asking.close()


def test_who_comes_later_or_in_another_calm_shares_the_watch_and_hears_each_event_once(engine: SharedConnection) -> None:
    async def main() -> None:
        store = await engine.open()
        assert isinstance(store, Sharing)
        first = await Reader(store).began()
        await store.put("/n/x", b"0")
        second, calm = await Reader(store).began(), await Reader(store, calm_ms=40).began()
        await watchers(engine, 1)
        for number in range(1, 50):
            await store.put(f"/n/{number}", b"%d" % number)
        wanted = [b"%d" % number for number in range(50)]
        assert await first.heard(b"49") == wanted
        assert await second.heard(b"49") == await calm.heard(b"49") == wanted[1:]
        await first.end()
        await second.end()
        await store.put("/n/y", b"calm alone")
        assert (await calm.heard(b"calm alone"))[-1] == b"calm alone"
        await calm.end()
        await watchers(engine, 0)
        await store.close()

    asyncio.run(main())


def test_a_kernel_and_its_services_have_one_connection_and_a_watch_goes_on_after_the_store_was_away(engine: SharedConnection) -> None:
    async def main() -> None:
        kernel = SharingClient(client.at(engine.folder))
        mine, others = await Reader(kernel).began(), await Reader(kernel).began()
        await watchers(engine, 1)
        lease = await kernel.lease_grant(5_000)
        assert kernel.renew_now(lease, lambda _answer: None, timeout_ms=1_000), "there is a connection: the one that watches"
        engine.restart()
        async with asyncio.timeout(10):
            while True:
                try:
                    await kernel.put("/n/x", b"back")
                    break
                except (Unavailable, OutcomeUnknown):
                    await asyncio.sleep(0.02)
        assert set(await mine.heard(b"back")) == set(await others.heard(b"back")) == {b"back"}
        for one in (mine, others):
            await one.end()
        await kernel.close()

    asyncio.run(main())
