"""A store's process whose engine is changed while it is asked: what its tests need."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from unios.errors import Unavailable
from unios.kernel.moving import Mover
from unios.store import client, server
from unios.store.client import StoreClient
from unios.wire import chained
from unios.wire.home import Home


@asynccontextmanager
async def served(home: Home) -> AsyncIterator[StoreClient]:
    stop = asyncio.Event()
    task = asyncio.create_task(server.serve(home.store, lambda: None, stop, mover=Mover(home)))
    while not (home.store / "sock").exists():
        await asyncio.sleep(0.005)
    store = StoreClient(client.at(home.store))
    try:
        yield store
    finally:
        await store.close()
        stop.set()
        await task


def with_served(home: Home, work: Callable[[StoreClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(40), served(home) as store:
            await work(store)

    chained.run(main())


async def all_of(store: StoreClient) -> dict[str, bytes]:
    return {record.key: record.value async for page in store.dump() for record in page.records}


async def engine_of(store: StoreClient) -> str:
    """Return the engine of a store's process that may not listen yet: what was killed before it has left its socket's name."""
    while True:
        try:
            return await store.move("")
        except Unavailable:
            await asyncio.sleep(0.02)
