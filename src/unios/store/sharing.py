"""Sharing: one connection to a store for all of a node: its kernel and its services. Each prefix is watched once there, whoever watches it here.

A host as the others are, with a client of a store elsewhere in the place of an engine. What is asked is passed on as it is. Who begins to watch a prefix is told
first what the store says has happened since; from then on what the one watch of that prefix says, which every watcher of it shares.

Invariants, as of any store: each event once, in order, from the watcher's revision on, or Compacted. Calm is halved on the way: half of it there, half here.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final, cast

from unios.errors import CallerError, Compacted, UniosError
from unios.ids import LeaseId
from unios.store.client import DEFRAGMENT_TIMEOUT_MS, Connect, StoreClient
from unios.store.etcd.recent import Recent
from unios.store.model import Batch, Revision
from unios.store.server import watch
from unios.store.tally import Tally
from unios.store.watchers import Push, Watcher, Watchers
from unios.store_limits import SHARED_IN_FLIGHT_MAX
from unios.wire.peer import Call, Peer
from unios.wire.transport import Transport

TIMEOUTS_MS: Final = {"store.defragment": DEFRAGMENT_TIMEOUT_MS}
PASSED_ON: Final = frozenset(
    f"store.{name}" for name in ("transact", "grant", "renew", "end", "compact", "statistics", "members", "member", "health", "defragment", "disarm")
)


class _Source:
    """The one watch of a prefix, and who shares it."""

    def __init__(self, store: StoreClient, prefix: str, at: Revision, tally: Tally) -> None:
        self._store = store
        self._prefix = prefix
        self._at = at
        self._calms: dict[Watcher, int] = {}
        self._calm_ms = 0
        self._task: asyncio.Task[None] | None = None
        self.recent = Recent(at.number)
        self.generation = at.generation
        self.watchers = Watchers(at.generation, tally)
        self.is_over = False
        """Whether what happened is not known any more: who watches has to begin anew, with another source."""

    def add(self, watcher: Watcher, calm_ms: int, history: Batch) -> None:
        self._calms[watcher] = calm_ms
        self.watchers.add(watcher, history)
        self._pace()

    def remove(self, watcher: Watcher) -> bool:
        """Return whether nobody is left."""
        self.watchers.remove(watcher)
        self._calms.pop(watcher, None)
        if self._calms and not self.is_over:
            self._pace()
        return not self._calms

    def _pace(self) -> None:
        """Watch in the calm of whoever is in the greatest hurry."""
        calm_ms = min(self._calms.values()) // 2
        if self._task is None or calm_ms != self._calm_ms:
            self.stop()
            self._calm_ms = calm_ms
            self._task = asyncio.get_running_loop().create_task(self._follow(calm_ms))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _follow(self, calm_ms: int) -> None:
        try:
            async for batch in self._store.watch(self._prefix, after=self._at, calm_ms=calm_ms):
                self._at = batch.revision
                self.recent.note(batch.revision.number, list(batch.events))
                if batch.events:
                    self.watchers.tell(batch.events)
        except UniosError:  # its history is gone, or the client is closed
            self.is_over = True
            self.watchers.cut_off_all()


class Shared:
    """The one way to a store for a node. `store`: the kernel's own client."""

    def __init__(self, store: StoreClient) -> None:
        self.store = store
        self.tally = Tally()
        self._sources: dict[str, _Source] = {}
        self._slots = asyncio.Semaphore(SHARED_IN_FLIGHT_MAX)
        self._tasks: set[asyncio.Task[None]] = set()

    async def watch(self, prefix: str, after: Revision | None, *, calm_ms: int = 0, push: Push | None = None) -> Watcher:
        """Return a watcher that is told every event of `prefix` after that revision; Compacted if they are gone."""
        history = await self._history(prefix, after)
        source = self._sources.get(prefix)
        if source is None or source.is_over or source.generation != history.revision.generation:
            if source is not None:
                source.stop()
                source.watchers.cut_off_all()
            source = self._sources[prefix] = _Source(self.store, prefix, history.revision, self.tally)
        newer = source.recent.after(prefix, history.revision.number)
        if newer is None:
            raise Compacted("too much has happened meanwhile: read everything again")
        number = max(history.revision.number, source.recent.heard if newer else 0)
        watcher = Watcher(prefix, calm_ms // 2, push or (lambda _raw: False))
        source.add(watcher, calm_ms, Batch(Revision(source.generation, number), (*history.events, *newer)))
        return watcher

    async def _history(self, prefix: str, after: Revision | None) -> Batch:
        """Return the first that the store says of a watch: where it begins, and what has happened before."""
        batches = cast("AsyncGenerator[Batch, None]", self.store.watch(prefix, after=after))
        async with contextlib.aclosing(batches):
            async for batch in batches:
                return batch
        raise Compacted("the store has ended a watch: read everything again")

    def unwatch(self, watcher: Watcher) -> None:
        """It is told no more. Idempotent."""
        source = self._sources.get(watcher.prefix)
        if source is not None and source.remove(watcher):
            source.stop()
            del self._sources[watcher.prefix]

    async def handle(self, call: Call) -> object:
        """Serve one request of a service."""
        if call.op == "store.watch":
            return await watch(self, call)
        if call.op not in PASSED_ON:
            raise CallerError(f"the store has no operation {call.op[:80]}")
        async with self._slots:
            return await self.store.pass_on(call.op, call.body, timeout_ms=TIMEOUTS_MS.get(call.op, 0))

    def serve(self, transport: Transport) -> None:
        """Answer one connection until it ends."""
        peer = Peer(transport, self.handle, role="store")
        task = asyncio.get_running_loop().create_task(_serve(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _serve(peer: Peer) -> None:
    try:
        with contextlib.suppress(UniosError):
            await peer.start()
            await peer.closed()
    finally:
        peer.close("the kernel stops")


class SharingClient(StoreClient):
    """The kernel's own client where a node shares one: its watches are shared with its services'."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self.shared = Shared(StoreClient(connect))

    async def _connected(self) -> Peer:
        return await self.shared.store._connected()

    def renew_now(self, lease: LeaseId, told: Callable[[int | UniosError], None], *, timeout_ms: int) -> bool:
        return self.shared.store.renew_now(lease, told, timeout_ms=timeout_ms)

    async def watch(self, prefix: str, *, after: Revision | None = None, calm_ms: int = 0) -> AsyncIterator[Batch]:
        watcher = await self.shared.watch(prefix, after, calm_ms=calm_ms)
        try:
            while True:
                yield (await watcher.next()).batch
        finally:
            self.shared.unwatch(watcher)

    async def close(self) -> None:
        await super().close()
        await self.shared.store.close()
