"""A journal has what was appended, up to what was broken off; what could not be written whole is not there; and it goes on."""

import errno
import itertools
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from unios.core import log_frames
from unios.core.files.changes import PutEntry
from unios.core.files.entry import Entry, encode
from unios.services.files import journal as journal_of
from unios.services.files.journal import Journal, boot_id


def entry(at: int) -> Entry:
    return Entry(at, (PutEntry(1, b"name-%d" % at, at),))


def journal_with(folder: Path, count: int, *, first: int = 1) -> Journal:
    made = Journal.begin(folder, first - 1)
    for at in range(first, first + count):
        made.append(entry(at))
    return made


def again(of: Journal, at: int = 0) -> Journal:
    """As the next process finds it, for which the log has up to `at`."""
    of.close()
    found = Journal.find(of.folder.parent, of.token, at)
    assert found is not None
    return found


def numbers(of: Journal) -> list[int]:
    found = list(of.read())
    assert found == [entry(one.at) for one in found]
    return [one.at for one in found]


def files(of: Journal) -> list[Path]:
    return sorted(of.folder.iterdir())


@pytest.fixture
def short_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file has two entries."""
    monkeypatch.setattr(journal_of, "FILE_BYTES", len(frame(1)) + 1)


def frame(at: int, token: str = "") -> bytes:
    return log_frames.encode(zlib.crc32(token.encode()), 0, at, (encode(entry(at)),))


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    journal = again(journal_with(tmp_path, 5))
    assert numbers(journal) == [1, 2, 3, 4, 5] and journal.at == 5


def test_a_journal_may_begin_anywhere_and_has_nothing_at_first(tmp_path: Path) -> None:
    journal = again(journal_with(tmp_path, 0, first=100), 99)
    assert numbers(journal) == [] and journal.at == 99
    journal = again(journal_with(tmp_path, 3, first=100), 99)
    assert numbers(journal) == [100, 101, 102] and journal.at == 102


def test_entries_follow_each_other(tmp_path: Path) -> None:
    journal = journal_with(tmp_path, 2)
    for at in (2, 4, 1):
        with pytest.raises(ValueError, match="does not follow"):
            journal.append(entry(at))
    assert numbers(again(journal)) == [1, 2]


def test_a_tail_that_was_torn_off_anywhere_counts_for_nothing_and_it_goes_on(tmp_path: Path) -> None:
    journal = journal_with(tmp_path, 3)
    journal.close()
    (path,) = files(journal)
    whole = path.read_bytes()
    size = len(whole) // 3
    assert len(whole) == 3 * size
    for length in range(len(whole)):
        for other in files(journal)[1:]:
            other.unlink()
        path.write_bytes(whole[:length])
        before = list(range(1, length // size + 1))
        journal = again(journal)
        assert numbers(journal) == before
        journal.append(entry(len(before) + 1))
        assert numbers(again(journal)) == [*before, len(before) + 1], f"{length} bytes were there"


def test_a_byte_that_was_changed_ends_it_there_and_it_goes_on(tmp_path: Path) -> None:
    """What comes behind has lost what it stands on, and must not be in the way of what is appended."""
    journal = journal_with(tmp_path, 3)
    journal.close()
    (path,) = files(journal)
    whole = path.read_bytes()
    size = len(whole) // 3
    for position in range(len(whole)):
        for other in files(journal)[1:]:
            other.unlink()
        path.write_bytes(whole[:position] + bytes((whole[position] ^ 0x41,)) + whole[position + 1 :])
        before = list(range(1, position // size + 1))
        journal = again(journal)
        assert numbers(journal) == before
        journal.append(entry(len(before) + 1))
        assert numbers(again(journal)) == [*before, len(before) + 1], f"byte {position} was changed"


def test_what_is_behind_a_gap_is_not_read_and_not_in_the_way(tmp_path: Path, short_files: None) -> None:
    journal = journal_with(tmp_path, 9)
    paths = files(journal)
    assert len(paths) == 5
    paths[2].unlink()
    journal = again(journal)
    assert numbers(journal) == [1, 2, 3, 4] and files(journal) == paths[:2]
    journal.append(entry(5))
    assert numbers(again(journal)) == [1, 2, 3, 4, 5]


def test_files_turn_and_are_let_go_of_when_all_in_them_is_before(tmp_path: Path, short_files: None) -> None:
    journal = journal_with(tmp_path, 7)
    firsts = [int(path.name.removeprefix("journal-")) for path in files(journal)]
    assert firsts == [1, 3, 5, 7]
    left = {upto: [] for upto in range(9)}  # type: dict[int, list[int]]
    for upto in left:
        journal.trim(upto)
        left[upto] = [int(path.name.removeprefix("journal-")) for path in files(journal)]
    assert left == {0: [1, 3, 5, 7], 1: [1, 3, 5, 7], 2: [1, 3, 5, 7], 3: [3, 5, 7], 4: [3, 5, 7], 5: [5, 7], 6: [5, 7], 7: [7], 8: [7]}
    journal.append(entry(8))
    assert numbers(again(journal)) == [7, 8]


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path, short_files: None) -> None:
    journal = again(journal_with(tmp_path, 40, first=95), 94)
    assert numbers(journal) == list(range(95, 135))


def test_it_is_read_and_goes_on_again_and_again(tmp_path: Path, short_files: None) -> None:
    journal = journal_with(tmp_path, 1)
    for at in range(2, 12):
        journal = again(journal)
        assert numbers(journal) == list(range(1, at))
        journal.append(entry(at))
    assert numbers(again(journal)) == list(range(1, 12))


def test_the_log_may_have_more_than_the_journal(tmp_path: Path) -> None:
    """Entries that only the log has something of are the last: what follows has numbers of its own."""
    journal = again(journal_with(tmp_path, 2), 5)
    assert numbers(journal) == [1, 2] and journal.at == 5
    with pytest.raises(ValueError, match="does not follow"):
        journal.append(entry(3))


def test_the_journal_of_another_life_of_linux_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_with(tmp_path, 2)
    assert Journal.find(tmp_path, journal.token, 0) is not None
    monkeypatch.setattr(journal_of, "boot_id", lambda: "another")
    assert Journal.find(tmp_path, journal.token, 0) is None


def test_a_token_that_is_no_name_of_a_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / f"{boot_id()}.x").mkdir()
    (tmp_path / "files" / f"{boot_id()}.y").mkdir()
    (tmp_path / "files" / f"{boot_id()}.file").touch()
    assert Journal.find(tmp_path / "files", f"{boot_id()}.y", 0) is not None
    for token in ("", "..", f"{boot_id()}.x", f"{boot_id()}.y/../../{boot_id()}.x", f"../{boot_id()}.x", f"{boot_id()}.y/", f"{boot_id()}.file"):
        assert Journal.find(tmp_path / "files", token, 0) is None, token


def test_the_entries_of_another_token_are_not_this_ones(tmp_path: Path) -> None:
    """A file that was copied, or is left of another, is none of it."""
    one, other = journal_with(tmp_path, 3), journal_with(tmp_path, 0)
    (other.folder / files(one)[0].name).write_bytes(files(one)[0].read_bytes())
    assert numbers(again(other)) == []


class Disk:
    """os.write of a disk on which there is room for so many bytes more."""

    def __init__(self, room: int) -> None:
        self.room, self.write = room, os.write

    def __call__(self, descriptor: int, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.write(descriptor, memoryview(data)[: self.room])
        self.room -= count
        return count


def test_an_entry_for_which_there_is_no_room_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_with(tmp_path, 2)
    (path,) = files(journal)
    before = path.read_bytes()
    for room in range(len(before) // 2):
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", Disk(room))
            with pytest.raises(OSError, match="No space") as error:
                journal.append(entry(3))
        assert error.value.errno == errno.ENOSPC and journal.at == 2 and path.read_bytes() == before, f"room for {room} bytes"
    journal.append(entry(3))
    assert numbers(again(journal)) == [1, 2, 3]


def test_what_is_written_in_two_parts_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, real, shorter = journal_with(tmp_path, 1), os.write, itertools.cycle((10, None))
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, memoryview(data)[: next(shorter)]))
    journal.append(entry(2))
    monkeypatch.undo()
    assert numbers(again(journal)) == [1, 2]


def test_an_entry_that_the_disk_takes_in_small_parts_alone_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, real = journal_with(tmp_path, 1), os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: real(descriptor, memoryview(data)[:10]))
        with pytest.raises(OSError, match="No space"):
            journal.append(entry(2))
    journal.append(entry(2))
    assert numbers(again(journal)) == [1, 2]


def test_an_entry_that_could_not_be_taken_back_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_with(tmp_path, 2)

    def broken(_descriptor: int, _size: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", Disk(20))
        patched.setattr(os, "ftruncate", broken)
        with pytest.raises(OSError, match="No space"):
            journal.append(entry(3))
    journal.append(entry(3))
    journal.append(entry(4))
    assert numbers(again(journal)) == [1, 2, 3, 4]


def test_without_room_for_another_file_it_stays_with_the_one_that_it_has(tmp_path: Path, short_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_with(tmp_path, 2)

    def full(*_given: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(OSError, match="No space"):
            journal.append(entry(3))
    assert journal.at == 2
    journal.append(entry(3))
    assert numbers(again(journal)) == [1, 2, 3] and len(files(journal)) == 2
