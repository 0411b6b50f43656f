"""What the other tests here rest on: the file behind a loop device has what was synced, and nothing else."""

import os
from pathlib import Path

import pytest

from tests.durability.disks import Disk

pytestmark = pytest.mark.live


def write(path: Path, data: bytes, *, synced: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if synced:
            os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_copy_of_the_disk_has_what_was_synced_and_nothing_else(disk: Disk) -> None:
    write(disk.path / "old", b"old", synced=True)
    write(disk.path / "aside", b"new", synced=True)
    write(disk.path / "forgotten", b"x", synced=False)
    found = disk.after_a_power_cut(contents)
    assert (found["old"], found["aside"], found.get("forgotten", b"")) == (b"old", b"new", b"")
    (disk.path / "aside").rename(disk.path / "old")
    assert (disk.path / "old").read_bytes() == b"new"
    assert disk.after_a_power_cut(contents)["old"] == b"old"
    sync_folder(disk.path)
    found = disk.after_a_power_cut(contents)
    assert found["old"] == b"new" and "aside" not in found
