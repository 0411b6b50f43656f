"""What is acknowledged is on the disk at that instant, and not only in the page cache. Each test has its mutant: with syncs that do nothing it has to fail."""

import asyncio
import os

import pytest

from tests.durability.disks import Disk
from tests.durability.programs import Program
from tests.durability.stores import OnDisk
from tests.durability.syncs import Syncs, is_passing
from tests.durability.workloads import KINDS, records
from tests.store.engines import SqliteProcess, opened

pytestmark = pytest.mark.live


def lost(kind: str, disk: Disk, syncs: Syncs | None = None) -> list[set[str]]:
    """Do the work of a kind; return what of it a power cut would have taken after each acknowledgement."""
    found: list[set[str]] = []
    with Program(kind, disk, syncs) as program:
        while (said := program.next()) is not None:
            assert isinstance(said, list), said
            found.append(set(said) - set(disk.after_a_power_cut(KINDS[kind].found)))
            program.go_on()
        assert program.end() == 0
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_acknowledged_is_on_the_disk_at_that_instant(disk: Disk, kind: str) -> None:
    steps = lost(kind, disk)
    assert steps and not any(steps), steps


@pytest.mark.parametrize("kind", KINDS)
def test_with_syncs_that_do_nothing_it_is_not(disk: Disk, syncs: Syncs, kind: str) -> None:
    syncs.become("pretend")
    assert any(lost(kind, disk, syncs))


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_each_name_is_synced_after_the_name_was_made_and_before_the_acknowledgement(disk: Disk, syncs: Syncs, kind: str) -> None:
    """ext4 brings names to the disk with whatever is synced next, others do not: so this looks at the syncs themselves."""
    with Program(kind, disk, syncs) as program:
        while program.next() is not None:
            owed = {name for name in syncs.unsynced(str(disk.inside), disk.path) if not is_passing(name)}
            assert not owed
            program.go_on()


# the store, over its socket


async def put_and_look(engine: SqliteProcess, disk: Disk, rounds: int = 6) -> list[set[str]]:
    """Put records; return which of the acknowledged ones a power cut would have taken after each round."""
    told: set[str] = set()
    found: list[set[str]] = []
    async with opened(engine) as store:
        for number in range(rounds):
            keys = [f"/k/{number}-{each}" for each in range(20)]
            await asyncio.gather(*(store.put(key, os.urandom(40_000)) for key in keys))  # enough for a checkpoint in between
            told |= set(keys)
            found.append(told - set(disk.after_a_power_cut(records)))
    return found


def test_every_acknowledged_record_is_on_the_disk_at_that_instant(disk: Disk) -> None:
    engine = OnDisk(disk)
    try:
        assert not any(asyncio.run(put_and_look(engine, disk)))
    finally:
        engine.stop()


def test_with_syncs_that_do_nothing_records_are_lost(disk: Disk, syncs: Syncs) -> None:
    syncs.become("pretend")
    engine = OnDisk(disk, syncs)
    try:
        assert any(asyncio.run(put_and_look(engine, disk, 1)))
    finally:
        engine.stop()


def test_the_names_of_the_stores_files_are_synced_before_it_answers(disk: Disk, syncs: Syncs) -> None:
    engine = OnDisk(disk, syncs)
    try:
        asyncio.run(put_and_look(engine, disk, 1))
        assert syncs.unsynced(str(disk.inside), disk.path) <= {"store/lock", "store/sock", "store/store.db-shm"}
    finally:
        engine.stop()
