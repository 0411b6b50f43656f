"""A worker where it stands alone: what it does without its parent."""

import os
import pickle
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from unios.client.tasks import nested, worker
from unios.client.tasks.page import Page
from unios.client.tasks.talk import Talk
from unios.client.tasks.values import pack, unpack
from unios.errors import Unavailable
from unios.wire import parcels
from unios.wire.parcels import Answer, Give, Ready, Refused, Stop, sizes_of


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


class Seated:
    """A worker in a thread; the test is the executor that has it."""

    def __init__(self) -> None:
        self.talk, theirs = (Talk(sock) for sock in socket.socketpair())
        self.talk.sock.settimeout(10)
        self.page = Page()
        self.thread = threading.Thread(target=worker.Worker(theirs, self.page, 0, "").run)
        self.thread.start()
        self.theirs = theirs

    def give(self, turn: int, function: Callable[..., Any] | None, *args: Any, many: bool = False) -> None:
        parts = pack(list(args) if many else (args, {}), "it")
        if function is not None:
            parts = [pickle.dumps(function), *parts]
        self.talk.say(Give(sizes_of(parts), turn, b"f", function is not None, many), parts)

    def answer(self) -> tuple[Any, Any]:
        heard = self.talk.hear()
        assert heard is not None
        return heard[0], unpack(heard[1]) if heard[1] else None


@pytest.fixture
def seated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seated]:
    monkeypatch.setattr(nested, "sit", lambda _seat: None)
    made = Seated()
    yield made
    made.talk.say(Stop())
    made.thread.join(10)
    assert not made.thread.is_alive()
    made.talk.end()
    made.theirs.end()


def test_a_function_is_sent_once_and_called_until_it_is_told_to_stop(seated: Seated) -> None:
    seated.give(1, max, 3, 5)
    assert seated.answer() == (Answer(seated_sizes(5), 1, False), 5)
    seated.give(2, None, (1, 2), (9, 4), many=True)
    assert seated.answer()[1] == [2, 9]
    seated.give(3, None, 1)
    head, (error, _text) = seated.answer()
    assert head.failed and isinstance(error, TypeError)


def seated_sizes(value: object) -> tuple[int, ...]:
    return sizes_of(pack(value, "it"))


def test_what_is_barred_is_refused_and_not_called(seated: Seated) -> None:
    seated.page.bar(0, 2)
    for turn in (1, 2):
        seated.give(turn, print, "it is called")
        assert seated.answer() == (Refused((), turn), None)
    seated.give(3, None)
    assert seated.answer()[0] == Answer(seated_sizes(None), 3, False)


def test_a_child_of_a_task_answers_nothing_when_it_comes_back(seated: Seated) -> None:
    seated.give(1, os.fork)
    head, child = seated.answer()
    assert head.turn == 1 and child > 0, "the worker answers"
    assert os.waitpid(child, 0)[1] == 0
    seated.give(2, max, 1, 2)
    assert seated.answer()[1] == 2, "and nobody else did"


def fails(text: str) -> NoReturn:
    raise ValueError(text)


@pytest.mark.parametrize("initializer", [None, (max, (1, 2)), (fails, ("no",))])
def test_an_initializer_that_fails_is_told_and_ends_the_worker(initializer: Any) -> None:
    program, talk = (Talk(sock) for sock in socket.socketpair())
    went_well = worker.initialized(talk, pack(initializer, "it") if initializer else [])
    heard = program.hear()
    assert heard is not None and isinstance(heard[0], Ready)
    if initializer is not None and initializer[0] is fails:
        assert not went_well and str(unpack(heard[1])[0]) == "no"
    else:
        assert went_well and not heard[1]
    program.end()
    talk.end()
