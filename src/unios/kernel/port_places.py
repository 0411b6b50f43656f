"""Port places: on which other nodes a port is open, as the store says, and who waits here for one to be opened.

Looked up by name, and whoever waits is woken for his name alone: a program with thousands of ports costs nobody else anything.
"""

import asyncio
from collections.abc import Callable

from unios.kernel.ports import PortRecord


class PortPlaces:
    """Those that one node knows of. `is_here` says whether a port is open on this node."""

    def __init__(self, node: str, is_here: Callable[[str], bool]) -> None:
        self._node, self._is_here = node, is_here
        self._of: dict[str, set[str]] = {}
        """The other nodes, by the name of the port."""
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def on_change(self, _key: str, before: PortRecord | None, now: PortRecord | None) -> None:
        """Take in what the mirror of the records tells."""
        if before is not None and before.node != self._node:
            nodes = self._of.get(before.name, set())
            nodes.discard(before.node)
            if not nodes:
                self._of.pop(before.name, None)
        if now is not None and now.node != self._node:
            self._of.setdefault(now.name, set()).add(now.node)
        record = now or before
        if record is not None:
            self.changed(record.name)

    def of(self, name: str) -> list[str]:
        """Return the other nodes on which it is said to be open."""
        return sorted(self._of.get(name, ()))

    def changed(self, name: str) -> None:
        """Something is new about that port: whoever waits for it looks again."""
        for future in self._waiting.pop(name, ()):
            if not future.done():
                future.set_result(None)

    async def wait(self, name: str) -> None:
        """Wait until something is new about that port, unless it is open here; the caller looks again."""
        if self._is_here(name):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, set()).add(future)
        try:
            await future
        finally:
            others = self._waiting.get(name, set())
            others.discard(future)
            if not others:
                self._waiting.pop(name, None)
