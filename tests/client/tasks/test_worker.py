"""A worker where it stands alone: what it does without its parent."""

import os
import pickle
import select
import signal
import socket
from typing import NoReturn

import pytest

from unios.client.tasks import nested, worker
from unios.client.tasks.page import Page
from unios.client.tasks.talk import Talk
from unios.client.tasks.values import pack
from unios.errors import Unavailable
from unios.wire import parcels
from unios.wire.parcels import Give, sizes_of


@pytest.mark.parametrize("gone", ["later", "before"])
def test_a_worker_ends_with_its_parent_whatever_it_does(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    """By itself, where no pid namespace ends it too."""
    told, tell = os.pipe()

    def pause(*_args: object) -> NoReturn:
        signal.alarm(30)  # so that a test that fails leaves nothing
        os.write(tell, b"1")
        while True:
            signal.pause()

    monkeypatch.setattr(worker, "reach", pause)
    parent = os.fork()
    if not parent:
        os.close(told)
        if not os.fork():
            worker.start(b"", "", 1, 1, "", Page(), 0, os.getppid() if gone == "later" else 1 << 30)
        os.close(tell)
        while True:
            signal.pause()
    os.close(tell)
    try:
        assert select.select([told], [], [], 20)[0]
        assert os.read(told, 1) == (b"1" if gone == "later" else b"")
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    assert select.select([told], [], [], 20)[0] and os.read(told, 1) == b"", "it lives on"
    os.close(told)


def test_a_worker_that_has_no_memory_for_a_call_ends_before_it_begins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(_size: int) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(parcels, "room_for", scarce)
    monkeypatch.setattr(nested, "sit", lambda _seat: None)
    ours, theirs = (Talk(sock) for sock in socket.socketpair())
    parts = [pickle.dumps(len), *pack(((bytes(100_000),), {}), "it")]
    page = Page()
    ours.say(Give(sizes_of(parts), 7, b"f", True), parts)
    with pytest.raises(Unavailable, match=r"no memory in process \d+ for 100\d\d\d bytes: a call that was given to it"):
        worker.Worker(theirs, page, 0, "").run()
    assert page.begun(0) == 0
    for talk in (ours, theirs):
        talk.end()
