"""A client that has no connection: who asks meanwhile shares one attempt, and what comes of it; one that is cancelled breaks nobody else's off."""

import asyncio

import pytest

from unios.errors import Unavailable
from unios.store.client import StoreClient
from unios.wire.peer import Peer


class Connecting:
    """Attempts that end when the test says so."""

    def __init__(self) -> None:
        self.attempts = 0
        self.goes_on = asyncio.Event()

    async def __call__(self) -> Peer:
        self.attempts += 1
        await self.goes_on.wait()
        raise Unavailable("not there")


def test_an_attempt_that_fails_has_failed_for_all_who_wait() -> None:
    async def play() -> None:
        connecting = Connecting()
        store = StoreClient(connecting)
        asking = [asyncio.create_task(store.range("/a")) for _ in range(20)]
        await asyncio.sleep(0)
        asking[0].cancel()  # the first one, for whom it was begun
        await asyncio.sleep(0)
        connecting.goes_on.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert {str(error) for error in found[1:]} == {"not there"}
        assert connecting.attempts == 1
        with pytest.raises(Unavailable, match="not there"):
            await store.range("/a")
        assert connecting.attempts == 2

    asyncio.run(play())


def test_closing_ends_the_attempt_and_says_so() -> None:
    async def play() -> None:
        connecting = Connecting()
        store = StoreClient(connecting)
        asking = asyncio.create_task(store.range("/a"))
        while not connecting.attempts:
            await asyncio.sleep(0)
        await store.close()
        with pytest.raises(Unavailable, match="is closed"):
            await asking
        with pytest.raises(Unavailable, match="is closed"):
            await store.range("/a")

    asyncio.run(play())
