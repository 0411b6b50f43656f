"""Mirror and events: what nobody can decode harms nobody."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.pairs import bounded, until
from unios.core.nodes import Alive, NodeRecord
from unios.core.processes import ProcessRecord
from unios.kernel.events import Events
from unios.kernel.ports import PortRecord
from unios.store.mirror import Mirror
from unios.store.model import Batch, Event, RangeResult, Record, Revision, Store
from unios.wire.operations import EventView

packed = msgspec.msgpack.encode
DEEP = b"\x91" * 100_000
GARBAGE = [b"", b"\xc1", packed({"at_ms": 1, "node": "n2", "kind": "k", "text": "."}).replace(b"\xa1k", b"\xa1\xff"), DEEP]


class Scripted:
    """A store with the records of `now`, and then the events that a test puts."""

    def __init__(self, now: dict[str, bytes]) -> None:
        self._records = tuple(Record(key, value, 1, 1, 1) for key, value in now.items())
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()
        self._number = 1
        self.calms: list[object] = []
        """The calm of each watch that there was, the last one the present one."""
        self.afters: list[object] = []

    async def range(self, *_args: object, **_options: object) -> tuple[RangeResult, Revision]:
        return RangeResult(self._records), Revision("g", 1)  # type: ignore[arg-type]

    transact = None

    def put(self, key: str, value: bytes) -> None:
        self._number += 1
        event = Event("put", self._number, Record(key, value, 1, self._number, 1))
        self.batches.put_nowait(Batch(Revision("g", self._number), (event,)))  # type: ignore[arg-type]

    async def watch(self, _prefix: str, **options: object) -> AsyncIterator[Batch]:
        self.calms.append(options.get("calm_ms"))
        self.afters.append(options.get("after"))
        while True:
            yield await self.batches.get()


@contextlib.asynccontextmanager
async def mirrored(store: Scripted, type_: type, **options: Any) -> AsyncIterator[tuple[Mirror[object], list[tuple[str, object, object]]]]:
    changes: list[tuple[str, object, object]] = []
    mirror: Mirror[object] = Mirror(store, "/", type_, lambda *change: changes.append(change), **options)  # type: ignore[arg-type]
    task = asyncio.create_task(mirror.run())
    try:
        await mirror.wait_complete()
        yield mirror, changes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("garbage", GARBAGE, ids=["empty", "no value", "no text", "deep"])
def test_a_value_that_nobody_can_decode_is_left_out_and_so_is_what_was_there(garbage: bytes) -> None:
    good = EventView(1, "n1", "k", ".")

    async def work() -> None:
        store = Scripted({"/bad": garbage, "/a": packed(good), "/b": packed(good)})
        async with mirrored(store, EventView) as (mirror, changes):
            assert mirror.values == {"/a": good, "/b": good}
            changes.clear()
            store.put("/a", garbage)
            store.put("/bad", packed(good))
            await until(lambda: "/bad" in mirror.values)
            assert mirror.values == {"/b": good, "/bad": good}
            assert changes == [("/a", good, None), ("/bad", None, good)]

    bounded(work)


@pytest.mark.parametrize("garbage", GARBAGE, ids=["empty", "no value", "no text", "deep"])
def test_an_event_that_nobody_can_decode_is_passed_over(garbage: bytes) -> None:
    good = EventView(1, "n1", "k", ".")

    async def work() -> None:
        store = Scripted({"/events/1": garbage, "/events/2": packed(good)})
        events = Events(as_store(store), "n1", lambda: 1)
        past, after = await events.past(0)
        assert past == [good]
        store.put("/events/3", garbage)
        store.put("/events/4", packed(good))
        assert await anext(events.follow(after)) == good

    bounded(work)


def as_store(store: Scripted) -> Store:
    return store  # type: ignore[return-value]


valid = st.one_of(
    st.builds(EventView, st.integers(0, 2**60), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8)),
    st.builds(NodeRecord, st.text(max_size=8), st.text(max_size=8), st.integers(0, 9)),
    st.builds(ProcessRecord, st.integers(0, 400), st.integers(0, 9), st.just("running"), st.text(max_size=8)),
    st.builds(PortRecord, st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.integers(0, 0o777)),
    st.builds(Alive, st.integers(0, 9)),
).map(packed)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(valid))
    data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return bytes(data[: len(data) - draw(st.integers(0, 3))])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(damaged() | st.binary(max_size=40) | valid, min_size=1, max_size=8),
    st.sampled_from([EventView, NodeRecord, ProcessRecord, PortRecord, Alive]),
)
def test_whatever_is_in_the_store_mirrors_and_events_go_on(values: list[bytes], type_: type) -> None:
    async def work() -> None:
        store = Scripted({f"/{number}": value for number, value in enumerate(values)})
        past, _after = await Events(as_store(store), "n1", lambda: 1).past(0)
        assert all(isinstance(view, EventView) for view in past)
        async with mirrored(store, type_) as (mirror, _changes):
            for value in values:
                store.put("/0", value)
            await until(lambda: mirror.revision is not None and mirror.revision.number == 1 + len(values))
            assert all(isinstance(value, type_) for value in mirror.values.values())

    bounded(work)


NEWS = EventView(1, "n1", "k", ".")


def test_who_waits_for_a_key_is_asked_about_that_key_alone_and_told_what_it_became() -> None:
    async def work() -> None:
        store = Scripted({"/a": packed(NEWS)})
        async with mirrored(store, EventView) as (mirror, _changes):
            assert await mirror.wait_for("/a", lambda value: value is not None) == NEWS  # as it is already
            asked: list[object] = []
            gone = asyncio.create_task(mirror.wait_for("/b", lambda value: bool(asked.append(value)) or value is not None))
            never = asyncio.create_task(mirror.wait_for("/c", lambda value: value is not None))
            await until(lambda: len(asked) == 1)
            store.put("/a", packed(NEWS))
            store.put("/b", packed(NEWS))
            assert await gone == NEWS and asked == [None, NEWS]
            never.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await never
            assert not mirror._waits

    bounded(work)


def test_a_mirror_hurries_while_somebody_waits_and_misses_nothing_when_its_pace_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unios.store.mirror.HURRY_S", 0.001)

    async def work() -> None:
        store = Scripted({})
        async with mirrored(store, EventView, calm_ms=50, hurries=True) as (mirror, _changes):
            await until(lambda: store.calms == [50])
            waits = [asyncio.create_task(mirror.wait_for(key, lambda value: value is not None)) for key in ("/a", "/b")]
            await until(lambda: store.calms == [50, 0])
            store.put("/a", packed(NEWS))
            await waits[0]
            assert store.calms == [50, 0] and mirror._calming is None  # somebody waits still
            store.put("/b", packed(NEWS))
            await waits[1]
            await until(lambda: store.calms == [50, 0, 50])
            assert store.afters[-1] == mirror.revision == Revision("g", 3)  # type: ignore[arg-type]
            mirror.set_calm(20)
            await until(lambda: store.calms[-1] == 20)

    bounded(work)


def test_a_mirror_without_hurry_keeps_its_calm() -> None:
    async def work() -> None:
        store = Scripted({})
        async with mirrored(store, EventView, calm_ms=50) as (mirror, _changes):
            wait = asyncio.create_task(mirror.wait_for("/a", lambda value: value is not None))
            await until(lambda: bool(mirror._waits))
            store.put("/a", packed(NEWS))
            await wait
            assert store.calms == [50]

    bounded(work)
