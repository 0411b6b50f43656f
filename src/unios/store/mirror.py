"""A local copy of a part of the store, kept up to date by a watch.

Decoded once per change. `run` is one task: it ranges, then watches from that revision; on Compacted (fell behind, or a
new generation) it ranges again and reports the difference as if it had been events, so that a user of it never sees a
gap. Reads of the copy are stale by the length of the watch; whoever needs the latest asks the store.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from unios.errors import Compacted, OutcomeUnknown, Unavailable
from unios.store.model import UNDECODABLE, Record, Revision, Store

V = TypeVar("V")
OnChange = Callable[[str, V | None, V | None], None]
"""key, the value before (None: it was not there), the value now (None: deleted)."""


class Mirror(Generic[V]):
    """The records under `prefix`, decoded as `type_`. What does not decode is left out, also where something that did was before: a newer version, or
    nobody in his right mind, wrote it, and what was there is true no more."""

    def __init__(self, store: Store, prefix: str, type_: type[V], on_change: OnChange[V] | None = None, *, calm_ms: int = 0) -> None:
        self.prefix = prefix
        self.values: dict[str, V] = {}
        self.modified: dict[str, int] = {}
        self.revision: Revision | None = None
        self._store = store
        self._calm_ms = calm_ms
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._on_change = on_change
        self._complete = asyncio.Event()
        self._changed = asyncio.Condition()

    async def wait_complete(self) -> None:
        """Wait until the copy has been whole once."""
        await self._complete.wait()

    async def wait_until(self, reached: Callable[[dict[str, V]], bool]) -> None:
        """Wait until `reached(values)` is true; it is asked after each batch of changes."""
        async with self._changed:
            await self._changed.wait_for(lambda: reached(self.values))

    async def run(self) -> None:
        """Keep the copy; ends only by cancellation."""
        while True:
            try:
                await self._resynchronise()
                async for batch in self._store.watch(self.prefix, after=self.revision, calm_ms=self._calm_ms):
                    for event in batch.events:
                        self._apply(event.kind == "put", event.record)
                    self.revision = batch.revision
                    if batch.events:
                        await self._announce()
            except (Compacted, Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.02)

    async def _resynchronise(self) -> None:
        seen: dict[str, Record] = {}
        after, first = "", None
        while True:
            result, revision = await self._store.range(self.prefix, prefix=True, after=after)
            first = first or revision
            seen.update((record.key, record) for record in result.records)
            if not result.more:
                break
            after = result.records[-1].key
        for key in [key for key in self.values if key not in seen]:
            self._put(key, None, 0)
        for record in seen.values():
            self._apply(True, record)
        self.revision = first
        self._complete.set()
        await self._announce()

    def _apply(self, put: bool, record: Record) -> None:
        value: V | None = None
        if put:
            if self.modified.get(record.key) == record.modified:
                return
            with contextlib.suppress(*UNDECODABLE):
                value = self._decoder.decode(record.value)
        self._put(record.key, value, record.modified)

    def _put(self, key: str, value: V | None, modified: int) -> None:
        before = self.values.get(key)
        if value is None:
            self.values.pop(key, None)
            self.modified.pop(key, None)
        else:
            self.values[key] = value
            self.modified[key] = modified
        if self._on_change is not None and not (before is None and value is None):
            self._on_change(key, before, value)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()
