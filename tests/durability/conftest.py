"""Disks, and programs whose syncs are as a test wants them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import preloads
from tests.durability import disks
from tests.durability.disks import Disk, Disks, FailingDisk
from tests.durability.syncs import Syncs


@pytest.fixture(scope="session")
def all_disks() -> Iterator[Disks]:
    if why := disks.missing():
        pytest.skip(f"nobody can look at a disk here: {why}")
    made = Disks()
    yield made
    made.close()


@pytest.fixture
def disk(all_disks: Disks) -> Iterator[Disk]:
    made = all_disks.make()
    yield made
    made.close()


@pytest.fixture
def failing_disk(all_disks: Disks) -> Iterator[FailingDisk]:
    made = all_disks.make_failing()
    yield made
    made.close()


@pytest.fixture
def syncs(tmp_path: Path) -> Syncs:
    if why := preloads.missing():
        pytest.skip(f"syncs cannot be taken away here: {why}")
    return Syncs(tmp_path)
