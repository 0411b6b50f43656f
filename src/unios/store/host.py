"""Runs an engine in a process: batches jobs for it, judges leases with core/leases.py, and hands events to watchers.

The engine works in a thread of its own, one batch at a time: a disk that takes its time stops neither beats nor renewals. What arrives meanwhile
makes the next batch, so that one sync serves many. After the commit leave the answers, then the events, each in the order of the jobs.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from unios.core.leases import LOOK_MS, Leases
from unios.errors import Compacted, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.limits import FRAME_BYTES_MAX, WATCH_QUEUE_BYTES_MAX, WATCH_QUEUE_EVENTS_MAX
from unios.store.model import Batch, Event, Revision, StoreStatistics
from unios.store.sqlite import End, Grant, Job, Look, Outcome, Result, SqliteEngine, record_bytes
from unios.wire.ticks import delay

BATCH_JOBS_MAX = 256
BATCH_BYTES_MAX = FRAME_BYTES_MAX - 1024 * 1024
END_AGAIN_S = 0.1


def parts(batch: Batch) -> Iterator[Batch]:
    """Cut a batch between revisions into such as fit into a message. Raises Compacted where a single revision does not: it has to be read."""
    events: list[Event] = []
    size = 0
    for number, same in itertools.groupby(batch.events, lambda event: event.number):
        whole = list(same)
        weight = sum(record_bytes(event.record) for event in whole)
        if weight > BATCH_BYTES_MAX:
            raise Compacted(f"what revision {number} changed is too much for one message: read everything again")
        if size + weight > BATCH_BYTES_MAX:
            yield Batch(Revision(batch.revision.generation, events[-1].number), tuple(events))
            events, size = [], 0
        events += whole
        size += weight
    yield Batch(batch.revision, tuple(events))


class Watcher:
    """A queue of batches, bounded in events and in bytes: over a bound it is cut off."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.cut_off = False
        self._batches: deque[Batch] = deque()
        self._events = 0
        self._bytes = 0
        self._arrived = asyncio.Event()

    def put(self, batch: Batch) -> None:
        if self.cut_off:
            return
        self._batches.append(batch)
        self._events += len(batch.events)
        self._bytes += _bytes_of(batch)
        if self._events > WATCH_QUEUE_EVENTS_MAX or self._bytes > WATCH_QUEUE_BYTES_MAX:
            self._batches.clear()
            self.cut_off = True

    def wake(self) -> None:
        """Have `next` look for what has been put."""
        if self._batches or self.cut_off:
            self._arrived.set()

    async def next(self) -> Batch:
        """Return the next batch; Compacted if this watcher fell behind."""
        while not self._batches:
            if self.cut_off:
                raise Compacted(
                    f"the watcher was more than {WATCH_QUEUE_EVENTS_MAX} events or {WATCH_QUEUE_BYTES_MAX} bytes behind: read everything again"
                )
            self._arrived.clear()
            await self._arrived.wait()
        batch = self._batches.popleft()
        self._events -= len(batch.events)
        self._bytes -= _bytes_of(batch)
        return batch

    def joined(self, batch: Batch) -> Batch:
        """Return `batch` and all that has arrived since as one; what was cut off is found by the next `next`."""
        batches = (batch, *self._batches)
        self._batches.clear()
        self._events = self._bytes = 0
        return Batch(batches[-1].revision, tuple(event for one in batches for event in one.events))


def _bytes_of(batch: Batch) -> int:
    return sum(record_bytes(event.record) for event in batch.events)


class _Entry(NamedTuple):
    """A job under way; nobody waits for the end of a lease. `watcher`: to be let in when its history has been read."""

    job: Job
    future: "asyncio.Future[Result] | None" = None
    watcher: Watcher | None = None


class StoreHost:
    """One engine, its leases and its watchers."""

    def __init__(self, engine: SqliteEngine, now_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._now_ms = now_ms
        self._leases = Leases(engine.leases(), now_ms())
        self._ended: set[int] = set()
        """Leases that nobody may renew any more and whose end is not on disk yet."""
        self._jobs: deque[_Entry] = deque()
        self._watchers: set[Watcher] = set()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._judge())
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._jobs:
                    await self._batch()

    async def _batch(self) -> None:
        batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), BATCH_JOBS_MAX))]
        loop = asyncio.get_running_loop()
        try:
            outcomes = await loop.run_in_executor(self._thread, self._engine.run, [entry.job for entry in batch])
        except (Unavailable, OutcomeUnknown) as error:
            outcomes = [Outcome(error)] * len(batch)
        for entry, outcome in zip(batch, outcomes, strict=True):
            if outcome.events:
                self._tell(outcome.events)  # before a watcher of the same batch is let in: what it looked up holds these events
            self._finish(*entry, outcome)
        for watcher in self._watchers:
            watcher.wake()

    def _finish(self, job: Job, future: "asyncio.Future[Result] | None", watcher: Watcher | None, outcome: Outcome) -> None:
        match job:
            case Grant(ttl_ms) if isinstance(outcome.result, int):
                self._leases.granted(outcome.result, ttl_ms, self._now_ms())
            case End(leases) if not isinstance(outcome.result, UniosError):
                self._ended.difference_update(leases)
            case End(leases):
                # An ended lease stays ended, whoever ended it and whatever he was told: again, until that is on disk.
                owed = tuple(lease for lease in leases if lease in self._ended)
                if owed:
                    self._ended.difference_update(owed)
                    asyncio.get_running_loop().call_later(END_AGAIN_S, self._end_for_good, owed)
            case Look() if isinstance(outcome.result, Batch) and watcher is not None and future is not None and not future.done():
                watcher.put(outcome.result)
                self._watchers.add(watcher)
        if future is not None and not future.done():
            if isinstance(outcome.result, UniosError):
                future.set_exception(outcome.result)
            else:
                future.set_result(outcome.result)

    def _tell(self, events: tuple[Event, ...]) -> None:
        revision = Revision(self._engine.generation, events[0].number)
        for watcher in self._watchers:
            mine = tuple(event for event in events if event.record.key.startswith(watcher.prefix))
            if mine:
                watcher.put(Batch(revision, mine))

    async def _judge(self) -> None:
        while True:
            ended = self._leases.look(self._now_ms())
            if ended:
                self._end_for_good(tuple(ended))
            await asyncio.sleep(min(self._leases.wait_ms(self._now_ms()) / 1000, delay(LOOK_MS / 1000)))

    def _end_for_good(self, leases: tuple[int, ...]) -> None:
        self._ended.update(leases)
        self._push(_Entry(End(leases)))

    def _push(self, entry: _Entry) -> None:
        self._jobs.append(entry)
        self._arrived.set()

    # requests

    async def do(self, job: Job, watcher: Watcher | None = None) -> Result:
        """Do one job; return its result once it is durable, or raise why it was refused."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._push(_Entry(job, future, watcher))
        return await future

    def renew(self, lease: int) -> int:
        """Renew a lease; return its time to live in ms. No disk: leases outlive a restart, with their full time."""
        ttl = self._leases.renewed(lease, self._now_ms())
        if not ttl:
            raise NotFound(f"lease {lease} has ended")
        return ttl

    async def end(self, lease: int) -> Result:
        """End a lease at once. It has ended also if this fails: then that it has is written later."""
        if lease in self._leases:
            self._leases.revoked(lease)
            self._ended.add(lease)
        return await self.do(End((lease,)))

    async def watch(self, prefix: str, after: Revision | None) -> Watcher:
        """Return a watcher that has every event of `prefix` after that revision; Compacted if they are gone."""
        watcher = Watcher(prefix)
        try:
            await self.do(Look(prefix, after), watcher)
        except BaseException:
            self.unwatch(watcher)
            raise
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    async def statistics(self) -> StoreStatistics:
        """Return figures; keys and bytes are counted now."""
        engine = self._engine
        keys, size = await asyncio.get_running_loop().run_in_executor(self._thread, lambda: (engine.keys(), engine.bytes()))
        return StoreStatistics(
            engine.revision, engine.compacted, keys, len(self._leases), len(self._watchers), size, engine.transactions, engine.syncs
        )

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._engine.close()
