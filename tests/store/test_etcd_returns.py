"""An etcd that comes back with an older state while no gateway was there to see it: whoever has seen a newer revision has it noticed."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.store.engines import EtcdGateway, with_store
from unios.errors import Compacted
from unios.store.model import Revision, Store


def test_an_etcd_with_an_older_state_is_another_generation_though_no_gateway_was_there(tmp_path: Path) -> None:
    gateway = EtcdGateway(tmp_path)

    def put_back(*, keep: bool) -> None:
        gateway.kill()
        gateway.member.stop()
        if keep:
            shutil.copytree(tmp_path / "etcd", tmp_path / "backup")
        else:
            shutil.rmtree(tmp_path / "etcd")
            (tmp_path / "backup").rename(tmp_path / "etcd")
        gateway.member.start()
        gateway.start()

    seen: list[Revision] = []

    async def fill(store: Store) -> None:
        for number in range(20):
            seen.append(await store.put(f"/{number}", b""))

    async def look(store: Store) -> None:
        last = seen[-1]
        with pytest.raises(Compacted):
            async for _batch in store.watch("/", after=last):
                pass
        await asyncio.sleep(0.2)
        found, now = await store.range("/", prefix=True)
        assert len(found.records) == 20 and now.generation != last.generation and now.number < last.number

    try:
        with_store(gateway, fill)
        put_back(keep=True)
        with_store(gateway, fill)
        put_back(keep=False)
        with_store(gateway, look)
    finally:
        gateway.stop()
