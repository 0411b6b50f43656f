"""One run of the simulation of watches: the shipped engine, host, client and mirrors of the store, on virtual time; then calm, and every copy must be whole.

Invariants: what a copy has is what the store had at the revision that it says; it never goes back; what was acknowledged is there ever after; `latest`
misses nothing that was acknowledged before it was asked for. Each method under `STEPS` is something that a schedule can do, with its arguments.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any, Final
from unittest import mock

import msgspec

from tests.sim.schedule import Schedule, Steps
from tests.sim.virtual_loop import LoopWorld, VirtualLoop
from tests.sim.watch_lines import Line
from unios.errors import Unavailable, UniosError
from unios.ids import Generation
from unios.store import watchers
from unios.store.client import StoreClient
from unios.store.host import StoreHost
from unios.store.mirror import Mirror
from unios.store.model import Revision
from unios.store.server import Requests
from unios.store.sqlite import Outcome, SqliteEngine

TROUBLE_MS: Final = 4_000.0
CALM_MS: Final = 4_000.0
PREFIX: Final = "/x/"
KEYS: Final = 6
QUEUE_EVENTS_MAX: Final = 12
"""Of a watcher, in the place of WATCH_QUEUE_EVENTS_MAX: it falls behind within a run."""
STEPS: Final = Steps()
Values = dict[str, int]


class Disk:
    """In the place of the host's thread: a commit takes its time, and so does word of it; a host that has died hears nothing."""

    def __init__(self, world: LoopWorld, committed: Callable[[Any], None]) -> None:
        self._world, self._committed = world, committed
        self.dead = False

    def do(self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        def commit() -> None:
            if self.dead:
                return
            result, error = None, None
            try:
                result = work()
                self._committed(result)
            except UniosError as raised:
                error = raised
            self._world.after(self._world.rng.expovariate(1 / 0.7), lambda: None if self.dead else then(result, error))

        self._world.after(self._world.rng.expovariate(1 / 1.5), commit)

    def close(self) -> None:
        self.dead = True


class Truth:
    """What the store had at each revision."""

    def __init__(self, engine: SqliteEngine) -> None:
        self.engine = engine
        self.at: dict[Revision, Values] = {}
        self.order: list[Revision] = []
        self.acknowledged = -1
        """Up to there in `order`."""
        self.keep()

    def keep(self) -> None:
        """The engine is at a new revision, or was set back."""
        rows = self.engine._db.execute("SELECT key, value FROM records").fetchall()
        self._put(self.engine.revision, {key: msgspec.msgpack.decode(value) for key, value in rows})

    def _put(self, revision: Revision, values: Values) -> None:
        if revision not in self.at:
            self.order.append(revision)
        self.at[revision] = values

    def committed(self, outcomes: list[Outcome]) -> None:
        """Take in what a batch did, revision by revision."""
        for outcome in outcomes:
            if outcome.events:
                values = dict(self.at[self.order[-1]])
                for event in outcome.events:
                    values.pop(event.record.key, None)
                    if event.kind == "put":
                        values[event.record.key] = msgspec.msgpack.decode(event.record.value)
                self._put(Revision(self.engine.generation, outcome.events[-1].number), values)
        if self.engine.revision not in self.at:
            self.keep()


class Copy:
    """A node with a mirror."""

    def __init__(self, run: "WatchRun", name: str, calm_ms: int) -> None:
        self.run, self.name = run, name
        self.client = run.client(name)
        self.mirror: Mirror[int] = Mirror(self.client, PREFIX, int, calm_ms=calm_ms)
        self.task = run.loop.create_task(self.mirror.run())
        self._looked: Revision | None = None

    def look(self) -> None:
        """Hold the copy against what the store had."""
        revision, truth = self.mirror.revision, self.run.truth
        if revision is None or revision == self._looked:
            return
        if revision not in truth.at:
            self.run.world.fail(f"the copy of {self.name} is at {revision.number} which the store never was at")
        elif self._looked is not None and truth.order.index(revision) < truth.order.index(self._looked):
            self.run.world.fail(f"the copy of {self.name} goes back from {self._looked.number} to {revision.number}")
        elif truth.at[revision] != self.mirror.values:
            self.run.world.fail(f"the copy of {self.name} at {revision.number} is {self.mirror.values}, the store had {truth.at[revision]}")
        self._looked = revision


class WatchRun:
    """A store and the copies of it that the nodes of a schedule keep."""

    def __init__(self, schedule: Schedule) -> None:
        self.loop = VirtualLoop()
        self.world = LoopWorld(schedule.seed, self.loop)
        self.engine = SqliteEngine(":memory:", Generation("g0"))
        self.truth = Truth(self.engine)
        self.up = False
        self.lines: list[Line] = []
        self._numbers = itertools.count(1)
        self.acknowledged = 0
        self._patches = contextlib.ExitStack()
        self._schedule = schedule
        self._work: set[asyncio.Task[None]] = set()
        self.copies: dict[str, Copy] = {}

    @property
    def count(self) -> int:
        """How many writes were acknowledged."""
        return self.acknowledged

    async def _begin(self) -> None:
        self.start()
        self.writer = self.client("writer")
        for number in range(1, self._schedule.setup["nodes"] + 1):
            self.copies[f"n{number}"] = Copy(self, f"n{number}", self._schedule.setup["calm_ms"] if number % 2 else 0)
        self.world.look = self._look
        for step in self._schedule.steps:
            self.world.after(step.at_ms, lambda step=step: STEPS.do(self, step))  # type: ignore[misc]

    # the store

    def start(self) -> None:
        self.up = True
        self.host = StoreHost(self.engine, lambda: int(self.world.now))
        self._running = self.loop.create_task(self.host.run())
        self.requests = Requests(self.host)

    def client(self, name: str) -> StoreClient:
        """Return a client that makes a connection anew when the last one has ended."""

        async def connect() -> Any:
            await asyncio.sleep(self.world.slow * 0.003)
            if not self.up or not (self.world.passes(name, "store") and self.world.passes("store", name)):
                raise Unavailable("the store cannot be reached")
            self.lines = [line for line in self.lines if not line.is_closed]
            self.lines.append(Line(self.world, name, next(self._numbers), self.requests))
            return self.lines[-1]

        return StoreClient(connect, timeout_ms=600)

    def _look(self) -> None:
        for copy in self.copies.values():
            copy.look()
        truth = self.truth
        if truth.acknowledged >= 0:
            known = truth.order[truth.acknowledged]
            if known.generation == self.engine.generation and self.engine.number < known.number:
                self.world.fail(f"an acknowledged write is lost: {known.number} was acknowledged, the store is at {self.engine.number}")

    def _do(self, work: Any) -> None:
        async def safely() -> None:
            with contextlib.suppress(UniosError):
                await work
            self._look()

        task = self.loop.create_task(safely())
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.world._break(task.exception() or RuntimeError())

    # what a schedule can do

    @STEPS
    def write(self, rounds: int = 1, apart_ms: float = 15.0, deletes: float = 0.2) -> None:
        """A client puts or deletes a key, so many times."""
        rng = self.world.rng
        key, number = f"{PREFIX}{rng.randrange(KEYS)}", next(self._numbers)
        self._do(self._change(key, None if rng.random() < deletes else number))
        if rounds > 1:
            self.world.after(2 * apart_ms * rng.random(), lambda: self.write(rounds - 1, apart_ms, deletes))

    async def _change(self, key: str, value: int | None) -> None:
        if value is None:
            result = await self.writer.delete(key)
            revision = result[1]
        else:
            revision = await self.writer.put(key, msgspec.msgpack.encode(value))
        self.acknowledged += 1
        if revision in self.truth.at:
            self.truth.acknowledged = max(self.truth.acknowledged, self.truth.order.index(revision))
        else:
            self.world.fail(f"an acknowledged write is at {revision.number} which the store never was at")

    @STEPS
    def latest(self, node: str) -> None:
        """A node asks for what is there by now."""

        async def ask() -> None:
            known = max(0, self.truth.acknowledged)
            values = await self.copies[node].mirror.latest()
            if all(self.truth.at[revision] != values for revision in self.truth.order[known:]):
                self.world.fail(f"{node} is told {values} as the latest, and the store was never so since it was asked")

        self._do(ask())

    @STEPS
    def compact(self) -> None:
        """The history is forgotten up to now: who is behind has to read everything again."""
        self.world.say(f"store: forgets up to {self.engine.number}")
        self._do(self.writer.compact(self.engine.revision))

    @STEPS
    def new_generation(self) -> None:
        """A copy of the store is taken back in: nothing of its history counts any more."""
        self.world.say("store: a new generation")
        self._do(self.writer.restore(()))

    @STEPS
    def crash_store(self, lasts_ms: float = 200.0) -> None:
        """The store's process dies with what it has not committed, and comes back."""
        if not self.up:
            return
        self.world.say("store: crashes")
        self.up = False
        self.host._thread.close()
        self._running.cancel()
        for line in self.lines:
            line.close("the store died")
        if self.engine._db.in_transaction:
            self.engine._db.execute("ROLLBACK")
        self.engine._set_up(self.engine.generation)
        self.world.after(lasts_ms, lambda: None if self.up else self.start())

    @STEPS
    def break_lines(self, node: str) -> None:
        """A node's connections end."""
        self.world.say(f"{node}: its connections end")
        for line in self.lines:
            if line.name == node:
                line.close("it broke")

    @STEPS
    def cut(self, node: str, lasts_ms: float = 300.0) -> None:
        self.world.cut_off([(node, "store")], lasts_ms)

    @STEPS
    def hears_nothing(self, node: str, lasts_ms: float = 300.0) -> None:
        """What the store says does not reach a node: its watcher falls behind."""
        self.world.cut_off([("store", node)], lasts_ms, one_way=True)

    @STEPS
    def slow(self, slower: float = 10.0, lasts_ms: float = 300.0) -> None:
        self.world.trouble(0.0, slower, 0.0, lasts_ms)

    # the run

    def go(self) -> None:
        """Run it. Raises Violation."""
        self._patches.enter_context(mock.patch("unios.store.host.Worker", self._disk))
        self._patches.enter_context(mock.patch.object(watchers, "WATCH_QUEUE_EVENTS_MAX", QUEUE_EVENTS_MAX))
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._begin())
            self.world.run_until(TROUBLE_MS)
            self.world.say("-- the trouble is over")
            self.world.heal()
            self.world.run_until(TROUBLE_MS + CALM_MS)
            self._check_end()
        finally:
            self._stop()
            self._patches.close()

    def _disk(self, _name: str) -> Disk:
        return Disk(self.world, self._committed)

    def _committed(self, result: Any) -> None:
        if isinstance(result, list):
            self.truth.committed(result)
            for outcome in result:
                for event in outcome.events:
                    self.world.say(f"store: {event.kind} {event.record.key} at {event.number}")

    def _stop(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        asyncio.set_event_loop(None)
        self.engine._db.close()

    def _check_end(self) -> None:
        now = self.truth.at[self.truth.order[-1]]
        for copy in self.copies.values():
            if copy.mirror.values != now:
                self.world.fail(f"the copy of {copy.name} is not whole in the end: {copy.mirror.values}, the store has {now}")
