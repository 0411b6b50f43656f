"""Events on a real store: told in the order of their causes, whatever the clocks of those who wrote them say."""

import asyncio
from pathlib import Path

from tests.store.engines import on_sqlite
from unios.kernel.events import Events
from unios.store.model import Store


def test_an_end_is_told_after_its_start_though_its_nodes_clock_is_behind(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        ahead, behind = Events(store, "n1", lambda: 9_000), Events(store, "n2", lambda: 5_000)
        _none, before = await ahead.past(0)
        await ahead.write("start", "process 300 runs on n1", 300)
        await behind.write("recovery", "process 300: n1 was lost: incarnation 2 runs again on n2", 300)
        await behind.write("exit", "process 300 ended with 0 on n2", 300)
        past, _revision = await ahead.past(0)
        assert [event.kind for event in past] == ["start", "recovery", "exit"]
        assert [event.kind for event in (await ahead.past(2))[0]] == ["recovery", "exit"]
        followed = ahead.follow(before)
        async with asyncio.timeout(10):
            assert [await anext(followed) for _ in past] == past  # whoever follows hears the same

    on_sqlite(tmp_path, work)
