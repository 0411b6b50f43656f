"""A writer that is killed between a write and its sync leaves what only the page cache has. Its successor reads it, and may tell of it only when a disk has it."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from tests.durability.disks import Disk
from tests.durability.programs import Program
from tests.durability.stores import OnDisk
from tests.durability.syncs import Mode, Syncs, is_passing
from tests.durability.workloads import KINDS, records
from tests.store.engines import opened
from unios.errors import OutcomeUnknown, Unavailable

pytestmark = pytest.mark.live


def killed_at_a_sync(kind: str, disk: Disk, syncs: Syncs, *, steps: int, part: str, mode: Mode = "die") -> list[str]:
    """Do so many steps of a kind, and the next until it syncs what has `part` in its path; return what was acknowledged."""
    acknowledged: list[str] = []
    if not steps:
        syncs.become(mode, part=part)
    with Program(kind, disk, syncs) as program:
        for step in range(1, steps + 1):
            acknowledged = program.next()
            assert isinstance(acknowledged, list)
            if step == steps:
                syncs.become(mode, part=part)
            program.go_on()
        assert program.next() is None and program.end() == -signal.SIGKILL
    syncs.become("through")
    return acknowledged


def first_word(kind: str, disk: Disk, syncs: Syncs) -> set[str]:
    """Return what of its first acknowledgement a successor would lose in a power cut; see that no name is left unsynced then, whoever made it."""
    with Program(kind, disk, syncs) as program:
        said = program.next()
        assert isinstance(said, list), said
        assert not {name for name in syncs.unsynced(str(disk.inside), disk.path) if not is_passing(name)}
        return set(said) - set(disk.after_a_power_cut(KINDS[kind].found))


CASES = [("log", 1, ".log"), ("log", 3, ".log"), ("log", 7, "/mine"), ("blocks", 0, "/blocks/u-"), ("tokens", 1, "/tokens"), ("keys", 1, "/nodes/n1")]
"""Kind, steps before, and whose sync is the last thing that happens."""


@pytest.mark.parametrize(("kind", "steps", "part"), CASES)
def test_what_a_successor_tells_of_first_is_on_the_disk(disk: Disk, syncs: Syncs, kind: str, steps: int, part: str) -> None:
    before = killed_at_a_sync(kind, disk, syncs, steps=steps, part=part)
    assert not set(before) - set(disk.after_a_power_cut(KINDS[kind].found))
    assert not first_word(kind, disk, syncs)


# the store, over its socket


async def put(engine: OnDisk, key: str) -> None:
    async with opened(engine) as store:
        await store.put(key, b"x" * 200_000)


async def read(engine: OnDisk) -> set[str]:
    async with opened(engine) as store:
        return {record.key for record in (await store.range("/", prefix=True))[0].records}


def restarted(
    disk: Disk, syncs: Syncs, mode: Mode, *, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> tuple[set[str], set[str]]:
    """Kill a store at the sync of a commit; return what its successor tells, and what of that a power cut would take. `before` the commit, and `after` the kill."""
    engine = OnDisk(disk, syncs)
    try:
        asyncio.run(put(engine, "/k/before"))
        before()
        syncs.become(mode, part="-wal")
        with pytest.raises((OutcomeUnknown, Unavailable)):
            asyncio.run(put(engine, "/k/at its end"))
        assert engine.process is not None and engine.process.wait(timeout=10) == -signal.SIGKILL
        syncs.become("through")
        after()
        engine.start()
        told = asyncio.run(read(engine))
        return told, told - set(disk.after_a_power_cut(records))
    finally:
        syncs.become("through")
        engine.stop()


def test_what_the_successor_of_a_killed_store_tells_is_on_the_disk(disk: Disk, syncs: Syncs) -> None:
    told, lost = restarted(disk, syncs, "die")
    assert told == {"/k/before", "/k/at its end"} and not lost
