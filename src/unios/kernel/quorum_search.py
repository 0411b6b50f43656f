"""Finds the members of the system's own etcd again when all that the gateway of this machine knows are gone: other machines are asked over links.

A gateway follows the members while it reaches one of them. A machine that was away while each was replaced, or moved, knows none that is left.
"""

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from unios.errors import UniosError
from unios.kernel import cluster, runfiles
from unios.store.client import StoreClient
from unios.store.requests import MemberView

if TYPE_CHECKING:
    from unios.kernel.node import Node

EVERY_S: Final = 5.0
ASK_S: Final = 5.0


class MemberSearch:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def run(self) -> None:
        """Search whenever the store has been away from one look to the next, until cancelled."""
        without = False
        while True:
            await asyncio.sleep(EVERY_S)
            if self._node.leasing.left_ms() > 0:
                without = False
                continue
            if without:
                with contextlib.suppress(UniosError, TimeoutError, OSError):  # the next look asks again
                    async with asyncio.timeout(ASK_S):
                        await self.search()
            without = True

    async def search(self) -> None:
        """Ask another machine who the members are, and have the gateway here ask those; first whether others let it in by now. Raises UniosError, OSError."""
        node = self._node
        await node.rekeying.catch_up()
        kept = cluster.read(node.home) if node.system.gateway else None
        if kept is None or not kept.managed:
            return
        other = StoreClient(node.store_way.elsewhere)
        try:
            found = _clients(await other.members())
        finally:
            await other.close()
        if not found or set(found) <= set(kept.members):
            return
        cluster.change(node.home, lambda kept: msgspec.structs.replace(kept, members=found))
        runfiles.complain(f"none of the store's members at {', '.join(kept.members)} answers: {', '.join(found)} are asked from now on")
        for folder in node.home.nodes():
            if (running := runfiles.read(folder.run / "store.json")) is not None:
                runfiles.kill(running, signal.SIGTERM)  # whoever started it does so again


def _clients(members: tuple[MemberView, ...]) -> tuple[str, ...]:
    return tuple(urlsplit(one.client).netloc for one in members if one.client and not one.learner)
