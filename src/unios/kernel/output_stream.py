"""OutputStream: one reader of one incarnation's output, from the segment files to a request that follows it; the init says when there is more.

The bytes go from the page cache into the request, chunk by chunk, each chunk one step: what is more urgent goes between two of them.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Final

from unios.errors import Unavailable
from unios.kernel.streams import NAMES, Name, StreamReader
from unios.wire.operations import Chunk, Follow
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

CHUNK_BYTES: Final = 256 * 1024


class OutputStream:
    """One reader of one incarnation's output, from the segment files; the init says when there is more."""

    def __init__(self, node: "Node", pid: int, incarnation: int, body: Follow, call: Call) -> None:
        self._node, self._pid, self._incarnation, self._body, self._call = node, pid, incarnation, body, call
        folder = os.fspath(node.folder.trees / f"{pid}.{incarnation}")
        self._readers = {name: StreamReader(folder, name) for name in NAMES}
        self._offsets: dict[Name, int] = {}
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
                if await self._send_all() and self._body.hold:
                    await init.ask("ack", **self._offsets)
                await self._grown.wait()
        except Unavailable:
            pass
        finally:
            closing.cancel()
            init.close()

    async def _send_all(self) -> bool:
        """Send what there is; return whether it was anything."""
        any_sent = False
        for name, reader in self._readers.items():
            while True:
                wanted = self._offsets[name]
                offset, data = await self._read(reader, wanted)
                if not data:
                    break
                await self._call.send(Chunk(name, self._incarnation, offset, data, max(0, offset - wanted)))
                self._offsets[name] = offset + len(data)
                any_sent = True
        return any_sent

    async def _read(self, reader: StreamReader, offset: int) -> tuple[int, bytes]:
        return reader.read(offset, CHUNK_BYTES)
