"""A worker where it stands alone: what it does without its parent."""

import os
import select
import signal
from typing import NoReturn

import pytest

from unios.client.tasks import worker
from unios.client.tasks.page import Page


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
