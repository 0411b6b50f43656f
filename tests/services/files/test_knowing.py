"""What a mount's Linux knows stays, with a name or without, until it has forgotten it as often as it was told."""

import stat
from pathlib import Path

import pytest

from tests.services.files.played import ino_of, volume_in
from unios.core.files.inode import ROOT, Owner
from unios.services.files.knowing import Knowing
from unios.services.files.volume import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return volume_in(tmp_path)


def file(volume: Volume, name: bytes) -> int:
    return volume.commit(volume.tree.make(ROOT, name, stat.S_IFREG | 0o644, Owner(0, 0), 1))


def unlink(volume: Volume, name: bytes) -> None:
    volume.commit(volume.tree.unlink(ROOT, name, 2))


def forget(volume: Volume, knowing: Knowing, ino: int, count: int) -> bool:
    """As Serving does it."""
    over = knowing.forgets(ino, count)
    if over:
        volume.released(ino)
    return over


def test_what_is_known_stays_without_a_name_until_it_is_forgotten_as_often_as_told(volume: Volume) -> None:
    knowing, ino = Knowing(volume), file(volume, b"f")
    for _ in range(3):
        knowing.knows(ino)
    unlink(volume, b"f")
    assert not forget(volume, knowing, ino, 2) and ino in volume.state.inodes
    assert forget(volume, knowing, ino, 1) and ino not in volume.state.inodes


def test_what_another_mount_knows_stays(volume: Volume) -> None:
    one, other, ino = Knowing(volume), Knowing(volume), file(volume, b"f")
    one.knows(ino)
    other.knows(ino)
    unlink(volume, b"f")
    assert forget(volume, one, ino, 1) and ino in volume.state.inodes
    other.leave()
    assert ino not in volume.state.inodes


def test_to_forget_what_was_not_told_does_nothing(volume: Volume) -> None:
    one, other, ino = Knowing(volume), Knowing(volume), file(volume, b"f")
    other.knows(ino)
    unlink(volume, b"f")
    assert not forget(volume, one, ino, 1) and ino in volume.state.inodes
    assert forget(volume, other, ino, 5) and not forget(volume, other, ino, 1)
    assert ino not in volume.state.inodes


def test_the_uppermost_directory_is_never_forgotten(volume: Volume) -> None:
    knowing = Knowing(volume)
    knowing.knows(ROOT)
    assert not forget(volume, knowing, ROOT, 1)
    knowing.adopted()
    assert not forget(volume, knowing, ROOT, 1) and ROOT in volume.state.inodes


def test_who_goes_on_for_another_takes_all_for_known(volume: Volume) -> None:
    kept, dropped, later = file(volume, b"kept"), file(volume, b"dropped"), 0
    knowing = Knowing(volume)
    knowing.adopted()
    later = file(volume, b"later")
    for name in (b"kept", b"dropped", b"later"):
        unlink(volume, name)
    assert kept in volume.state.inodes and dropped in volume.state.inodes
    assert volume.tree.held(kept) and not volume.tree.held(later)
    assert forget(volume, knowing, dropped, 7), "how often it had been told is not known"
    assert dropped not in volume.state.inodes and kept in volume.state.inodes
    knowing.leave()
    assert kept not in volume.state.inodes


def test_what_is_told_once_more_after_taking_over_is_held_once(volume: Volume) -> None:
    ino, knowing = file(volume, b"f"), Knowing(volume)
    knowing.adopted()
    knowing.knows(ino)
    knowing.knows(ino)
    unlink(volume, b"f")
    assert forget(volume, knowing, ino, 3)
    assert ino not in volume.state.inodes and not volume.tree.held(ino)


def test_what_was_forgotten_after_taking_over_is_known_anew_when_it_is_told_again(volume: Volume) -> None:
    ino, knowing, other = file(volume, b"f"), Knowing(volume), Knowing(volume)
    knowing.adopted()
    knowing.knows(ino)
    other.knows(ino)
    assert forget(volume, knowing, ino, 2) and not forget(volume, knowing, ino, 1)
    assert volume.tree.held(ino), "by the other one"
    knowing.knows(ino)
    assert forget(volume, other, ino, 1)
    unlink(volume, b"f")
    assert ino in volume.state.inodes and forget(volume, knowing, ino, 1) and ino not in volume.state.inodes


def test_a_mount_goes_once(volume: Volume) -> None:
    ino, knowing, other = file(volume, b"f"), Knowing(volume), Knowing(volume)
    knowing.adopted()
    other.knows(ino)
    for _ in range(2):
        knowing.leave()
    assert volume.tree.held(ino)


def test_a_mount_that_is_gone_leaves_what_has_a_name(volume: Volume) -> None:
    knowing, named, nameless = Knowing(volume), file(volume, b"named"), file(volume, b"nameless")
    for ino in (named, nameless):
        knowing.knows(ino)
    unlink(volume, b"nameless")
    knowing.leave()
    assert ino_of(volume, b"named") == named and nameless not in volume.state.inodes
    knowing.leave()
    assert not volume.tree.held(named)
