"""Block sources: blocks that come from other nodes, and copies that go to them. In the name of the blocks' user, over links.

Only nodes that speak for that user are asked: another one would learn names that are no business of its, and its answer would count for nothing.
Never decides what is needed.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from unios.core.nodes import may_speak_for
from unios.errors import CallerError, UniosError
from unios.kernel.blocks import Batch
from unios.limits import BLOCK_NAMES_MAX, BLOCKS_COMMIT_BYTES_MAX, BLOCKS_COMMIT_MAX, COPY_TIMEOUT_MS
from unios.wire import manifests
from unios.wire.carries import OfBlocks, Stored

if TYPE_CHECKING:
    from unios.kernel.carrying import Carrying

ASK_TIMEOUT_MS: Final = 10_000


def chunks(names: list[bytes], size: int = BLOCK_NAMES_MAX) -> Iterable[list[bytes]]:
    """Yield the names, so many at a time."""
    return (names[at : at + size] for at in range(0, len(names), size))


class BlockSources:
    """Those of one node."""

    def __init__(self, carrying: "Carrying") -> None:
        self._carrying = carrying

    def others(self, user: str) -> list[str]:
        """Return the nodes that may have a user's blocks, those of other machines first."""
        node = self._carrying.node
        mine = node.system.machine
        found = []
        for name in node.membership.names("ready", "suspect"):
            record = node.nodes.values.get(f"/nodes/{name}")
            if name != node.name and record is not None and may_speak_for(record.users, user):
                found.append((record.machine == mine, name))
        return [name for _same, name in sorted(found)]

    async def fetch(self, user: str, names: list[bytes]) -> list[bytes]:
        """Bring blocks here that are missing; return those that no node which can be asked has."""
        missing = await self._carrying.threaded(self._carrying.blocks.missing, user, names)
        for name in self.others(user) if missing else ():
            if not missing:
                break
            try:
                for some in chunks(missing):
                    await self._fetch_from(name, user, some)
            except UniosError:
                pass  # the next may have them
            missing = await self._carrying.threaded(self._carrying.blocks.missing, user, missing)
        return missing

    async def _fetch_from(self, node: str, user: str, names: list[bytes]) -> None:
        links = self._carrying.node.links
        body = OfBlocks(b"".join(names))
        absent = await links.call(node, "blocks.has", body, bytes, user=user, timeout_ms=ASK_TIMEOUT_MS)
        there = set(names) - set(manifests.split(absent))
        if not there:
            return
        wanted = OfBlocks(b"".join(name for name in names if name in there))
        with self._carrying.batch(user) as batch:
            async with await links.stream(node, "blocks.get", wanted, user=user) as stream:
                while (data := await asyncio.wait_for(stream.next(bytes), ASK_TIMEOUT_MS / 1000)) is not None:
                    if manifests.name_of(data) in there:
                        await self.take(batch, data)
            await self._carrying.threaded(batch.commit)

    async def take(self, batch: Batch, data: bytes) -> bytes:
        """Put one block into a batch, which is brought to the disk when it is large."""
        name = await self._carrying.threaded(batch.add, data)
        if len(batch) >= BLOCKS_COMMIT_MAX or batch.bytes >= BLOCKS_COMMIT_BYTES_MAX:
            await self._carrying.threaded(batch.commit)
        return name

    async def copy(self, user: str, names: list[bytes], copies: int) -> tuple[str, ...]:
        """See that so many nodes, this one among them, have the blocks on disk; return those that have. Fewer if there are fewer that answer."""
        holders = [self._carrying.node.name]
        for node in self.others(user):
            if len(holders) >= copies:
                break
            try:
                async with asyncio.timeout(COPY_TIMEOUT_MS / 1000):
                    for some in chunks(names):
                        await self._copy_to(node, user, some)
                holders.append(node)
            except (UniosError, TimeoutError):
                continue
        return tuple(holders)

    async def _copy_to(self, node: str, user: str, names: list[bytes]) -> None:
        links = self._carrying.node.links
        body = OfBlocks(b"".join(names))
        absent = manifests.split(await links.call(node, "blocks.has", body, bytes, user=user))
        if not absent:
            return
        async with await links.stream(node, "blocks.put", OfBlocks(b"".join(absent)), user=user) as stream:
            for name in absent:
                data = await self._carrying.threaded(self._carrying.blocks.get, user, name)
                if data is None:
                    raise CallerError("a block that was to be copied is not whole")
                await stream.send(data)
            stream.end()
            await stream.next(Stored)  # its end is the answer: it is on that node's disk
