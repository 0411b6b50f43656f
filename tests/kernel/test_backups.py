"""Backup files: whole or not there, of their owner alone, and refused if a byte is another or missing."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from unios.errors import CallerError, DiskFull, Unavailable
from unios.ids import Generation
from unios.kernel import backups
from unios.kernel.backups import Header
from unios.store.model import Record, Revision
from unios.store.requests import Dumped

MADE = Header("s", "sqlite", "1", 7, "", 0)
REVISION = Revision(Generation("g"), 12)


async def pages(*, fails: bool = False) -> AsyncIterator[Dumped]:
    yield Dumped(REVISION, (Record("/a", b"1", 1, 1, 1), Record("/leased", b"", 1, 1, 1, 5)))
    if fails:
        raise Unavailable("the store went away")
    yield Dumped(REVISION, (Record("/b", b"2" * 1_000, 1, 1, 1),))


def written(path: Path) -> Path:
    asyncio.run(backups.write(path, pages(), MADE))
    return path


def test_what_is_written_is_read_but_for_what_hangs_on_a_lease(tmp_path: Path) -> None:
    path = written(tmp_path / "b")
    header, records = backups.read(path)
    assert records == {"/a": b"1", "/b": b"2" * 1_000} and (header.generation, header.number, header.system) == ("g", 12, "s")
    assert path.stat().st_mode & 0o777 == 0o600 and os.listdir(tmp_path) == ["b"]
    written(path)  # over an older one


def test_one_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = written(tmp_path / "b")
    before = path.read_bytes()
    with pytest.raises(Unavailable):
        asyncio.run(backups.write(path, pages(fails=True), MADE))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["b"]


def test_a_byte_that_is_another_or_missing_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "b")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        with pytest.raises(CallerError):
            backups.read(path)
        path.write_bytes(whole[:at])
        with pytest.raises(CallerError):
            backups.read(path)


def test_what_is_in_the_way_is_said(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="cannot be written: No such file or directory"):
        written(tmp_path / "no" / "b")
    with pytest.raises(CallerError, match="cannot be read: No such file"):
        backups.read(tmp_path / "no")
    if Path("/dev/full").exists():
        with pytest.raises(DiskFull):
            raise backups._told(OSError(28, "No space left on device"), tmp_path, "written")
