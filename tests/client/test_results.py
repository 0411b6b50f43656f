"""Bringing results back: nothing that was changed here meanwhile is lost."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unios.client import blocks, results
from unios.client.carry import Folder, leads_outside
from unios.demands import Carry
from unios.errors import CallerError, DataLost, NotFound
from unios.wire import manifests
from unios.wire.carries import Results
from unios.wire.manifests import Entry

PID = 300


class Blocks:
    """Blocks of a system that are at hand: what the client would fetch. That it does is tested end to end."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    def put(self, data: bytes) -> bytes:
        self.kept[manifests.name_of(data)] = data
        return manifests.name_of(data)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> Entry:
        return Entry(path.encode(), "f", mode, 10**18, len(content), self.put(content) if content else b"")

    def manifest(self, *entries: Entry) -> bytes:
        return self.put(manifests.encode(entries))

    def fetch(self, _connection: Any, names: Any, *, user: str = "") -> Iterator[bytes]:
        for name in names:
            if name not in self.kept:
                raise DataLost("no node that is left has it")
            yield self.kept[name]


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> Blocks:
    found = Blocks()
    monkeypatch.setattr(blocks, "fetch", found.fetch)
    return found


Bring = Callable[[list[Entry], list[Entry]], results.Brought]


@pytest.fixture
def bring(at_hand: Blocks, tmp_path: Path) -> Bring:
    def bring(carried: list[Entry], result: list[Entry]) -> results.Brought:
        found = Results(Carry(at_hand.manifest(*carried)), "ann", "exited", at_hand.manifest(*result))
        return results.bring(None, PID, [Folder(b"", os.fsencode(tmp_path))], found)  # type: ignore[arg-type]

    return bring


def test_changed_and_new_files_come_back_with_modes_and_times(bring: Bring, at_hand: Blocks, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").chmod(0o644)
    folder = Entry(b"deep", "d", 0o755)
    link = Entry(b"l", "l", target=b"a")
    done = bring([at_hand.file("a", b"1")], [at_hand.file("a", b"2", 0o755), folder, at_hand.file("deep/b", b"3"), link])
    assert (tmp_path / "a").read_bytes() == b"2" and (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a").stat().st_mtime_ns == 10**18
    assert (tmp_path / "deep/b").read_bytes() == b"3" and os.readlink(tmp_path / "l") == "a"
    assert len(done.written) == 4 and not done.beside and sorted(os.listdir(tmp_path)) == ["a", "deep", "l"]


def edited_meanwhile(bring: Bring, at_hand: Blocks, tmp_path: Path) -> results.Brought:
    (tmp_path / "a").write_bytes(b"mine")
    return bring([at_hand.file("a", b"1")], [at_hand.file("a", b"2")])


def test_what_changed_here_meanwhile_is_kept_and_the_result_put_beside(bring: Bring, at_hand: Blocks, tmp_path: Path) -> None:
    done = edited_meanwhile(bring, at_hand, tmp_path)
    assert (tmp_path / "a").read_bytes() == b"mine" and (tmp_path / f"a.unios-{PID}").read_bytes() == b"2"
    assert done.beside == [(os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / f"a.unios-{PID}"))]
    edited_meanwhile(bring, at_hand, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", f"a.unios-{PID}"]


def test_without_the_verdict_it_would_be_overwritten(bring: Bring, at_hand: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: that the test above finds the file whole is due to the verdict."""
    monkeypatch.setattr(manifests, "verdict", lambda *_entries: "write")
    edited_meanwhile(bring, at_hand, tmp_path)
    assert (tmp_path / "a").read_bytes() == b"2"


def test_a_change_while_the_result_is_fetched_is_kept_too(bring: Bring, at_hand: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").chmod(0o644)
    fetch = at_hand.fetch

    def slow(connection: Any, names: Any, *, user: str = "") -> Iterator[bytes]:
        for block in fetch(connection, names):
            if block == b"2":
                (tmp_path / "a").write_bytes(b"in the last moment")
            yield block

    monkeypatch.setattr(blocks, "fetch", slow)
    bring([at_hand.file("a", b"1")], [at_hand.file("a", b"2")])
    assert (tmp_path / "a").read_bytes() == b"in the last moment" and (tmp_path / f"a.unios-{PID}").read_bytes() == b"2"


def test_a_new_file_in_the_place_of_one_that_is_here_is_put_beside(bring: Bring, at_hand: Blocks, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    bring([], [at_hand.file("a", b"2")])
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_link_here_in_the_place_of_a_folder_is_not_followed(bring: Bring, at_hand: Blocks, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    os.symlink(outside, tmp_path / "out")
    bring([], [Entry(b"out", "d", 0o755), Entry(b"out/in", "d", 0o755), at_hand.file("out/in/f", b"x")])
    assert not os.listdir(outside) and (tmp_path / f"out.unios-{PID}/in/f").read_bytes() == b"x"


def test_lost_content_is_named_and_leaves_the_file(bring: Bring, at_hand: Blocks, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").chmod(0o644)
    result = at_hand.file("a", b"2")
    del at_hand.kept[result.blocks]
    with pytest.raises(DataLost, match="a cannot be brought back"):
        bring([at_hand.file("a", b"1")], [result])
    assert (tmp_path / "a").read_bytes() == b"1" and os.listdir(tmp_path) == ["a"]


def test_a_manifest_that_leads_out_of_the_folder_writes_nothing(bring: Bring, at_hand: Blocks, tmp_path: Path) -> None:
    with pytest.raises(CallerError):
        bring([], [at_hand.file("../evil", b"x")])
    assert not (tmp_path.parent / "evil").exists()


def test_no_results_are_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no results"):
        results.bring(None, PID, [], Results(Carry(b"x" * 32), "ann", "exited"))  # type: ignore[arg-type]


def test_links_that_lead_out_are_seen() -> None:
    assert leads_outside(b"a/l", b"/etc") and leads_outside(b"l", b"../x") and leads_outside(b"a/l", b"x/../../../y")
    assert not leads_outside(b"a/l", b"../b") and not leads_outside(b"l", b"b/../c") and not leads_outside(b"a/b/l", b"../../c")
