"""A backup that is being written when the store goes to another engine begins anew; one that fails otherwise fails."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.kernel.moving.rig import with_served
from unios.errors import Unavailable
from unios.kernel import backups
from unios.kernel.callers import Caller
from unios.kernel.store_operations import StoreOperations
from unios.kernel.system import ETCD
from unios.store import client
from unios.store.client import StoreClient
from unios.store.requests import Dumped
from unios.wire.home import Home
from unios.wire.keeping import BackedUp, BackUp
from unios.wire.peer import Call


class BreakingOff(StoreClient):
    """A client whose first copy breaks off; `moves`: as the store is moved in the midst of it."""

    moves = True
    copies = 0

    async def dump(self) -> AsyncIterator[Dumped]:
        self.copies += 1
        async for page in super().dump():
            yield page
            if self.copies == 1 and self.moves:
                await self.move(ETCD)
            if self.copies == 1 or not self.moves:
                raise Unavailable("the connection broke")


@pytest.mark.parametrize("moves", [True, False], ids=["moved", "not moved"])
def test_a_backup_at_the_switch(home: Home, tmp_path: Path, moves: bool) -> None:
    path = tmp_path / "backup"

    async def work(store: StoreClient) -> None:
        await store.put("/k", b"v")
        breaking = BreakingOff(client.at(home.store))
        breaking.moves = moves
        node = SimpleNamespace(system=SimpleNamespace(id="s", engine="sqlite"), wall_ms=lambda: 1, store_way=None)
        operations = StoreOperations(cast(Any, node))
        operations._client = lambda: breaking  # type: ignore[method-assign]
        call = cast(Call, SimpleNamespace(decode=lambda _type: BackUp(str(path))))
        done = asyncio.ensure_future(operations.backup(Caller("root", os.geteuid(), True, "n1"), call))
        if not moves:
            with pytest.raises(Unavailable, match="broke"):
                await done
            assert not path.exists() and breaking.copies == 3
            return
        assert cast(BackedUp, await done).records == 1 and breaking.copies == 2
        header, records = backups.read(path)
        assert records == {"/k": b"v"} and header.generation == (await store.range("/k"))[1].generation

    with_served(home, work)
