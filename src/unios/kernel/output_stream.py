"""OutputStream: one reader of one incarnation's output, from the segment files to a request that follows it; the init says when there is more.

The bytes go from the page cache into the request, chunk by chunk, each chunk one step: what is more urgent goes between two of them.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Final

from unios.errors import Unavailable
from unios.kernel.tree_peer import TreePeer
from unios.limits import WIDE_CHUNK_BYTES
from unios.wire.chunks import ChunkBuffer
from unios.wire.operations import Follow
from unios.wire.peer import Call
from unios.wire.segments import NAMES, Name, StreamReader

if TYPE_CHECKING:
    from unios.kernel.node import Node

ACK_BYTES: Final = 2 * 1024 * 1024
"""So much is sent before the init hears of it, while there is more."""
_chunk: Final = ChunkBuffer(WIDE_CHUNK_BYTES)
"""One for all readers: between the reading of a chunk and its sending nobody else has a turn."""


class OutputStream:
    """One reader of one incarnation's output, from the segment files; the init says when there is more."""

    def __init__(self, node: "Node", pid: int, incarnation: int, body: Follow, call: Call) -> None:
        self._node, self._pid, self._incarnation, self._body, self._call = node, pid, incarnation, body, call
        folder = os.fspath(node.folder.trees / f"{pid}.{incarnation}")
        self._readers = {name: StreamReader(folder, name) for name in NAMES}
        self._offsets: dict[Name, int] = {}
        self._acknowledged = 0
        self._grown = asyncio.Event()

    async def run(self) -> None:
        """Send chunks until the tree has ended and all is sent, or without `follow` until all that there is is sent."""
        try:
            for name, asked in (("out", self._body.out), ("err", self._body.err)):
                end = self._readers[name].end() if asked < 0 else 0  # type: ignore[index]
                self._offsets[name] = asked if asked >= 0 else max(0, end + asked)  # type: ignore[index]
            if self._body.follow:
                await self._follow()
            await self._send_all()
        finally:
            for reader in self._readers.values():
                reader.close()

    async def _follow(self) -> None:
        try:
            init = self._node.trees.open_init(self._pid, self._incarnation, lambda _event: self._grown.set())
        except Unavailable:
            return  # it has ended
        closing = asyncio.get_running_loop().create_task(init.closed.wait())
        closing.add_done_callback(lambda _task: self._grown.set())
        try:
            await init.ask("follow", hold=self._body.hold, **self._offsets)
            while not init.closed.is_set():
                self._grown.clear()
                await self._send_all(init)
                await self._grown.wait()
        except Unavailable:
            pass
        finally:
            closing.cancel()
            init.close()

    async def _send_all(self, init: TreePeer | None = None) -> None:
        """Send what there is; acknowledge it to the init if this reader holds."""
        for name, reader in self._readers.items():
            while True:
                await self._call.turn()
                wanted = self._offsets[name]
                offset, count = reader.read(wanted, _chunk.middle[: self._call.chunk_bytes])
                if not count:
                    break
                await self._call.send_framed(*_chunk.enclose(self._call.id, name, self._incarnation, offset, count, max(0, offset - wanted)))
                self._offsets[name] = offset + count
                if init is not None and self._body.hold and sum(self._offsets.values()) - self._acknowledged >= ACK_BYTES:
                    await self._acknowledge(init)
        if init is not None and self._body.hold and sum(self._offsets.values()) > self._acknowledged:
            await self._acknowledge(init)

    async def _acknowledge(self, init: TreePeer) -> None:
        """Nobody waits for the answer: there is none. A round trip for each chunk would be what bounds the rate."""
        self._acknowledged = sum(self._offsets.values())
        await init.tell("ack", **self._offsets)
