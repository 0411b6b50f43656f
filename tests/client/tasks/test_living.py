"""The threads of executors: begun, or not to be had."""

import threading
from pathlib import Path

import pytest

import unios
from tests.descriptors import descriptors
from unios.client.tasks import executor, living
from unios.errors import Unavailable


@pytest.mark.parametrize("lacks", ["unios tasks", "unios tasks: processes"])
def test_an_executor_for_whose_threads_there_is_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    start = threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        if thread.name == lacks:
            raise RuntimeError("can't start new thread")
        start(thread)

    before, running = descriptors(), set(threading.enumerate())
    monkeypatch.setattr(threading.Thread, "start", scarce)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        unios.Executor(1, home=tmp_path)
    assert not living._engines and set(threading.enumerate()) <= running and descriptors() <= before


@pytest.mark.parametrize("lacks", ["system", "Steward"])
def test_an_executor_that_cannot_be_had_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    def none(*_args: object, **_options: object) -> None:
        raise Unavailable("there is none")

    before = descriptors()
    monkeypatch.setattr(executor, lacks, none)
    with pytest.raises(Unavailable, match="there is none"):
        unios.Executor(1, home=None if lacks == "system" else tmp_path)
    assert descriptors() <= before
