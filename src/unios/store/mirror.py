"""A local copy of a part of the store, kept up to date by a watch.

Decoded once per change. `run` is one task: it ranges, then watches from that revision; on Compacted (fell behind, or a
new generation) it ranges again and reports the difference as if it had been events, so that a user of it never sees a
gap. Reads of the copy are stale by the length of the watch; whoever needs the latest asks the store, or for `latest`.

A copy may be kept in calm: then the store gathers what happens and tells it a few times a second. One that `hurries` is told at once while anybody waits
for a key of it, and HURRY_S after the last one did: what nobody waits for is worth no wake-up.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final, Generic, TypeVar, cast

import msgspec

from unios.errors import Compacted, OutcomeUnknown, Unavailable
from unios.store.model import UNDECODABLE, Batch, Record, Revision, Store
from unios.store.pages import every

V = TypeVar("V")
OnChange = Callable[[str, V | None, V | None], None]
"""key, the value before (None: it was not there), the value now (None: deleted)."""
HURRY_S: Final = 1.0
"""After the last wait: the next of the same caller is told at once too."""
LATEST_S: Final = 5.0
"""So long at most what has happened since is waited for."""


class _Wait(Generic[V]):
    __slots__ = ("future", "reached")

    def __init__(self, reached: Callable[[V | None], bool], future: "asyncio.Future[V | None]") -> None:
        self.reached = reached
        self.future = future


class Mirror(Generic[V]):
    """The records under `prefix`, decoded as `type_`. What does not decode is left out, also where something that did was before: a newer version, or
    nobody in his right mind, wrote it, and what was there is true no more."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        type_: type[V],
        on_change: OnChange[V] | None = None,
        *,
        calm_ms: int = 0,
        hurries: bool = False,
    ) -> None:
        self.prefix = prefix
        self.values: dict[str, V] = {}
        self.modified: dict[str, int] = {}
        self.revision: Revision | None = None
        self._store = store
        self._calm_ms = calm_ms
        self._hurries = hurries
        self._decoder = msgspec.msgpack.Decoder(type_)
        self._on_change = on_change
        self._complete = asyncio.Event()
        self._waits: dict[str, list[_Wait[V]]] = {}
        self._hurried = False
        """Whether it is told at once now, or about to be."""
        self._following: asyncio.Task[None] | None = None
        self._calming: asyncio.TimerHandle | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the copy has been whole once."""
        return self._complete.is_set()

    async def wait_complete(self) -> None:
        """Wait until the copy has been whole once."""
        await self._complete.wait()

    async def wait_for(self, key: str, reached: Callable[[V | None], bool]) -> V | None:
        """Wait until `reached(value)` is true of what is under `key`, None if nothing is; return it. It is asked now and after each change of the key."""
        value = self.values.get(key)
        if reached(value):
            return value
        wait = _Wait(reached, asyncio.get_running_loop().create_future())
        self._waits.setdefault(key, []).append(wait)
        self._hurry()
        try:
            return await wait.future
        finally:
            self._waits[key].remove(wait)
            if not self._waits[key]:
                del self._waits[key]
            self._calm_down()

    async def latest(self) -> dict[str, V]:
        """Return what is under the prefix by now: the copy, and on top of it what has happened since, which alone is asked for. Raises Unavailable,
        OutcomeUnknown."""
        try:
            async with asyncio.timeout(LATEST_S):
                await self.wait_complete()
                try:
                    return await self._with_news()
                except Compacted:
                    records, _revision = await every(self._store, self.prefix)
        except TimeoutError:
            raise Unavailable(f"the store does not say what has happened under {self.prefix}") from None
        values: dict[str, V] = {}
        for record in records:
            self._lay(values, True, record)
        return values

    async def _with_news(self) -> dict[str, V]:
        values, after = dict(self.values), self.revision
        _found, now = await self._store.range(self.prefix, prefix=True, limit=1)
        batches = cast("AsyncGenerator[Batch, None]", self._store.watch(self.prefix, after=after))
        async with contextlib.aclosing(batches):
            async for batch in batches:  # the first goes up to where the store is then; it may come in several parts
                for event in batch.events:
                    self._lay(values, event.kind == "put", event.record)
                if batch.revision.number >= now.number:
                    break
        return values

    def _lay(self, values: dict[str, V], put: bool, record: Record) -> None:
        values.pop(record.key, None)
        if put:
            with contextlib.suppress(*UNDECODABLE):
                values[record.key] = self._decoder.decode(record.value)

    def set_calm(self, calm_ms: int) -> None:
        """From now on what happens may be gathered for so long."""
        if calm_ms != self._calm_ms:
            self._calm_ms = calm_ms
            if not self._hurried:
                self._follow_anew()

    def _hurry(self) -> None:
        if self._calming is not None:
            self._calming.cancel()
            self._calming = None
        if self._hurries and self._calm_ms and not self._hurried:
            self._hurried = True
            self._follow_anew()

    def _calm_down(self) -> None:
        if self._hurried and not self._waits and self._calming is None:
            self._calming = asyncio.get_running_loop().call_later(HURRY_S, self._calm)

    def _calm(self) -> None:
        self._calming = None
        self._hurried = False
        self._follow_anew()

    def _follow_anew(self) -> None:
        if self._following is not None:
            self._following.cancel()

    async def run(self) -> None:
        """Keep the copy; ends only by cancellation."""
        while True:
            try:
                await self._resynchronise()
                while True:
                    await self._follow_until_the_pace_changes()
            except (Compacted, Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.02)

    async def _follow_until_the_pace_changes(self) -> None:
        following = self._following = asyncio.get_running_loop().create_task(self._follow(0 if self._hurried else self._calm_ms))
        try:
            await asyncio.wait([following])
        finally:
            self._following = None
            following.cancel()
        if not following.cancelled():
            following.result()

    async def _follow(self, calm_ms: int) -> None:
        async for batch in self._store.watch(self.prefix, after=self.revision, calm_ms=calm_ms):
            for event in batch.events:
                self._apply(event.kind == "put", event.record)
            self.revision = batch.revision

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
        for wait in self._waits.get(key, ()):
            if not wait.future.done() and wait.reached(value):
                wait.future.set_result(value)
