"""A mount of this node: one thread answers whatever happens, another tells; nothing is answered without the lease; who is gone leaves nothing."""

import os
import threading
from pathlib import Path

import pytest

from tests.services.files.played import PlayedAround, create, ino_of, lock, request, volume_in
from unios.core.files.inode import ROOT
from unios.core.files.ranges import WRITE
from unios.errors import ProtocolError
from unios.fuse import replies, requests
from unios.fuse.abi import Notice, Op
from unios.fuse.channel import Unmounted
from unios.fuse.requests import Request
from unios.services.files import mounts as mounts_of
from unios.services.files.mounts import LocalMount
from unios.services.files.serving import Serving
from unios.services.files.volume import Volume


class PlayedChannel:
    """Linux's side: asks what is given, one after the other, and is unmounted then. `bad`: answers to these are none."""

    def __init__(self, *asked: Request, bad: tuple[int, ...] = ()) -> None:
        self.asked, self.bad = list(asked), bad
        self.answered: list[int] = []
        self.refused: list[tuple[int, int]] = []
        self.told: list[tuple[Notice, bytes]] = []
        self.failing: list[Exception] = []
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def read(self) -> Request | None:
        if not self.asked:
            raise Unmounted("it is mounted no more")
        return self.asked.pop(0)

    def answer(self, request: Request, *parts: bytes | memoryview) -> bool:
        if request.number in self.bad:
            self.refused.append((request.number, 5))
            raise ProtocolError("Linux does not take that for an answer")
        self.answered.append(request.number)
        return True

    def refuse(self, request: Request, error: int) -> bool:
        self.refused.append((request.number, error))
        return True

    def tell(self, notice: Notice, told: bytes) -> bool:
        if self.failing:
            raise self.failing.pop(0)
        self.told.append((notice, told))
        return True


class World:
    def __init__(self, volume: Volume, channel: PlayedChannel) -> None:
        self.volume, self.channel = volume, channel
        self.serving = Serving(volume, PlayedAround(volume))
        self.holds, self.looked = True, threading.Event()
        self.gone = threading.Event()
        self.mount = LocalMount(1, channel, self.serving, self.look, lambda _mount: self.gone.set())  # type: ignore[arg-type]

    def look(self) -> bool:
        self.looked.set()
        return self.holds

    def serve(self) -> None:
        self.mount.start()
        assert self.gone.wait(20)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return volume_in(tmp_path)


def test_an_answer_that_is_none_ends_nothing(volume: Volume, capsys: pytest.CaptureFixture[str]) -> None:
    """Else everybody in the mount would wait for ever."""
    world = World(volume, PlayedChannel(create(b"a", unique=2), create(b"b", unique=4), bad=(2,)))
    world.serve()
    assert world.channel.answered == [4] and world.channel.refused == [(2, 5)]
    assert "does not take that" in capsys.readouterr().err


def test_nothing_is_answered_without_the_lease(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts_of, "FROZEN_S", 0.001)
    world = World(volume, PlayedChannel(create(b"a")))
    world.holds = False
    world.mount.start()
    for _ in range(3):
        assert world.looked.wait(20)
        world.looked.clear()
    assert world.channel.answered == [] and not ino_of(volume, b"a")
    world.holds = True
    assert world.gone.wait(20) and world.channel.answered == [2]


def test_a_mount_that_is_gone_leaves_no_locks_and_nothing_open(volume: Volume) -> None:
    ino = 2
    asked = (create(b"a", unique=2), lock(ROOT, 0, 9, WRITE, unique=4), request(Op.UNLINK, requests.Name(b"a"), unique=6))
    world = World(volume, PlayedChannel(*asked))
    world.serve()
    assert world.channel.answered == [2, 4, 6] and ino not in volume.state.inodes and volume.state.locks == {}


def test_it_is_told_in_order_and_who_waits_for_that_afterwards(volume: Volume) -> None:
    world, done = World(volume, PlayedChannel()), threading.Event()
    world.channel.failing = [Unmounted("it is mounted no more"), OSError(22, "no")]
    told = [replies.invalidate_inode(ino) for ino in range(2, 8)]
    seen = list[int]()
    world.mount.tell(*told[:3], then=lambda: seen.append(len(world.channel.told)))
    world.mount.tell(*told[3:], then=done.set)
    assert done.wait(20)
    assert world.channel.told == told[2:] and seen == [1], "what Linux does not take is no reason to stop"


def test_changed_names_and_inodes_are_forgotten_and_the_directories_attributes(volume: Volume) -> None:
    told = World(volume, PlayedChannel()).mount.names(((1, b"a"), (5, b"b"), (1, b"c")), (7,))
    assert set(told) == {
        *(replies.invalidate_entry(directory, name) for directory, name in ((1, b"a"), (5, b"b"), (1, b"c"))),
        *(replies.invalidate_inode(directory, -1) for directory in (1, 5)),
        replies.invalidate_inode(7),
    }
    assert len(told) == 6


def test_pages_may_be_held_of_what_is_open_for_writing_and_of_everything_after_taking_over(volume: Volume) -> None:
    mount = World(volume, PlayedChannel()).mount
    mount.opens(2, os.O_RDONLY)
    assert not mount.may_hold(2)
    mount.opens(2, os.O_RDWR)
    mount.opens(2, os.O_WRONLY | os.O_APPEND)
    mount.closes(2, os.O_RDONLY)
    mount.closes(2, os.O_RDWR)
    assert mount.may_hold(2) and not mount.may_hold(3)
    for _ in range(2):
        mount.closes(2, os.O_WRONLY)
        assert not mount.may_hold(2)
    mount.opens(2, os.O_RDWR)
    assert mount.may_hold(2)
    mount.adopted()
    assert mount.may_hold(3)


def test_a_mount_that_nobody_reads_any_more_ends_the_process(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, ended, codes = World(volume, PlayedChannel(create(b"a"))), threading.Event(), list[int]()

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    def fails() -> Request:
        raise OSError(22, "no reason")

    monkeypatch.setattr(mounts_of.os, "_exit", leave)
    monkeypatch.setattr(world.channel, "read", fails)
    world.mount.start()
    assert ended.wait(20) and codes == [mounts_of.DEFECT] and not world.gone.is_set()
    assert "no reason" in capsys.readouterr().err
