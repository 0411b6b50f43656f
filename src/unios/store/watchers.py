"""Watchers of a store: who is told of which events. What happened under a prefix is cut out, and encoded, once for all who watch it.

Watchers of one prefix in the same calm are one audience. Without calm it is told at once; else what happens is gathered for `calm_ms` from the first
event on, and of a key that changed several times meanwhile only the last is told. A watcher that takes what it is told costs no task and no wake-up: the
batch goes out where it is told. For one that does not, batches wait in a queue that is bounded; over a bound it is cut off.

Invariant: a watcher is told each event of its prefix once, in order, from its revision on, but for those that a later one of the same key replaces in
the same batch.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from unios.errors import Compacted
from unios.ids import Generation
from unios.limits import FRAME_BYTES_MAX, WATCH_QUEUE_BYTES_MAX, WATCH_QUEUE_EVENTS_MAX
from unios.store.model import Batch, Event, Revision
from unios.store.sqlite import record_bytes
from unios.store.tally import Tally, part
from unios.wire.messages import pack

BATCH_BYTES_MAX = FRAME_BYTES_MAX - 1024 * 1024

Push = Callable[[msgspec.Raw], bool]
"""Send an encoded batch now; False if there is no room for it."""


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


class Told:
    """A batch, for all who are told it."""

    __slots__ = ("_raw", "batch", "bytes")

    def __init__(self, batch: Batch, size: int = -1) -> None:
        self.batch = batch
        self.bytes = sum(record_bytes(event.record) for event in batch.events) if size < 0 else size
        self._raw: msgspec.Raw | None = None

    @property
    def raw(self) -> msgspec.Raw:
        """The batch as a message's body."""
        if self._raw is None:
            self._raw = pack(self.batch)
        return self._raw

    def after(self, number: int) -> "Told":
        """Return what of it happened after that revision number."""
        if not self.batch.events or self.batch.events[0].number > number:
            return self
        return Told(Batch(self.batch.revision, tuple(event for event in self.batch.events if event.number > number)))

    def messages(self) -> Iterator[msgspec.Raw]:
        """Return the bodies of the messages that it takes. Raises Compacted."""
        if self.bytes <= BATCH_BYTES_MAX:
            yield self.raw
        else:
            yield from map(pack, parts(self.batch))


class Watcher:
    """One who is told of a prefix. `push`: takes a batch at once, if it can."""

    def __init__(self, prefix: str, calm_ms: int = 0, push: Push = lambda _raw: False) -> None:
        self.prefix = prefix
        self.calm_ms = calm_ms
        self.cut_off = False
        self._push = push
        self._keeps_up = False
        """Whether all that it was told is on its way."""
        self._told = 0
        """The revision up to which it has been told."""
        self._waiting: deque[Told] = deque()
        self._events = 0
        self._bytes = 0
        self._arrived = asyncio.Event()

    def begin(self, history: Batch) -> None:
        """Tell what there is already."""
        self._told = history.revision.number
        self._queue(Told(history))

    def tell(self, told: Told) -> None:
        """Tell a batch; what it has been told before is left out."""
        if self.cut_off or told.batch.revision.number <= self._told:
            return
        told = told.after(self._told)
        self._told = told.batch.revision.number
        if not (self._keeps_up and told.bytes <= BATCH_BYTES_MAX and self._push(told.raw)):
            self._queue(told)

    def _queue(self, told: Told) -> None:
        self._keeps_up = False
        self._waiting.append(told)
        self._events += len(told.batch.events)
        self._bytes += told.bytes
        if self._events > WATCH_QUEUE_EVENTS_MAX or self._bytes > WATCH_QUEUE_BYTES_MAX:
            self.cut()
        self._arrived.set()

    def cut(self) -> None:
        """Tell it nothing any more: it has to read everything again."""
        self._waiting.clear()
        self.cut_off = True
        self._arrived.set()

    async def next(self) -> Told:
        """Return the next batch that could not be pushed; until there is one all are. Compacted if this watcher fell behind."""
        while not self._waiting:
            if self.cut_off:
                raise Compacted(
                    f"the watcher was more than {WATCH_QUEUE_EVENTS_MAX} events or {WATCH_QUEUE_BYTES_MAX} bytes behind: read everything again"
                )
            self._keeps_up = True
            self._arrived.clear()
            await self._arrived.wait()
        told = self._waiting.popleft()
        self._events -= len(told.batch.events)
        self._bytes -= told.bytes
        return told


class _Audience:
    """All watchers of one prefix in the same calm, and what has been gathered for them."""

    __slots__ = ("bytes", "calm_ms", "events", "members", "prefix", "timer")

    def __init__(self, prefix: str, calm_ms: int) -> None:
        self.prefix = prefix
        self.calm_ms = calm_ms
        self.members: set[Watcher] = set()
        self.events: list[Event] = []
        self.bytes = 0
        self.timer: asyncio.TimerHandle | None = None


class Watchers:
    """Those of one store."""

    def __init__(self, generation: Generation, tally: Tally | None = None) -> None:
        self._generation = generation
        self._tally = tally or Tally()
        self._audiences: dict[tuple[str, int], _Audience] = {}

    def __len__(self) -> int:
        return sum(len(audience.members) for audience in self._audiences.values())

    def add(self, watcher: Watcher, history: Batch) -> None:
        """From now on it is told; `history`: what it has to know before."""
        watcher.begin(history)
        key = (watcher.prefix, watcher.calm_ms)
        self._audiences.setdefault(key, _Audience(*key)).members.add(watcher)

    def remove(self, watcher: Watcher) -> None:
        """It is told no more. Idempotent."""
        key = (watcher.prefix, watcher.calm_ms)
        audience = self._audiences.get(key)
        if audience is not None:
            audience.members.discard(watcher)
            if not audience.members:
                del self._audiences[key]
                if audience.timer is not None:
                    audience.timer.cancel()

    def cut_off_all(self) -> None:
        """What happened is not known: all have to read everything again."""
        for audience in tuple(self._audiences.values()):
            for watcher in tuple(audience.members):
                watcher.cut()
                self.remove(watcher)

    def tell(self, events: tuple[Event, ...]) -> None:
        """Tell what happened: events of one revision."""
        for audience in tuple(self._audiences.values()):
            mine = [event for event in events if event.record.key.startswith(audience.prefix)]
            if not mine:
                continue
            audience.events += mine
            audience.bytes += sum(record_bytes(event.record) for event in mine)
            if not audience.calm_ms or audience.bytes > BATCH_BYTES_MAX // 2:
                self._release(audience)
            elif audience.timer is None:
                audience.timer = asyncio.get_running_loop().call_later(audience.calm_ms / 1000, self._release, audience)

    def _release(self, audience: _Audience) -> None:
        if audience.timer is not None:
            audience.timer.cancel()
            audience.timer = None
        events = audience.events if not audience.calm_ms else list(latest(audience.events))
        size = audience.bytes if len(events) == len(audience.events) else -1
        revision = Revision(self._generation, audience.events[-1].number)
        audience.events, audience.bytes = [], 0
        told = Told(Batch(revision, tuple(events)), size)
        for watcher in tuple(audience.members):
            watcher.tell(told)
        count = len(audience.members)
        self._tally.told(part(audience.prefix), count, count * told.bytes, count * len(told.batch.events))


def latest(events: list[Event]) -> Iterator[Event]:
    """Return the last event of each key, in order."""
    last = {event.record.key: at for at, event in enumerate(events)}
    return (event for at, event in enumerate(events) if last[event.record.key] == at)
