"""Sweeping: blocks that no file has any more are let go of, on all nodes, after a snapshot.

A block goes only if it was there before the snapshot was taken, is in nothing of the snapshot, and nobody has made one of that name since: so whoever goes on
from the snapshot and the log never needs it (loading.py knows of patches that are of no more use).
"""

from collections.abc import Iterator
from typing import Final

from unios.client.connection import Connection
from unios.core.files.changes import Changes, PutExtent
from unios.core.files.staging import slot_of
from unios.errors import UniosError
from unios.services.files.blocks import USER, Blocks
from unios.wire.carries import BlockView, Dropped, ListBlocks, OfBlocks
from unios.wire.operations import Empty, NodeView

AT_ONCE: Final = 256


class Sweep:
    """One, from before a snapshot until after it. Blocking; in a thread."""

    def __init__(self, connection: Connection, blocks: Blocks) -> None:
        self._connection, self._blocks = connection, blocks
        blocks.watch()
        self._there = {node: set(self._names(node)) for node in self._nodes()}

    def _nodes(self) -> list[str]:
        views: tuple[NodeView, ...] = self._connection.ask("node.list", Empty(), tuple[NodeView, ...])
        return [view.name for view in views if view.state == "ready"]

    def _names(self, node: str) -> Iterator[bytes]:
        after = b""
        while True:
            found: tuple[BlockView, ...] = self._connection.call("blocks.list", ListBlocks(after, USER), tuple[BlockView, ...], node=node)
            if not found:
                return
            yield from (view.name for view in found)
            after = found[-1].name

    def run(self, snapshot: list[Changes], own: set[bytes]) -> int:
        """Let go of what is in nothing of the snapshot, whose own blocks are `own`; return how many that were."""
        kept = own | blocks_in(snapshot)
        count = 0
        for node, names in self._there.items():
            left = sorted(names - kept)
            for at in range(0, len(left), AT_ONCE):
                some = self._blocks.doom(set(left[at : at + AT_ONCE]))
                try:
                    if some:
                        dropped: Dropped = self._connection.call("blocks.drop", OfBlocks(b"".join(some), USER), Dropped, node=node)
                        count += dropped.count
                except UniosError:  # the node has gone: next time
                    break
                finally:
                    self._blocks.spare()
        return count


def blocks_in(parts: list[Changes]) -> set[bytes]:
    """Return the names of the blocks that files have."""
    return {change.extent.block for part in parts for change in part if isinstance(change, PutExtent) and slot_of(change.extent.block) is None}
