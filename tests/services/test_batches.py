"""Batches: what is told of a process that is altered while others alter it too. On a real store; what happens between its steps a test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.store.engines import on_sqlite
from unios.core import claims
from unios.core.processes import ProcessRecord, ProcessSpec, process_key
from unios.errors import CallerError, Denied, NotFound, OutcomeUnknown
from unios.services.batches import Batches, Pids
from unios.store.mirror import Mirror
from unios.store.model import Batch, Put, Store, Transaction
from unios.wire.operations import Accepted

ANN = Accepted(1, "placement", "ann", False, "n1")
BOB = Accepted(2, "placement", "bob", False, "n1")
ROOT = Accepted(3, "placement", "root", True, "n1")


class Between:
    """A store in which `happens` is done once, before the n-th transaction. Counts the records that it reads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.happens: dict[int, Callable[[], Awaitable[object]]] = {}
        self._count = 0
        self.records = 0

    async def range(self, *args: Any, **kwargs: Any) -> Any:
        result, revision = await self._store.range(*args, **kwargs)
        self.records += len(result.records)
        return result, revision

    async def watch(self, *args: Any, **kwargs: Any) -> AsyncIterator[Batch]:
        async for batch in self._store.watch(*args, **kwargs):
            self.records += len(batch.events)
            yield batch

    async def transact(self, transaction: Transaction) -> Any:
        self._count += 1
        if self._count in self.happens:
            await self.happens.pop(self._count)()
        return await self._store.transact(transaction)


class Desk:
    def __init__(self, store: Store) -> None:
        self.store, self.between = store, Between(store)
        self.mirror = Mirror(cast(Store, self.between), "/processes/", ProcessRecord)
        self.following = asyncio.create_task(self.mirror.run())
        view = cast(Any, SimpleNamespace(store=self.between, processes=self.mirror))
        self.batches = Batches(view, cast(Any, None), Pids(view))

    async def stop_following(self) -> None:
        """Let the mirror stay as it is."""
        await self.mirror.wait_complete()
        self.following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.following

    async def put(self, record: ProcessRecord) -> None:
        await self.store.transact(Transaction((), (Put(process_key(record.pid), msgspec.msgpack.encode(record)),)))

    async def get(self, pid: int) -> ProcessRecord:
        found = (await self.store.range(process_key(pid)))[0].records[0].value
        return msgspec.msgpack.decode(found, type=ProcessRecord)

    async def wait_in_line(self, *pids: int, user: str = "ann", array: int = 0) -> None:
        for pid in pids:
            record = claims.submitted(pid, ProcessSpec(argv=(b"x",), user=user), user, "", "waits", 1)
            await self.put(msgspec.structs.replace(record, queueing=msgspec.structs.replace(record.queueing, array=array)))

    async def start(self, pid: int) -> None:
        """It has its turn."""
        await self.put(msgspec.structs.replace(await self.get(pid), node="n1", state="running"))


def at_the_desk(folder: Path, work: Callable[[Desk], Awaitable[None]]) -> None:
    async def served(store: Store) -> None:
        desk = Desk(store)
        try:
            await work(desk)
        finally:
            await desk.stop_following()

    on_sqlite(folder, served)


@pytest.mark.parametrize("how", ["cancel", "hold", "release"])
def test_whoever_alters_what_has_just_begun_is_told_that_it_did_not_wait_any_more(tmp_path: Path, how: str) -> None:
    async def work(desk: Desk) -> None:
        await desk.wait_in_line(400)
        if how == "release":
            await desk.batches.alter(ANN, 400, "hold")
        count = desk.between._count
        desk.between.happens[count + 1] = lambda: desk.start(400)
        with pytest.raises(CallerError, match="process 400 does not wait: it is running on n1" + ("; `unios kill 400` ends it" * (how == "cancel"))):
            await desk.batches.alter(ANN, 400, how)
        assert (await desk.get(400)).state == "running"

    at_the_desk(tmp_path, work)


def test_of_an_array_those_that_have_begun_meanwhile_are_left_out(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.wait_in_line(400, 401, 402, array=400)
        desk.between.happens[1] = lambda: desk.start(401)
        await desk.batches.alter(ANN, 400, "cancel")
        assert [(await desk.get(pid)).state for pid in (400, 401, 402)] == ["exited", "running", "exited"]

    at_the_desk(tmp_path, work)


def test_of_an_array_no_other_records_are_asked_for_and_what_came_last_is_among_them(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.wait_in_line(*range(300, 400))
        await desk.wait_in_line(400, 401, array=400)
        await desk.stop_following()
        await desk.wait_in_line(402, array=400)
        assert process_key(402) not in desk.mirror.values
        before = desk.between.records
        await desk.batches.alter(ANN, 400, "cancel")
        assert [(await desk.get(pid)).state for pid in (300, 400, 401, 402)] == ["pending", "exited", "exited", "exited"]
        assert desk.between.records - before < 20

    at_the_desk(tmp_path, work)


def test_one_that_is_cancelled_already_is_cancelled_and_one_that_has_ended_otherwise_is_not(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.wait_in_line(400, 401)
        await desk.batches.alter(ANN, 400, "cancel")
        ended = await desk.get(400)
        assert (ended.exit_code, ended.wanted) == (143, "stopped") and "cancelled by ann" in ended.reason
        await desk.batches.alter(ANN, 400, "cancel")
        assert await desk.get(400) == ended
        with pytest.raises(CallerError, match="does not wait: it has ended"):
            await desk.batches.alter(ANN, 400, "hold")
        await desk.start(401)
        await desk.put(claims.ended(await desk.get(401), 143, None, "its program ended", 1))
        with pytest.raises(CallerError, match="does not wait: it has ended on n1"):
            await desk.batches.alter(ANN, 401, "cancel")

    at_the_desk(tmp_path, work)


def test_two_who_cancel_at_a_time_are_told_the_same(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.wait_in_line(400)
        other = Desk(desk.store)
        await other.stop_following()
        desk.between.happens[1] = lambda: other.batches.alter(ROOT, 400, "cancel")
        await desk.batches.alter(ANN, 400, "cancel")
        assert "cancelled by root" in (await desk.get(400)).reason

    at_the_desk(tmp_path, work)


def test_a_record_that_is_written_meanwhile_keeps_what_was_written(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await desk.wait_in_line(400)

        async def renice() -> None:
            await desk.put(claims.reniced(await desk.get(400), 7))

        desk.between.happens[1] = renice
        await desk.batches.alter(ANN, 400, "hold")
        seen = await desk.get(400)
        assert seen.nice == 7 and seen.queueing.held

        desk.between.happens = dict.fromkeys(range(100), renice)
        for number in range(100):
            desk.between.happens[number] = lambda number=number: desk.put(claims.reniced(seen, number))  # type: ignore[misc]
        with pytest.raises(OutcomeUnknown, match="keeps changing"):
            await desk.batches.alter(ANN, 400, "release")

    at_the_desk(tmp_path, work)


@pytest.mark.parametrize("array", [0, 400])
def test_what_is_anothers_is_left_alone(tmp_path: Path, array: int) -> None:
    async def work(desk: Desk) -> None:
        await desk.wait_in_line(400, 401, array=array)
        await desk.wait_in_line(402, user="bob", array=array)  # who says that it is an element of hers
        with pytest.raises(Denied, match="process 400 belongs to ann"):
            await desk.batches.alter(BOB, 400, "cancel")
        await desk.batches.alter(ANN, 400, "cancel")
        assert (await desk.get(402)).state == "pending"
        assert (await desk.get(401)).state == ("exited" if array else "pending")
        with pytest.raises(NotFound, match="there is no process 999"):
            await desk.batches.alter(ANN, 999, "cancel")

    at_the_desk(tmp_path, work)
