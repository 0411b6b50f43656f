"""Runs an engine in a process: batches jobs for it, judges leases with core/leases.py, and hands events to watchers.

The engine works in a thread of its own, one batch at a time: a disk that takes its time stops neither beats nor renewals. What arrives meanwhile
makes the next batch, so that one sync serves many. After the commit leave the answers, then the events, each in the order of the jobs
(store/watchers.py).
"""

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from unios.core.leases import Leases
from unios.errors import NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.ids import Generation
from unios.store import snapshots
from unios.store.model import Batch, Delete, Put, Revision, StoreStatistics
from unios.store.requests import Dumped
from unios.store.sqlite import End, Grant, Job, Look, Outcome, Restore, Result, SqliteEngine
from unios.store.tally import Tally
from unios.store.watchers import Push, Watcher, Watchers

T = TypeVar("T")
BATCH_JOBS_MAX = 256
END_AGAIN_S = 0.1
EARLY_MS = 200
FREEZE_LOOK_S = 0.002

Done = Callable[[Result], None]
"""Told in the loop what a job came to: its result, or why it was refused."""


class Worker:
    """One thread that does one thing after the other; what comes of each is told in the loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], T], then: Callable[[T | Any, BaseException | None], None]) -> None:
        """Call `work` in the thread; then `then` in the loop, with what it returned and None, or with None and what it raised."""
        self._work.put((work, then))

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, then = item
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 the loop is told; this thread goes on
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
                self._loop.call_soon_threadsafe(then, result, error)

    def close(self) -> None:
        """Return when all has been done."""
        self._work.put(None)
        self._thread.join()


class _Entry(NamedTuple):
    """A job under way; nobody waits for the end of a lease. `watcher`: to be let in when its history has been read, if `wanted` still."""

    job: Job
    done: Done | None = None
    watcher: Watcher | None = None
    wanted: Callable[[], bool] = lambda: True


class StoreHost:
    """One engine, its leases and its watchers."""

    def __init__(self, engine: SqliteEngine, now_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._now_ms = now_ms
        self._leases = Leases(engine.leases(), now_ms())
        self._ended: set[int] = set()
        """Leases that nobody may renew any more and whose end is not on disk yet."""
        self._jobs: deque[_Entry] = deque()
        self.tally = Tally()
        self._watchers = Watchers(engine.generation, self.tally)
        self._loop = asyncio.get_running_loop()
        self._busy = False
        """Whether a batch is under way, or about to be."""
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._thread = Worker("engine")
        self._alarm: asyncio.TimerHandle | None = None
        """The judge's next look; None while nobody runs it."""
        self._early_ms = 0
        """From then on a renewal is as good a moment to look as that."""

    async def run(self) -> None:
        """Serve until cancelled."""
        self._judge()
        try:
            await self._broken
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    def _push(self, entry: _Entry) -> None:
        self._jobs.append(entry)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._begin)  # what else has arrived by now goes into the same batch

    def _begin(self) -> None:
        batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), BATCH_JOBS_MAX))]
        jobs = [entry.job for entry in batch]
        self._thread.do(lambda: self._engine.run(jobs), lambda outcomes, error: self._end_batch(batch, outcomes, error))

    def _end_batch(self, batch: list[_Entry], outcomes: list[Outcome], error: BaseException | None) -> None:
        if isinstance(error, Unavailable | OutcomeUnknown):
            outcomes = [Outcome(error)] * len(batch)
        elif error is not None:
            if not self._broken.done():
                self._broken.set_exception(error)
            return
        for entry, outcome in zip(batch, outcomes, strict=True):
            self._finish(*entry, outcome)
        for outcome in outcomes:
            if outcome.events:
                self._watchers.tell(outcome.events)
        if self._jobs:
            self._begin()
        else:
            self._busy = False

    def _finish(self, job: Job, done: Done | None, watcher: Watcher | None, wanted: Callable[[], bool], outcome: Outcome) -> None:
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
                    self._loop.call_later(END_AGAIN_S, self._end_for_good, owed)
            case Restore() if not isinstance(outcome.result, UniosError):
                self._watchers.cut_off_all()
                self._watchers = Watchers(self._engine.generation, self.tally)
            case Look() if isinstance(outcome.result, Batch) and watcher is not None and wanted():
                self._watchers.add(watcher, outcome.result)
        if done is not None:
            done(outcome.result)

    def _judge(self) -> None:
        """Look which leases have ended, and set when to look again; a judge that fails is the store's end, as an engine that fails is."""
        try:
            self._look()
        except Exception as error:  # noqa: BLE001 `run` raises it
            if not self._broken.done():
                self._broken.set_exception(error)

    def _look(self) -> None:
        now_ms = self._now_ms()
        ended = self._leases.look(now_ms)
        if ended:
            self._end_for_good(tuple(ended))
        if self._alarm is not None:
            self._alarm.cancel()
        self._early_ms = now_ms + EARLY_MS
        self._alarm = self._loop.call_later(self._leases.wait_ms(now_ms) / 1000, self._judge)

    def _end_for_good(self, leases: tuple[int, ...]) -> None:
        self._ended.update(leases)
        self._push(_Entry(End(leases)))

    # another engine takes its place

    async def freeze(self) -> None:
        """End what is under way, and have no lease end by itself any more; renewals go on. What is asked afterwards is the caller's to keep away. Raises
        Unavailable while the end of a lease could not be written."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._busy:
            await asyncio.sleep(FREEZE_LOOK_S)
        if self._ended:
            raise Unavailable("the store's disk does not take what has to be written: a lease has ended")

    def thaw(self) -> None:
        """Go on as before; the time in between counts against no lease."""
        self._leases = Leases(self._engine.leases(), self._now_ms())
        self._judge()

    def leave(self, where: str) -> None:
        """The records are `where` from now on: this file says so for good, and whoever watches is cut off. Raises sqlite3.Error: it may or may not say so."""
        self._engine.leave(where)
        self._watchers.cut_off_all()

    @property
    def path(self) -> str:
        """Return the file of its engine."""
        return self._engine.path

    # requests

    def submit(self, job: Job, done: Done) -> None:
        """Have one job done; `done` is told its result once it is durable, or why it was refused."""
        self._push(_Entry(job, done))

    async def do(self, job: Job, watcher: Watcher | None = None) -> Result:
        """Do one job; return its result once it is durable, or raise why it was refused."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self._push(_Entry(job, lambda result: _settle(future, result), watcher, lambda: not future.done()))
        return await future

    def renew(self, lease: int) -> int:
        """Renew a lease; return its time to live in ms. No disk: leases outlive a restart, with their full time."""
        now_ms = self._now_ms()
        ttl = self._leases.renewed(lease, now_ms)
        if now_ms >= self._early_ms and self._alarm is not None:
            self._judge()
        if not ttl:
            raise NotFound(f"lease {lease} has ended")
        return ttl

    async def end(self, lease: int) -> Result:
        """End a lease at once. It has ended also if this fails: then that it has is written later."""
        if lease in self._leases:
            self._leases.revoked(lease)
            self._ended.add(lease)
        return await self.do(End((lease,)))

    async def watch(self, prefix: str, after: Revision | None, *, calm_ms: int = 0, push: Push | None = None) -> Watcher:
        """Return a watcher that is told every event of `prefix` after that revision; Compacted if they are gone."""
        watcher = Watcher(prefix, calm_ms, push or (lambda _raw: False))
        try:
            await self.do(Look(prefix, after), watcher)
        except BaseException:
            self.unwatch(watcher)
            raise
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.remove(watcher)

    async def restore(self, operations: tuple[Put | Delete, ...]) -> Result:
        """Make these changes and begin a new generation; leases go on, who watches is cut off."""
        return await self.do(Restore(operations, Generation(os.urandom(8).hex())))

    def dump(self) -> AsyncIterator[Dumped]:
        """Yield all records as they are at one moment. Others read and write meanwhile."""
        return snapshots.dump(self._engine.path)

    async def statistics(self) -> StoreStatistics:
        """Return figures; keys and bytes are counted now."""
        engine = self._engine
        counted: asyncio.Future[tuple[int, int]] = self._loop.create_future()

        def then(found: tuple[int, int], error: BaseException | None) -> None:
            if not counted.done():
                counted.set_result(found) if error is None else counted.set_exception(error)

        self._thread.do(lambda: (engine.keys(), engine.bytes()), then)
        keys, size = await counted
        return StoreStatistics(
            engine.revision,
            engine.compacted,
            keys,
            len(self._leases),
            len(self._watchers),
            size,
            engine.transactions,
            engine.syncs,
            *self.tally.shown(),
        )

    def close(self) -> None:
        self._thread.close()
        self._engine.close()


def _settle(future: "asyncio.Future[Result]", result: Result) -> None:
    if future.done():
        return
    if isinstance(result, UniosError):
        future.set_exception(result)
    else:
        future.set_result(result)
