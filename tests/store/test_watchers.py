"""Watchers: each is told each event once, whoever else watches; what is gathered tells the last of a key; who reads costs nothing, who does not is bounded."""

import asyncio
import random

import msgspec
import pytest

from tests.wire.pairs import bounded, until
from unios.ids import Generation
from unios.store import watchers
from unios.store.model import Batch, Event, Record, Revision
from unios.store.watchers import Told, Watcher, Watchers, latest

GENERATION = Generation("g")


def event(number: int, key: str, value: bytes = b"") -> Event:
    return Event("put", number, Record(key, value, number, number, 1))


def history(*events: Event, number: int = 0) -> Batch:
    return Batch(Revision(GENERATION, number), events)


class Reader:
    """A watcher's other end, which takes what it is told while it has room."""

    def __init__(self, prefix: str, calm_ms: int = 0) -> None:
        self.room = True
        self.pushed: list[Event] = []
        self.raws: list[msgspec.Raw] = []
        self.watcher = Watcher(prefix, calm_ms, self.push)
        self.queued: list[Event] = []
        self.task = asyncio.get_running_loop().create_task(self.read())

    def push(self, raw: msgspec.Raw) -> bool:
        if self.room:
            self.raws.append(raw)
            self.pushed += msgspec.msgpack.decode(raw, type=Batch).events
        return self.room

    async def read(self) -> None:
        while True:
            told = await self.watcher.next()
            await until(lambda: self.room)
            self.pushed += told.batch.events
            self.queued += told.batch.events

    @property
    def seen(self) -> list[tuple[int, str]]:
        return [(event.number, event.record.key) for event in self.pushed]


def test_all_who_watch_a_prefix_are_told_one_encoded_batch_and_without_their_tasks() -> None:
    async def work() -> None:
        told, readers = Watchers(GENERATION), [Reader("/a/") for _ in range(3)]
        other = Reader("/b/")
        for reader in (*readers, other):
            told.add(reader.watcher, history())
        await until(lambda: all(reader.watcher._keeps_up for reader in (*readers, other)))
        told.tell((event(1, "/a/x"), event(1, "/b/x")))
        assert all(reader.seen == [(1, "/a/x")] for reader in readers) and other.seen == [(1, "/b/x")]
        assert readers[0].raws[0] is readers[1].raws[0] is readers[2].raws[0]
        assert not any(reader.queued for reader in readers)

    bounded(work)


def test_who_has_no_room_is_told_later_in_order_and_then_at_once_again() -> None:
    async def work() -> None:
        told, reader = Watchers(GENERATION), Reader("/a/")
        told.add(reader.watcher, history())
        await until(lambda: reader.watcher._keeps_up)
        reader.room = False
        for number in (1, 2, 3):
            told.tell((event(number, "/a/x"),))
        assert reader.seen == []
        reader.room = True
        told.tell((event(4, "/a/x"),))  # not before those that wait
        await until(lambda: len(reader.seen) == 4)
        await until(lambda: reader.watcher._keeps_up)
        told.tell((event(5, "/a/x"),))
        assert [number for number, _key in reader.seen] == [1, 2, 3, 4, 5] and len(reader.queued) == 4

    bounded(work)


def test_in_calm_the_last_of_each_key_is_told_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        told, calm, quick = Watchers(GENERATION), Reader("/", 20), Reader("/")
        for reader in (calm, quick):
            told.add(reader.watcher, history())
        for number, key in enumerate(("/a", "/b", "/a", "/c", "/a"), 1):
            told.tell((event(number, key),))
        assert calm.seen == []
        await until(lambda: bool(calm.seen))
        assert calm.seen == [(2, "/b"), (4, "/c"), (5, "/a")]
        await until(lambda: len(quick.seen) == 5)
        monkeypatch.setattr(watchers, "BATCH_BYTES_MAX", 2_000)
        told.tell((event(6, "/a", bytes(3_000)),))  # what is too much to be gathered is told at once
        assert not next(iter(told._audiences.values())).events

    bounded(work)


def test_latest_keeps_the_order_of_what_is_left() -> None:
    events = [event(1, "/a"), event(1, "/b"), event(2, "/a")]
    assert list(latest(events)) == events[1:]


@pytest.mark.parametrize("seed", range(40))
def test_whenever_one_comes_he_is_told_each_event_after_his_history_and_none_twice(seed: int) -> None:
    """They come and go while events are gathered for others of the same audience."""

    async def work() -> None:
        rng = random.Random(seed)
        told, all_events, came = Watchers(GENERATION), list[Event](), list[tuple[Reader, int]]()
        number = 0
        for _step in range(60):
            roll = rng.random()
            if roll < 0.6:
                number += 1
                events = tuple(event(number, f"/{rng.choice('ab')}/{number}") for _ in range(1))
                all_events += events
                told.tell(events)
            elif roll < 0.8 or not came:
                reader = Reader(rng.choice(("/a/", "/b/", "/")), rng.choice((0, 1, 5)))
                since = rng.randrange(number + 1)
                past = [one for one in all_events if one.number > since and one.record.key.startswith(reader.watcher.prefix)]
                told.add(reader.watcher, history(*past, number=number))
                came.append((reader, since))
            elif roll < 0.9:
                reader, _since = rng.choice(came)
                reader.room = not reader.room
            else:
                await asyncio.sleep(rng.choice((0, 0.002)))
        for reader, since in came:
            reader.room = True
            wanted = [(one.number, one.record.key) for one in all_events if one.number > since and one.record.key.startswith(reader.watcher.prefix)]
            await until(lambda reader=reader, wanted=wanted: len(reader.seen) >= len(wanted))  # type: ignore[misc]
            assert reader.seen == wanted
        await asyncio.sleep(0.01)
        for reader, since in came:
            assert len(reader.seen) == len(set(reader.seen)), since
            told.remove(reader.watcher)
            reader.task.cancel()
        assert len(told) == 0 and not told._audiences

    bounded(work)


def test_a_batch_over_the_size_of_a_message_is_cut_for_whoever_is_told_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "BATCH_BYTES_MAX", 1_000)
    batch = history(*(event(number, "/a", bytes(400)) for number in range(1, 6)), number=5)
    found = [msgspec.msgpack.decode(raw, type=Batch) for raw in Told(batch).messages()]
    assert len(found) > 1 and tuple(one for part in found for one in part.events) == batch.events
