"""Spilling: to a disk and nowhere else, and whatever fails there is a sentence and leaves no descriptor."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from unios.client.messages import memory
from unios.client.objects import spilling
from unios.client.objects.spilling import disk_of, is_whole, spill
from unios.errors import Unavailable


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_spilled_is_as_it_was_and_has_no_name(tmp_path: Path) -> None:
    data = [memoryview(b"a" * 5_000), memoryview(b""), memoryview(b"b" * 10)]
    before = files()
    found, check = spill(str(tmp_path), data)
    assert [bytes(one) for one in found] == [bytes(one) for one in data]
    assert is_whole(found, check)
    assert list(tmp_path.iterdir()) == []
    del found
    assert files() == before


@pytest.mark.parametrize("at", [0, 4_999, 8_192, 2_008_191])
def test_each_byte_that_has_changed_on_the_disk_is_noticed(tmp_path: Path, at: int) -> None:
    found, check = spill(str(tmp_path), [memoryview(b"a" * 5_000), memoryview(b""), memoryview(b"b" * 2_000_000)])
    place = memory.place_of(found[0])
    assert place is not None and is_whole(found, check)
    os.pwrite(place[0], b"c", at)
    assert not is_whole(found, check)


def test_a_disk_that_has_lost_the_end_or_cannot_be_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, check = spill(str(tmp_path), [memoryview(b"a" * 50_000)])
    place = memory.place_of(found[0])
    assert place is not None
    os.truncate(place[0], 40_000)
    assert not is_whole(found, check)

    def fails(*_args: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(spilling.os, "preadv", fails)
    assert not is_whole(found, check)


def test_a_folder_in_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_of(str(tmp_path)) == str(tmp_path)
    assert disk_of("/dev/shm") == disk_of(str(tmp_path / "none")) == "/var/tmp"
    monkeypatch.setattr(spilling, "_DISK", "/dev/shm")
    monkeypatch.setattr(spilling.tempfile, "gettempdir", lambda: "/dev/shm")
    assert disk_of("/dev/shm") == ""


def test_a_disk_that_would_be_full_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilling, "DISK_FREE_BYTES_MIN", 1 << 62)
    with pytest.raises(Unavailable, match=r"the disk of .* is full, and the memory for objects too"):
        spill(str(tmp_path), [memoryview(b"a")])


def test_a_disk_that_is_full_in_the_middle_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import os, resource, sys
from unios.client.objects.spilling import spill
from unios.errors import Unavailable
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
before = len(os.listdir("/proc/self/fd"))
try:
    spill({str(tmp_path)!r}, [memoryview(bytes(3_000_000))])
except Unavailable as error:
    print(error, len(os.listdir("/proc/self/fd")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "3000000 bytes cannot be spilled to" in done.stdout and done.stdout.endswith(": File too large 0\n")
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1_000_000
