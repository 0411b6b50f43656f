"""Block sources: blocks that come from other nodes, and copies that go to them. In the name of the blocks' user, over links.

Only nodes that speak for that user are asked: another one would learn names that are no business of its, and its answer would count for nothing.
The blocks of files are nobody's: for them the node's own user asks, and so only nodes that are trusted with as much as this one are asked.
Never decides what is needed.
"""

import asyncio
from collections.abc import AsyncIterator, Container, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from unios.core.nodes import may_speak_for
from unios.errors import CallerError, NoRoom, UniosError
from unios.kernel.blocks import Batch
from unios.limits import BLOCK_NAMES_MAX, BLOCKS_COMMIT_BYTES_MAX, BLOCKS_COMMIT_MAX, BUNDLE_BLOCKS_MAX, COPY_TIMEOUT_MS, FILES_USER
from unios.wire import manifests
from unios.wire.carries import OfBlocks, Stored

if TYPE_CHECKING:
    from unios.kernel.carrying import Carrying

ASK_TIMEOUT_MS: Final = 10_000


def chunks(names: list[bytes], size: int = BLOCK_NAMES_MAX) -> Iterable[list[bytes]]:
    """Yield the names, so many at a time."""
    return (names[at : at + size] for at in range(0, len(names), size))


class Copied(NamedTuple):
    """`nodes`: those that have all. `refused`: what those said that have no room."""

    nodes: tuple[str, ...]
    refused: tuple[str, ...]


class BlockSources:
    """Those of one node."""

    def __init__(self, carrying: "Carrying") -> None:
        self._carrying = carrying

    def others(self, user: str, prefer: str = "") -> list[str]:
        """Return the nodes that may have a user's blocks, those of other machines first, of equals the preferred one."""
        node = self._carrying.node
        mine = node.system.machine
        found = []
        for name in node.membership.names("ready", "suspect"):
            record = node.nodes.values.get(f"/nodes/{name}")
            if name != node.name and record is not None and may_speak_for(record.users, self._asker(user)):
                found.append((record.machine == mine, name != prefer, name))
        return [name for _same, _other, name in sorted(found)]

    def _asker(self, user: str) -> str:
        """Return in whose name a user's blocks are asked for."""
        return self._carrying.node.user if user == FILES_USER else user

    async def fetch(self, user: str, names: list[bytes]) -> list[bytes]:
        """Bring blocks here that are missing; return those that no node which can be asked has. Raises NoRoom: they are to be had, and not kept here."""
        missing = await self._carrying.threaded(self._carrying.blocks.missing, user, names)
        for name in self.others(user) if missing else ():
            if not missing:
                break
            try:
                for some in chunks(missing):
                    await self._fetch_from(name, user, some)
            except NoRoom:
                raise  # said here, and no other node could help
            except UniosError:
                pass  # the next may have them
            missing = await self._carrying.threaded(self._carrying.blocks.missing, user, missing)
        return missing

    async def _fetch_from(self, node: str, user: str, names: list[bytes]) -> None:
        links = self._carrying.node.links
        asker = self._asker(user)
        body = OfBlocks(b"".join(names), user if asker != user else "")
        absent = await links.call(node, "blocks.has", body, bytes, user=asker, timeout_ms=ASK_TIMEOUT_MS)
        there = set(names) - set(manifests.split(absent))
        if not there:
            return
        wanted = OfBlocks(b"".join(name for name in names if name in there), body.user)
        with self._carrying.batch(user) as batch:
            async with await links.stream(node, "blocks.get", wanted, user=asker) as stream:
                while (bundle := await asyncio.wait_for(stream.next(list[bytes]), ASK_TIMEOUT_MS / 1000)) is not None:
                    await self.take(batch, bundle, there)
            await self._carrying.threaded(batch.commit)

    async def take(self, batch: Batch, bundle: list[bytes], wanted: Container[bytes] | None = None) -> None:
        """Put blocks into a batch, which is brought to the disk when it is large. `wanted`: others are passed over."""
        if len(bundle) > BUNDLE_BLOCKS_MAX:
            raise CallerError(f"{len(bundle)} blocks came in one bundle; at most {BUNDLE_BLOCKS_MAX} may")

        def work() -> None:
            for data in bundle:
                if wanted is None or manifests.name_of(data) in wanted:
                    batch.add(data)
            if len(batch) >= BLOCKS_COMMIT_MAX or batch.bytes >= BLOCKS_COMMIT_BYTES_MAX:
                batch.commit()

        await self._carrying.threaded(work)

    async def bundles(self, user: str, names: list[bytes]) -> AsyncIterator[list[bytes]]:
        """Yield the blocks that are here, as they travel; read and verified beside the loop."""
        blocks = self._carrying.blocks
        found = (data for name in names if (data := blocks.get(user, name)) is not None)
        source = manifests.bundles(found)
        while (bundle := await self._carrying.threaded(next, source, None)) is not None:
            yield bundle

    async def copy(self, user: str, names: list[bytes], copies: int, prefer: str = "") -> Copied:
        """See that so many nodes, this one among them, have the blocks on disk; return those that have. Fewer if there are fewer that answer."""
        holders, refused = [self._carrying.node.name], []
        for node in self.others(user, prefer):
            if len(holders) >= copies:
                break
            try:
                async with asyncio.timeout(COPY_TIMEOUT_MS / 1000):
                    for some in chunks(names):
                        await self._copy_to(node, user, some)
                holders.append(node)
            except NoRoom as error:
                refused.append(str(error))
            except (UniosError, TimeoutError):
                continue
        return Copied(tuple(holders), tuple(refused))

    async def _copy_to(self, node: str, user: str, names: list[bytes]) -> None:
        links = self._carrying.node.links
        asker = self._asker(user)
        body = OfBlocks(b"".join(names), user if asker != user else "")
        absent = manifests.split(await links.call(node, "blocks.has", body, bytes, user=asker))
        if not absent:
            return
        async with await links.stream(node, "blocks.put", OfBlocks(b"".join(absent), body.user), user=asker) as stream:
            async for bundle in self.bundles(user, absent):
                await stream.send(bundle)
            stream.end()
            await stream.next(Stored)  # its end is the answer: it is on that node's disk
