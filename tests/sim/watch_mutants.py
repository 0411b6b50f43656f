"""Mutants of the store's watches, host and engine: each has one protection switched off, and the simulation of watches must find what it lets through."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from tests.sim.mutants import early_answer
from unios.store.mirror import Mirror
from unios.store.model import Batch, Revision
from unios.store.sqlite import SqliteEngine
from unios.store.watchers import Told, Watcher


def watch_gap_ignored() -> Any:
    """A copy that is told that it has missed something goes on from now."""

    async def resynchronise(self: Mirror[Any]) -> None:
        if self.is_complete:
            _found, self.revision = await self._store.range(self.prefix, prefix=True, limit=1)
        else:
            await original(self)

    original = Mirror._resynchronise
    return mock.patch.object(Mirror, "_resynchronise", resynchronise)


def gap_not_told() -> Any:
    """The store tells what it still has of the history, and not that some of it is gone."""

    def history(self: SqliteEngine, prefix: str, after: Revision | None) -> Batch:
        if after is not None and after.generation == self.generation and after.number < self.compacted:
            after = Revision(after.generation, self.compacted)
        return original(self, prefix, after)

    original = SqliteEngine._history
    return mock.patch.object(SqliteEngine, "_history", history)


def generation_ignored() -> Any:
    """A watch goes on over a new generation as if nothing had been."""

    def history(self: SqliteEngine, prefix: str, after: Revision | None) -> Batch:
        return original(self, prefix, after and Revision(self.generation, max(after.number, self.compacted)))

    original = SqliteEngine._history
    return mock.patch.object(SqliteEngine, "_history", history)


def duplicate_delivery() -> Any:
    """A watcher is told again what it was told as history."""

    def tell(self: Watcher, told: Told) -> None:
        if not self.cut_off and not (self._keeps_up and self._push(told.raw)):
            self._queue(told)

    return mock.patch.object(Watcher, "tell", tell)


def fell_behind_unnoticed() -> Any:
    """What does not fit into a watcher's queue is dropped."""

    def cut(self: Watcher) -> None:
        self._waiting.clear()
        self._events = self._bytes = 0

    return mock.patch.object(Watcher, "cut", cut)


def history_forgets_the_end() -> Any:
    """A copy that begins anew keeps what has been deleted meanwhile."""

    async def resynchronise(self: Mirror[Any]) -> None:
        kept = dict(self.values)
        await original(self)
        for key in kept.keys() - self.values.keys():
            self.values[key] = kept[key]

    original = Mirror._resynchronise
    return mock.patch.object(Mirror, "_resynchronise", resynchronise)


WATCH_MUTANTS: dict[str, Callable[[], Any]] = {
    "watch-gap-ignored": watch_gap_ignored,
    "gap-not-told": gap_not_told,
    "generation-ignored": generation_ignored,
    "duplicate-delivery": duplicate_delivery,
    "fell-behind-unnoticed": fell_behind_unnoticed,
    "deleted-is-kept": history_forgets_the_end,
    "ack-before-durable": early_answer,
}
