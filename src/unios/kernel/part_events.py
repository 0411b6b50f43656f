"""Part events: tells the system's events when a part of this node was replaced. What the supervisor says of its parts is looked at once a second."""

import contextlib
import os
from typing import TYPE_CHECKING

from unios.errors import UniosError
from unios.wire.ticks import tick

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOOK_S = 1.0


class PartEvents:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._restarts: dict[str, int] | None = None
        self._file: tuple[int, int] | None = None
        """Which file the supervisor's word was when it was read last: it writes a new one when something has changed."""

    async def run(self) -> None:
        """Look again and again; ends only by cancellation."""
        await self._node.leasing.wait_held()
        while True:
            for name, reason in self._news() if self._is_changed() else ():
                with contextlib.suppress(UniosError):  # an event less, where the store is away just then
                    await self._node.events.write("service", f"{name} of {self._node.name} was replaced: {reason}")
            await tick(LOOK_S)

    def _is_changed(self) -> bool:
        try:
            found = os.stat(self._node.folder.run / "parts")
        except OSError:
            return True
        before, self._file = self._file, (found.st_ino, found.st_mtime_ns)
        return before != self._file

    def _news(self) -> list[tuple[str, str]]:
        """Return name and reason of the parts that were replaced since the last look. The first look of a kernel tells of its own replacement only."""
        before, found = self._restarts, []
        self._restarts = {}
        for part in self._node.parts():
            self._restarts[part.name] = part.restarts
            known = before.get(part.name, 0) if before is not None else 0 if part.name == "kernel" else part.restarts
            if part.restarts > known:
                found.append((part.name, part.reason))
        return found
