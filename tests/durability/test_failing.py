"""A sync that fails is no acknowledgement, and neither is the next one that succeeds: what Linux said EIO for it takes for written from then on (fsyncgate)."""

import asyncio
import os

import pytest

from tests.durability.disks import Disk, FailingDisk
from tests.durability.programs import Program
from tests.durability.stores import OnDisk
from tests.durability.syncs import Syncs
from tests.durability.test_recovered import put, read, restarted
from tests.durability.workloads import KINDS, records
from unios.errors import OutcomeUnknown

pytestmark = pytest.mark.live

STEPS = {"log": 3, "blocks": 1, "keys": 1, "tokens": 2, "backup": 1, "restored": 0}
"""After so many the syncs fail."""


@pytest.mark.parametrize("of", ["file", "folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sync_that_fails_is_not_acknowledged_and_takes_nothing_that_was(disk: Disk, syncs: Syncs, kind: str, of: str) -> None:
    acknowledged: list[str] = []
    if not STEPS[kind]:
        syncs.become("fail", kind=of)
    with Program(kind, disk, syncs) as program:
        for number in range(1, STEPS[kind] + 1):
            acknowledged = program.next()
            assert isinstance(acknowledged, list)
            if number == STEPS[kind]:
                syncs.become("fail", kind=of)
            program.go_on()
        said = program.next()
        while isinstance(said, list) and of == "folder":  # what makes no name needs no folder
            acknowledged = said
            program.go_on()
            said = program.next()
        assert said is None or "Input/output" in said["refused"] or "I/O" in said["refused"], said
        assert said is not None or of == "folder"
        assert not set(acknowledged) - set(disk.after_a_power_cut(KINDS[kind].found))


def test_a_record_whose_sync_fails_is_not_acknowledged_and_the_next_one_is_on_the_disk(disk: Disk, syncs: Syncs) -> None:
    engine = OnDisk(disk, syncs)
    try:
        asyncio.run(put(engine, "/k/1"))
        syncs.become("fail", part="-wal")
        with pytest.raises(OutcomeUnknown, match="failed to sync"):
            asyncio.run(put(engine, "/k/2"))
        syncs.become("through")
        asyncio.run(put(engine, "/k/3"))
        told = asyncio.run(read(engine))
        assert {"/k/1", "/k/3"} <= told and not told - set(disk.after_a_power_cut(records))
    finally:
        engine.stop()


# a disk that fails, and is well again


def test_linux_takes_for_written_what_a_failing_disk_never_got(failing_disk: FailingDisk) -> None:
    """What the tests below rest on, and why nobody may sync again what a sync has refused."""
    failing_disk.fail()
    descriptor = os.open(failing_disk.path / "x", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"x" * 10_000)
    with pytest.raises(OSError, match="No space"):  # which is what this disk has in the place of bad sectors
        os.fsync(descriptor)
    failing_disk.recover()
    os.fsync(descriptor)
    os.close(descriptor)
    assert (failing_disk.path / "x").read_bytes() == b"x" * 10_000
    assert failing_disk.after_a_power_cut(lambda folder: (folder / "x").read_bytes()) != b"x" * 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_after_a_disk_has_failed_is_on_it(failing_disk: FailingDisk, kind: str) -> None:
    with Program(kind, failing_disk, None) as program:
        acknowledged: list[str] = []
        while isinstance(said := program.next(), list):  # what is written over needs no room, and goes on
            acknowledged = said
            failing_disk.fail()
            program.go_on()
    failing_disk.recover()
    assert not set(acknowledged) - set(failing_disk.after_a_power_cut(KINDS[kind].found))
    with Program(kind, failing_disk, None) as program:
        while isinstance(said := program.next(), list):  # else Linux has made it read-only, since a folder needed room
            assert not set(said) - set(failing_disk.after_a_power_cut(KINDS[kind].found))
            program.go_on()


def test_a_log_whose_writer_was_killed_when_its_sync_failed_tells_what_is_on_the_disk(failing_disk: FailingDisk, syncs: Syncs) -> None:
    with Program("log", failing_disk, syncs) as program:
        assert isinstance(program.next(), list)
        failing_disk.fail()
        syncs.become("sync-and-die", part=".log")
        program.go_on()
        assert program.next() is None and program.end() < 0
    syncs.become("through")
    failing_disk.recover()
    with Program("log", failing_disk, syncs) as program:
        said = program.next()
        assert "entry 0" in said  # the page cache has it
        assert not set(said) - set(failing_disk.after_a_power_cut(KINDS["log"].found))


def test_records_of_a_store_that_was_killed_when_its_sync_failed_are_on_the_disk_when_its_successor_tells_them(
    failing_disk: FailingDisk, syncs: Syncs
) -> None:
    """The store appends to a file of many pages, of which a loop device may write the first alone and say that all is well: so nobody asks what the sync said."""
    told, lost = restarted(failing_disk, syncs, "sync-and-die", before=failing_disk.fail, after=failing_disk.recover)
    assert told == {"/k/before", "/k/at its end"} and not lost
