"""A store's host that is frozen: what was under way is done, no lease ends, and nothing of the pause counts."""

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from unios.errors import Elsewhere, NotFound, OutcomeUnknown, Unavailable
from unios.ids import Generation
from unios.store import client, everything, left, server, switch
from unios.store.client import StoreClient
from unios.store.host import StoreHost
from unios.store.model import Delete, Put, Transaction
from unios.store.sqlite import Grant, Job, Outcome, SqliteEngine
from unios.wire import chained
from unios.wire.peer import Peer


class SlowEngine(SqliteEngine):
    """Begins no batch before `go` is set."""

    go: threading.Event

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        self.go.wait(10)
        return super().run(jobs)


def test_freezing_waits_for_what_is_under_way_and_leases_do_not_end_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        engine, now = SlowEngine(tmp_path / "store.db", Generation("one")), [1_000]
        engine.go = threading.Event()
        engine.go.set()
        host = StoreHost(engine, lambda: now[0])
        running = asyncio.create_task(host.run())
        lease = await host.do(Grant(1_000))
        assert isinstance(lease, int)
        engine.go.clear()
        written = asyncio.create_task(host.do(Transaction(then=(Put("/k", b"", lease),))))
        await asyncio.sleep(0)
        frozen = asyncio.create_task(host.freeze())
        for _turn in range(20):
            await asyncio.sleep(0.002)
        assert not frozen.done()
        engine.go.set()
        await frozen
        assert written.done() or await written
        found = everything.read(host.path)
        assert [record.key for record in found.records] == ["/k"] and found.leases == {lease: 1_000} and found.number == engine.number
        now[0] += 400
        assert host.renew(lease) == 1_000
        now[0] += 1_100
        await asyncio.sleep(0.4)  # the judge would have looked
        assert host.renew(lease) == 1_000
        now[0] += 10_000
        host.thaw()
        assert host.renew(lease) == 1_000
        running.cancel()
        await asyncio.wait([running])
        host.close()

    asyncio.run(main())


def test_a_file_that_was_left_says_where_the_records_are_and_no_version_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    assert not left.left_for(path)
    engine = SqliteEngine(path, Generation("one"))
    engine.run([Grant(1_000)])
    assert not left.left_for(path)
    engine.leave("etcd")
    assert left.left_for(path) == "etcd"  # beside an engine that has not been closed: as after a kill
    engine.close()
    assert left.left_for(path) == "etcd"
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() != (1,), "older versions look at this alone"
    with pytest.raises(Unavailable, match="was left: the records of the system are in etcd now"):
        SqliteEngine(path, Generation("two"))


def test_what_is_given_up_answers_what_was_under_way_and_then_sends_everybody_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *given: ended.append(given))
    monkeypatch.setattr(switch, "GIVE_UP_S", 0)
    given_up: list[str] = []

    async def main() -> None:
        stop = asyncio.Event()
        folders = tmp_path / "a", tmp_path / "b"
        for folder in folders:
            folder.mkdir()
        serving = [asyncio.create_task(server.serve(folder, lambda: None, stop)) for folder in folders]
        while not all((folder / "sock").exists() for folder in folders):
            await asyncio.sleep(0.005)

        async def connect() -> Peer:
            return await client.at(folders[bool(given_up)])()

        store, straight = StoreClient(connect), StoreClient(client.at(folders[0]))
        lease = await store.lease_grant(20_000)
        await asyncio.gather(*(store.put(f"/{number}", b"") for number in range(20)), straight.give_up())
        given_up.append("")
        await asyncio.gather(*(store.put("/there", b"%d" % number) for number in range(20)))
        with pytest.raises(NotFound):  # it asks the other one, which has no such lease
            await store.lease_renew(lease)
        assert (await store.range("/there"))[0].records[0].version == 20
        for asked in (straight.put("/k", b""), straight.lease_renew(lease)):
            with pytest.raises(Elsewhere):
                await asked
        await store.close()
        await straight.close()
        stop.set()
        await asyncio.gather(*serving)

    chained.run(main())
    assert ended == [(os.getpid(), signal.SIGTERM)]


def test_a_restore_whose_connection_breaks_between_its_parts_restores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESTORE_PART", 10)

    async def main() -> None:
        stop = asyncio.Event()
        serving = asyncio.create_task(server.serve(tmp_path, lambda: None, stop))
        while not (tmp_path / "sock").exists():
            await asyncio.sleep(0.005)
        store, other = StoreClient(client.at(tmp_path)), StoreClient(client.at(tmp_path))

        class Operations(list[Put | Delete]):
            def __iter__(self) -> Iterator[Put | Delete]:
                for number in range(25):
                    if number == 15:
                        assert store._peer is not None
                        store._peer.close("it breaks")
                    yield Put(f"/{number}", b"")

        with pytest.raises((Unavailable, OutcomeUnknown)):
            await store.restore(Operations())
        assert not (await other.range("/", prefix=True))[0].records
        await store.close()
        await other.close()
        stop.set()
        await serving

    chained.run(main())
