"""Tree input: a program's stdin as one who feeds it has it: a connection of his own to the tree's init, and no more under way than a window.

The init says again and again how many bytes the program has taken of all that came, from whomever.
"""

import asyncio
import contextlib

from unios.errors import UniosError
from unios.kernel.trees import Trees
from unios.limits import STREAM_WINDOW_BYTES


class TreeInput:
    """Made by `TreeInput(trees, pid, incarnation)`, which raises Unavailable if the tree has ended; `close` it."""

    def __init__(self, trees: Trees, pid: int, incarnation: int) -> None:
        self._moved = asyncio.Event()
        self._sent, self._written = 0, -1
        self.closed = False
        """Whether the program takes nothing any more."""
        self.init = trees.open_init(pid, incarnation, self._on_event)
        self._closing = asyncio.get_running_loop().create_task(self.init.closed.wait())
        self._closing.add_done_callback(lambda _task: self._moved.set())

    def _on_event(self, event: dict[str, object]) -> None:
        if event.get("event") == "stdin":
            written = int(str(event["written"]))
            if self._written < 0:
                self._sent += written  # others have fed it before: what they sent counts for both
            self._written, self.closed = written, bool(event["closed"])
            self._moved.set()

    @property
    def is_over(self) -> bool:
        """Whether the tree has ended, and the connection with it."""
        return self.init.closed.is_set()

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the program takes nothing in. Raises Unavailable if the tree has ended."""
        await self.init.send_data(data)
        self._sent += len(data)
        while self._sent - max(0, self._written) > STREAM_WINDOW_BYTES and not self.closed and not self.is_over:
            self._moved.clear()
            await self._moved.wait()

    async def end(self) -> None:
        """Let the program read the end of its input. Raises Unavailable if the tree has ended."""
        await self.init.ask("stdin_eof")

    async def end_and_close(self) -> None:
        with contextlib.suppress(UniosError):
            await self.end()
        self.close()

    def close(self) -> None:
        self._closing.cancel()
        self.init.close()
