"""A parent of workers where it stands alone: what it says of how they ended, and what it does when Linux has no room for more."""

import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.system import wait_for
from unios.client.tasks import parent as module
from unios.client.tasks import worker
from unios.client.tasks.line import Line
from unios.client.tasks.parent import Parent
from unios.client.tasks.talk import Talk
from unios.limits import WORKERS_MAX
from unios.wire.parcels import Bar, Barred, Fork, Gone, Kill, Stop, Unwanted

pytestmark = pytest.mark.timeout(30)


def pause(*_arguments: object) -> None:
    signal.alarm(30)  # so that a test that fails leaves nothing
    while True:
        signal.pause()


class Alone:
    """A parent whose workers do nothing, and what it says."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        self.engine, self.line = Talk(ours), Line(theirs)
        self.parent = Parent(self.line, b"", "", 1, "n1")

    def gone(self) -> Gone:
        while (heard := self.engine.hear()) is not None:
            if isinstance(heard[0], Gone):
                return heard[0]
        raise AssertionError("it has ended")

    def ended(self, id_: int, how: int) -> Gone:
        """End a worker; return what is said of that."""
        child = self.parent._children[id_]
        os.kill(child.pid, how)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.parent._reap(child)
        self.line.flush()
        return self.gone()

    def close(self) -> None:
        for child in self.parent._children.values():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # a parent that has run has ended them
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
            os.close(child.descriptor)
        self.parent._poll.close()
        self.engine.end()
        self.line.end()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Alone]:
    monkeypatch.setattr(worker, "start", pause)
    monkeypatch.setattr(module, "memory_kills", lambda: 7)
    made = Alone()
    yield made
    made.close()


def test_of_workers_that_linux_kills_at_once_for_want_of_memory_each_is_said_to_be(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    for id_ in range(1, 6):
        alone.parent._fork(id_)
    assert not alone.ended(1, signal.SIGKILL).memory
    monkeypatch.setattr(module, "memory_kills", lambda: 9)
    assert not alone.ended(2, signal.SIGTERM).memory
    assert [alone.ended(id_, signal.SIGKILL).memory for id_ in (3, 4, 5)] == [True, True, False]


def test_processes_of_tasks_that_linux_has_killed_are_not_taken_for_workers_without_end(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    for id_ in range(1, 4):
        alone.parent._fork(id_)
    monkeypatch.setattr(module, "memory_kills", lambda: 100)
    assert not alone.ended(1, signal.SIGTERM).memory
    for id_ in range(4, 8):
        alone.parent._fork(id_)
    assert [alone.ended(id_, signal.SIGKILL).memory for id_ in range(2, 8)] == [True, True, False, False, False, False]


@pytest.mark.parametrize("lacks", ["fork", "pidfd_open"])
def test_a_worker_for_whom_there_is_no_room_waits_and_costs_no_other_its_task(alone: Alone, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    alone.parent._fork(1)
    real, left = getattr(os, lacks), [3]

    def scarce(*arguments: int) -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return int(real(*arguments))

    monkeypatch.setattr(os, lacks, scarce)
    thread = threading.Thread(target=alone.parent.run)
    thread.start()
    try:
        alone.engine.say(Fork((), 2))
        alone.engine.say(Fork((), 3))
        wait_for(lambda: sorted(alone.parent._children), lambda found: found == [1, 2, 3], "they are forked when there is room")
        assert len({child.place for child in alone.parent._children.values()}) == 3 and left == [-2]
        assert len(alone.parent._page._free) == WORKERS_MAX - 3
        os.kill(alone.parent._children[1].pid, signal.SIGKILL)
        assert alone.gone().worker == 1
    finally:
        alone.engine.say(Stop())
        thread.join(10)
    assert not thread.is_alive()


def test_a_worker_that_is_not_wanted_any_more_is_not_forked_later(alone: Alone) -> None:
    alone.parent._on(Fork((), 1))
    alone.parent._on(Kill((), 1))
    alone.parent._fork_wanted()
    assert not alone.parent._children


def test_a_parent_that_can_have_no_worker_at_all_says_so_in_the_end(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    alone.parent._fork(1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", none)
        patched.setattr(module, "_SHORT_S", 0.0)
        alone.parent._wanted.append(2)
        alone.parent._fork_wanted()  # it has one
        alone.ended(1, signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            alone.parent._fork_wanted()
            raise AssertionError("it goes on without any worker")
    alone.parent._fork_wanted()
    assert list(alone.parent._children) == [2] and len(alone.parent._page._free) == WORKERS_MAX - 1


def test_what_is_said_of_a_worker_that_has_ended_is_passed_over_and_of_one_that_is_there_is_done(alone: Alone) -> None:
    parent = alone.parent
    for head in (Bar((), 5, 3), Unwanted((), 5, 3), Kill((), 5)):
        parent._on(head)
    parent._on(Fork((), 1))
    parent._fork_wanted()
    place = parent._children[1].place
    assert parent._page.begin(place, 2)
    parent._on(Unwanted((), 1, 2))
    assert parent._page.is_disowned(place)
    parent._on(Bar((), 1, 3))
    alone.line.flush()
    heard = alone.engine.hear()
    assert heard is not None and heard[0] == Barred((), 1, 3, 2)
    assert not parent._page.begin(place, 3)
    parent._on(Kill((), 1))
    os.waitid(os.P_PID, parent._children[1].pid, os.WEXITED | os.WNOWAIT)
    parent._reap(parent._children[1])
    alone.line.flush()
    assert alone.gone().status == signal.SIGKILL
    parent._on(Bar((), 1, 4))
    assert not parent._line._small and not parent._line._out


def test_a_parent_that_is_told_to_stop_lets_its_workers_end_and_then_ends_them(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FAREWELL_S", 0.05)
    alone.parent._on(Fork((), 1))
    alone.parent._fork_wanted()
    pid = alone.parent._children[1].pid
    alone.engine.say(Stop())
    alone.parent.run()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
