"""The system's events: what happened, as sentences for people, kept in the store with a bound.

An event that tells of a change of a record is written in the same transaction as the change. The oldest go when there are too many.
"""

import itertools
from collections.abc import AsyncIterator, Callable

import msgspec

from unios.errors import Compacted
from unios.store.model import UNDECODABLE, Put, Record, Revision, Store
from unios.store.pages import every
from unios.wire.operations import EventView

PREFIX = "/events/"


class Events:
    """Writes and reads events for one node."""

    def __init__(self, store: Store, node: str, wall_ms: Callable[[], int]) -> None:
        self._store = store
        self._node = node
        self._wall_ms = wall_ms
        self._count = itertools.count()

    def put(self, kind: str, text: str, pid: int = 0) -> Put:
        """Return the operation that writes an event, to go into the transaction of what it tells."""
        now = self._wall_ms()
        view = EventView(now, self._node, kind, text, pid)
        return Put(f"{PREFIX}{now:015d}-{self._node}-{next(self._count) % 1_000_000:06d}", msgspec.msgpack.encode(view))

    async def write(self, kind: str, text: str, pid: int = 0) -> None:
        """Write an event of its own."""
        operation = self.put(kind, text, pid)
        await self._store.put(operation.key, operation.value)

    async def past(self, last: int) -> tuple[list[EventView], Revision]:
        """Return the newest `last` events (0: all), and the revision up to which they are complete.

        In the order in which the store took them, as `follow` tells them. An event is written together with what it tells of, so a cause comes before
        what came of it, whatever the clocks of the nodes say. Rejected: by their times, which are of several clocks.
        """
        records, first = await every(self._store, PREFIX)
        records = sorted(records, key=lambda record: (record.modified, record.key))
        views = [view for record in records[-last:] if (view := _view(record)) is not None]
        return views, first

    async def follow(self, after: Revision) -> AsyncIterator[EventView]:
        """Yield what happens after a revision."""
        while True:
            try:
                async for batch in self._store.watch(PREFIX, after=after):
                    after = batch.revision
                    for event in batch.events:
                        if event.kind == "put" and (view := _view(event.record)) is not None:
                            yield view
            except Compacted:
                _views, after = await self.past(1)


def _view(record: Record) -> EventView | None:
    try:
        return msgspec.msgpack.decode(record.value, type=EventView)
    except UNDECODABLE:
        return None
