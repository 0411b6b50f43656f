"""Files of a replica: what is committed is there after a start, what is torn is cut, what is damaged is told, what is trimmed goes by whole files."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from unios.core.log_replica import Commit, Kept, Write
from unios.kernel.log_files import Damaged, LogFiles
from unios.log_limits import LOG_ZEROS_BYTES

MADE = Commit((Kept(1, 3, 10, 10),), (), 3, 0)


def written(folder: Path, frames: int = 6, **options: int) -> LogFiles:
    """Return the files of a span with frames of two entries."""
    files = LogFiles(f"{folder}/x", **options)
    files.open()
    files.commit(MADE)
    for number in range(frames):
        files.commit(append(10 + 2 * number))
    return files


def append(first: int) -> Commit:
    return Commit((), (Write(1, first, (b"%d" % first, b"%d" % (first + 1))),), 0, 0)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "x").glob("*.log"), key=lambda path: int(path.name.split(".")[2]))


def frames(path: Path) -> bytes:
    """Return a file without the zeros at its end; no frame here ends with one."""
    return path.read_bytes().rstrip(b"\0")


def spoil(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_what_was_committed_is_there_after_a_start(tmp_path: Path) -> None:
    written(tmp_path)
    files = LogFiles(f"{tmp_path}/x")
    replica = files.open()
    assert replica.fence == 3 and replica.spans() == [Kept(1, 3, 10, 22)] and files.found == (0, [])
    assert files.read(1, 13, 19) == [b"%d" % number for number in range(13, 19)]
    files.commit(append(22))
    assert files.read(1, 21, 24) == [b"21", b"22", b"23"]


def test_one_sync_brings_all_that_waits_to_disk(tmp_path: Path) -> None:
    files = written(tmp_path, 0)
    with mock.patch("unios.kernel.log_files.os.fdatasync", wraps=os.fdatasync) as sync:
        files.commit(Commit((), (Write(1, 10, tuple(b"%d" % number for number in range(500))),), 0, 0))
    assert sync.call_count == 1


def test_a_torn_tail_is_cut_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path)
    (path,) = parts(tmp_path)
    whole = frames(path)
    path.write_bytes(whole[:-1])
    files = LogFiles(f"{tmp_path}/x")
    assert files.open().spans() == [Kept(1, 3, 10, 20)] and files.found.torn == len(whole) // 6 - 1
    files.commit(append(20))
    assert frames(path) == whole


def test_zeros_behind_the_last_frame_are_no_torn_tail_and_what_is_torn_before_them_is_cut(tmp_path: Path) -> None:
    written(tmp_path)
    (path,) = parts(tmp_path)
    data, whole = path.read_bytes(), frames(path)
    assert len(data) == len(whole) // 6 + LOG_ZEROS_BYTES
    assert LogFiles(f"{tmp_path}/x").open().spans() == [Kept(1, 3, 10, 22)]
    path.write_bytes(data[: len(whole) - 1] + bytes(100))
    files = LogFiles(f"{tmp_path}/x")
    assert files.open().spans() == [Kept(1, 3, 10, 20)] and files.found.torn == len(whole) // 6 - 1 + 100
    for first in range(20, 1_000, 2):
        files.commit(append(first))
    assert LogFiles(f"{tmp_path}/x").open().spans() == [Kept(1, 3, 10, 1_000)]
    assert files.read(1, 998, 1_000) == [b"998", b"999"]


def test_a_sync_has_no_length_to_bring_to_the_disk_but_once_in_a_while(tmp_path: Path) -> None:
    files = written(tmp_path, 0)
    lengths = []
    for number in range(200):
        files.commit(append(10 + 2 * number))
        lengths.append(parts(tmp_path)[0].stat().st_size)
    assert len(set(lengths)) == 1


def test_a_file_is_not_lengthened_beyond_what_it_may_have(tmp_path: Path) -> None:
    written(tmp_path, 1, file_bytes=500)
    assert parts(tmp_path)[0].stat().st_size == 500


def test_damage_is_told_and_only_what_is_damaged_is_not_read(tmp_path: Path) -> None:
    written(tmp_path)
    (path,) = parts(tmp_path)
    spoil(path, len(frames(path)) // 6 + 40)
    files = LogFiles(f"{tmp_path}/x")
    assert files.open().spans() == [Kept(1, 3, 10, 22)] and files.found.damage == [(1, 12, 14)]
    assert files.read(1, 10, 22) == [b"10", b"11"] and files.read(1, 14, 22)[0] == b"14"
    with pytest.raises(Damaged):
        files.read(1, 12, 22)


def test_what_is_spoilt_while_it_is_open_is_seen_by_who_reads(tmp_path: Path) -> None:
    files = written(tmp_path)
    (path,) = parts(tmp_path)
    spoil(path, 40)
    with pytest.raises(Damaged, match="damaged at byte 0"):
        files.read(1, 10, 22)


def test_what_is_trimmed_goes_by_whole_files_and_stays_gone(tmp_path: Path) -> None:
    files = written(tmp_path, file_bytes=80)
    assert len(parts(tmp_path)) == 3
    files.commit(Commit((), (), 0, 15))
    assert files.trim(15) == [] and len(parts(tmp_path)) == 2
    again = LogFiles(f"{tmp_path}/x", file_bytes=80)
    replica = again.open()
    assert replica.first == 15 and replica.spans() == [Kept(1, 3, 14, 22)] and again.read(1, 15, 17) == [b"15", b"16"]
    again.trim(22)
    assert len(parts(tmp_path)) == 1
    again.commit(Commit((Kept(2, 4, 22, 22),), (), 4, 0))
    assert again.trim(22) == [1] and len(parts(tmp_path)) == 1


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    files = written(tmp_path)
    (path,) = parts(tmp_path)
    before = frames(path)
    calls = []

    def once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    with mock.patch("unios.kernel.log_files.os.fdatasync", once), pytest.raises(OSError, match="Input/output"):
        files.commit(append(22))
    assert path.read_bytes() == before  # not even zeros: nobody knows what of them the disk has
    files.commit(append(22))
    assert files.read(1, 22, 24) == [b"22", b"23"]


def test_after_a_write_that_cannot_be_taken_back_nothing_is_written(tmp_path: Path) -> None:
    files = written(tmp_path)
    with mock.patch("unios.kernel.log_files.os.fdatasync", side_effect=OSError(errno.EIO, "Input/output error")), pytest.raises(Damaged):
        files.commit(append(22))
    with pytest.raises(Damaged):
        files.commit(append(22))


def test_a_large_entry_is_read_whole(tmp_path: Path) -> None:
    files = written(tmp_path, 1)
    large = os.urandom(1024 * 1024)
    files.commit(Commit((), (Write(1, 12, (large, large, b"x")),), 0, 0))
    assert files.read(1, 12, 15, bytes_max=10) == [large, large, b"x"]
