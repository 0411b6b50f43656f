"""A store's file that is not what was written: whoever asks is told that it is damaged and what to do, and nothing serves it."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from unios.errors import DataLost, Unavailable
from unios.ids import Generation
from unios.kernel import storehost
from unios.store import server
from unios.store.model import Put, Range, Transaction
from unios.store.sqlite import SqliteEngine

KEYS = 2000


def written(path: Path) -> None:
    engine = SqliteEngine(path, Generation("g"))
    for start in range(0, KEYS, 100):
        engine.run([Transaction(then=tuple(Put(f"/k/{number:06}", bytes(500)) for number in range(start, start + 100)))])
    engine.close()


def overwritten(path: Path, begin: float, end: float) -> None:
    """Overwrite a part of the file, which begins and ends at these shares of it."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * begin))
        file.write(b"\xa5" * int(size * (end - begin)))


def damaged_where_only_readers_look(path: Path) -> None:
    """Overwrite a page that a store does not need in order to begin."""
    written(path)
    whole = path.read_bytes()
    for at in range(4096, len(whole), 4096):
        path.write_bytes(whole[:at] + bytes([0xA5]) * 4096 + whole[at + 4096 :])
        try:
            SqliteEngine(path, Generation("g")).close()
        except DataLost:
            continue
        return
    raise AssertionError("it reads all when it begins")


@pytest.mark.parametrize(("begin", "end"), [(0, 0.5), (0.25, 0.75), (0.5, 1), (0, 1)])
def test_who_reads_what_is_damaged_is_told_and_what_to_do(tmp_path: Path, begin: float, end: float) -> None:
    path = tmp_path / "store.db"
    written(path)
    overwritten(path, begin, end)
    with pytest.raises(DataLost, match=r"store\.db on .* is damaged .*unios store restore FILE"):
        SqliteEngine(path, Generation("g")).run([Transaction(then=(Range("/k/", prefix=True),))])


def test_a_file_is_looked_at_whole_when_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    written(path)
    SqliteEngine(path, Generation("g"), check=True).close()
    path.unlink()
    damaged_where_only_readers_look(path)
    with pytest.raises(DataLost, match="is damaged"):
        SqliteEngine(path, Generation("g"), check=True)


def test_a_store_that_has_failed_is_looked_at_whole_before_it_serves_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bool] = []

    def main(_folder: Path, _beat: object, *, durable: bool, check: bool, mover: object) -> int:
        assert durable
        checked.append(check)
        if len(checked) == 1:
            raise DataLost("store.db is damaged")
        return 0

    monkeypatch.setattr(server, "main", main)
    monkeypatch.setattr(storehost, "which", lambda _home: None)
    monkeypatch.setattr(storehost, "check", lambda _home: None)
    monkeypatch.setattr(storehost.parts, "home_of", lambda _folder: tmp_path)
    (tmp_path / "store").mkdir()
    folder = storehost.NodeFolder(tmp_path / "nodes" / "n1")
    assert storehost.main(folder, lambda: None) == DataLost.exit_code
    assert (tmp_path / "store" / "failed").read_text() == "store.db is damaged"
    assert storehost.main(folder, lambda: None) == 0
    assert checked == [False, True] and not (tmp_path / "store" / "failed").exists()


def test_a_store_whose_file_is_found_to_be_damaged_ends(tmp_path: Path) -> None:
    damaged_where_only_readers_look(tmp_path / "store.db")

    async def work() -> None:
        engine = SqliteEngine(tmp_path / "store.db", Generation("g"))
        host = server.StoreHost(engine, lambda: 0)
        running = asyncio.create_task(host.run())
        host.submit(Transaction(then=(Range("/k/", prefix=True),)), lambda _result: None)
        with pytest.raises(DataLost):
            await asyncio.wait_for(running, 10)
        host.close()

    asyncio.run(work())


def test_a_file_of_another_format_is_refused_and_nothing_is_made_in_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    written(path)
    with sqlite3.connect(path) as base:
        base.execute("UPDATE meta SET value = 2 WHERE name = 'format'")
        base.execute("DROP TABLE leases")
    base.close()
    with pytest.raises(Unavailable, match="has format 2, this unios reads 1: use the version that wrote it"):
        SqliteEngine(path, Generation("g"))
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT name FROM sqlite_master WHERE name = 'leases'").fetchall() == [], "a newer one may have none"
    base.close()
