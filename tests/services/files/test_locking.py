"""Locks of all mounts: who waits gets his turn, or is let go; what is held is in the journal; who is gone is in nobody's way."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.services.files.played import PlayedAround, PlayedMount, lock, request, volume_in
from unios.core.files.inode import Owner
from unios.core.files.ranges import END, READ, UNLOCK, WRITE
from unios.fuse import abi, requests
from unios.fuse.abi import Op
from unios.services.files import locking as locking_of
from unios.services.files.journal import Journal
from unios.services.files.serving import Serving
from unios.services.files.stage import Stage
from unios.services.files.volume import Volume


class World:
    """Two mounts, and a file."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.serving = Serving(volume, PlayedAround(volume))
        self.one, self.other = PlayedMount(1, volume), PlayedMount(2, volume)
        made = [volume.commit(volume.tree.make(1, name, 0o100644, Owner(0, 0), 1)) for name in (b"f", b"g")]
        self.file, self.second = made
        self.unique = 0

    def set(self, mount: PlayedMount, start: int, end: int, kind: int, **more: Any) -> int:
        """Ask for a lock on the file; return the request's number."""
        self.unique += 2
        self.serving.one(mount, lock(more.pop("node", self.file), start, end, kind, unique=self.unique, **more))
        return self.unique

    def held(self, ino: int = 0) -> list[tuple[int, int, int, int, int]]:
        return sorted((one.mount, one.owner, one.start, one.end, one.kind) for one in self.volume.state.locks.get(ino or self.file, ()))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(volume_in(tmp_path))


def test_a_lock_is_granted_and_given_back(world: World) -> None:
    asked = [world.set(world.one, 0, 9, WRITE), world.set(world.one, 3, 5, UNLOCK), world.set(world.one, 0, 0, UNLOCK, op=Op.SETLK)]
    assert world.one.told == asked and world.one.refusals == []
    assert world.held() == [(1, 7, 1, 2, WRITE), (1, 7, 6, 9, WRITE)]


def test_who_does_not_want_to_wait_is_refused(world: World) -> None:
    world.set(world.one, 0, 9, WRITE)
    asked = world.set(world.other, 9, 9, READ, op=Op.SETLK)
    assert world.other.refusals == [(asked, errno.EAGAIN)] and world.held() == [(1, 7, 0, 9, WRITE)]


def test_who_waits_gets_it_when_it_is_free_and_not_before(world: World) -> None:
    world.set(world.one, 0, 9, WRITE)
    asked = world.set(world.other, 5, 20, WRITE)
    world.set(world.one, 0, 4, UNLOCK)
    assert world.other.told == []
    world.set(world.one, 5, 9, UNLOCK)
    assert world.other.told == [asked] and world.other.refusals == [] and world.held() == [(2, 7, 5, 20, WRITE)]


def test_a_lock_that_becomes_one_for_reading_lets_readers_in(world: World) -> None:
    world.set(world.one, 0, 9, WRITE)
    asked = world.set(world.other, 0, 9, READ)
    world.set(world.one, 0, 9, READ)
    assert world.other.told == [asked]
    assert world.held() == [(1, 7, 0, 9, READ), (2, 7, 0, 9, READ)]


def test_those_who_wait_get_it_one_after_the_other_in_the_order_in_which_they_came(world: World) -> None:
    world.set(world.one, 0, END, WRITE, owner=1)
    asked = [world.set(world.other, 0, END, WRITE, owner=owner) for owner in range(2, 7)]
    for owner in range(1, 6):
        world.set(world.one if owner == 1 else world.other, 0, END, UNLOCK, owner=owner)
        assert [number for number, _ in world.other.answers if number in asked] == asked[:owner]
        assert world.held() == [(2, owner + 1, 0, END, WRITE)]


def test_a_lock_of_one_file_wakes_nobody_who_waits_for_another(world: World) -> None:
    world.set(world.one, 0, 9, WRITE)
    world.set(world.one, 0, 9, WRITE, node=world.second)
    asked = world.set(world.other, 0, 9, WRITE, node=world.second)
    world.set(world.one, 0, 9, UNLOCK)
    assert world.other.told == []
    world.set(world.one, 0, 9, UNLOCK, node=world.second)
    assert world.other.told == [asked] and world.held(world.second) == [(2, 7, 0, 9, WRITE)]


def flush(world: World, mount: PlayedMount, owner: int) -> None:
    world.unique += 2
    world.serving.one(mount, request(Op.FLUSH, requests.Flush(0, owner), world.file, unique=world.unique))


def release(world: World, mount: PlayedMount, owner: int, *, flock: bool) -> None:
    world.unique += 2
    world.serving.one(mount, request(Op.RELEASE, requests.Release(0, 0, owner, flock), world.file, unique=world.unique))


def test_who_closes_a_file_has_no_lock_of_that_kind_any_more(world: World) -> None:
    for flock in (False, True):
        world.set(world.one, 0, END, WRITE, flock=flock)
        world.set(world.one, 0, 9, READ, flock=flock, node=world.second)
    asked = [world.set(world.other, 0, END, WRITE, flock=flock) for flock in (False, True)]
    flush(world, world.one, 8)
    release(world, world.one, 7, flock=False)
    flush(world, world.other, 7)
    assert not set(asked) & set(world.other.told), "another owner's, and another mount's"
    flush(world, world.one, 7)
    assert asked[0] in world.other.told and asked[1] not in world.other.told
    release(world, world.one, 7, flock=True)
    assert set(asked) <= set(world.other.told) and len(world.held(world.second)) == 2


def test_a_mount_that_is_gone_holds_nothing_and_waits_for_nothing(world: World) -> None:
    world.set(world.one, 0, 9, WRITE)
    world.set(world.one, 0, 9, WRITE, node=world.second, flock=True)
    world.set(world.other, 20, 30, WRITE)
    mine = world.set(world.one, 20, 30, WRITE)
    asked = [world.set(world.other, 0, 9, WRITE), world.set(world.other, 0, 9, WRITE, node=world.second, flock=True)]
    world.one.is_gone = True
    with world.volume.lock:
        world.serving.locking.gone(1)
    assert set(asked) <= set(world.other.told)
    world.set(world.other, 20, 30, UNLOCK)
    assert mine not in world.one.told
    assert world.held() == [(2, 7, 0, 9, WRITE)] and world.held(world.second) == [(2, 7, 0, 9, WRITE)]


def test_a_mount_that_is_gone_while_it_waits_is_in_nobodys_way(world: World) -> None:
    """Whoever gives a lock back is not told that another mount is none any more, and who comes next gets his turn."""
    world.set(world.one, 0, 9, READ)
    world.set(world.other, 0, 9, WRITE, owner=1)
    asked = world.set(world.one, 5, 9, WRITE, owner=9)
    world.other.is_gone = True
    free = world.set(world.one, 0, 9, UNLOCK)
    assert world.one.refusals == [] and free in world.one.told
    with world.volume.lock:
        world.serving.locking.gone(2)
    assert asked in world.one.told and world.held() == [(1, 9, 5, 9, WRITE)]


def test_a_signal_ends_the_waiting_of_whoever_had_it(world: World) -> None:
    world.set(world.one, 0, 9, WRITE)
    asked = [world.set(world.other, 0, 9, WRITE, owner=owner) for owner in (1, 2)]
    for mount in (world.one, world.other):
        world.serving.one(mount, request(Op.INTERRUPT, requests.Interrupt(asked[0]), 0))
    assert world.other.refusals == [(asked[0], errno.EINTR)] and world.one.refusals == []
    world.set(world.one, 0, 9, UNLOCK)
    assert world.other.answers == [(asked[1], b"")]
    world.serving.one(world.other, request(Op.INTERRUPT, requests.Interrupt(asked[1]), 0))
    assert len(world.other.told) == 2


def test_no_more_than_so_many_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking_of, "WAITING_MAX", 3)
    world.set(world.one, 0, 9, WRITE)
    asked = [world.set(world.other, 0, 9, WRITE, owner=owner) for owner in range(4)]
    assert world.other.refusals == [(asked[3], errno.ENOLCK)]


def test_what_is_in_the_way_is_told_with_the_pid_of_ones_own_machine(world: World) -> None:
    world.set(world.one, 3, 9, WRITE)
    told = []
    for mount, owner, kind, start in ((world.one, 8, WRITE, 0), (world.other, 7, READ, 9), (world.one, 7, WRITE, 0), (world.other, 7, WRITE, 10)):
        world.serving.one(mount, lock(world.file, start, 20, kind, owner=owner, op=Op.GETLK))
        told.append(abi.LOCK.unpack(mount.answers[-1][1]))
    assert told == [(3, 9, WRITE, 55), (3, 9, WRITE, 0), (0, 20, UNLOCK, 0), (10, 20, UNLOCK, 0)]


def test_a_file_that_is_gone_has_no_locks(world: World) -> None:
    asked = world.unique + 2
    world.set(world.one, 0, 9, WRITE, node=999)
    assert world.one.refusals == [(asked, errno.ESTALE)]
    world.set(world.one, 0, 9, WRITE)
    world.volume.commit(world.volume.tree.unlink(1, b"f", 2))
    assert world.held() == []


def test_what_is_held_is_in_the_journal_and_nothing_that_changes_nothing(world: World, tmp_path: Path) -> None:
    for _ in range(2):
        world.set(world.one, 0, 9, WRITE)
    at = world.volume.journal.at + 1
    world.set(world.other, 20, 30, READ, flock=True)
    world.set(world.one, 50, 60, UNLOCK)
    flush(world, world.one, 99)
    assert world.volume.journal.at == at
    world.volume.journal.close()
    journal = Journal.find(tmp_path, world.volume.journal.token, 0)
    assert journal is not None
    successor = Volume(Stage(tmp_path / "stage", fresh=False), journal, lambda _entry: None)
    successor.recall(journal.read(), 0)
    assert successor.state.locks == world.volume.state.locks and len(successor.state.locks[world.file]) == 2
