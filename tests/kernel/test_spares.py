"""Spares when the zygote cannot be forked; that they work is shown by the guard's tests."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

import pytest

from unios.kernel import clone, freezer, poller, spares, trees_protocol, zygote
from unios.limits import REAPED_MAX


def turn_until(loop: poller.Poller, reached: Callable[[], bool], what: str) -> None:
    """Let the loop turn until it is so; fail after five seconds, since a loop to which nothing comes waits for ever."""
    late: list[bool] = []
    poller.Poller.after(loop, 5.0, lambda: late.append(True))
    while not reached():
        assert not late, f"not within 5 s: {what}"
        loop.turn()


def test_a_zygote_that_cannot_be_forked_is_waited_for_and_leaves_no_nameless_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object) -> NoReturn:
        raise OSError(11, "Resource temporarily unavailable")

    asked: list[str] = []

    def works(*_arguments: object) -> tuple[int, socket.socket]:
        asked.append("again")
        raise OSError(11, "still")

    made = spares.Spares(poller.Poller(), str(tmp_path), zygote.Groups(None), namespaces=False, ready=lambda: None, failed=lambda _text: None)
    monkeypatch.setattr(zygote, "start", fails)
    made.want(())
    monkeypatch.setattr(zygote, "start", works)
    made.want([(0,), (0,), (0,)])
    assert asked == [] and made.take((0,)) is None
    made._ask_again()
    made.want(())
    assert asked == ["again"]
    made.close()


def test_a_zygote_that_dies_at_once_is_made_again_ever_more_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_arguments: object) -> tuple[int, socket.socket]:
        mine, theirs = socket.socketpair()
        theirs.close()
        return os.open(os.devnull, os.O_RDONLY), mine

    pauses: list[float] = []
    loop = poller.Poller()
    made = spares.Spares(loop, str(tmp_path), zygote.Groups(None), namespaces=False, ready=lambda: None, failed=lambda _text: None)
    monkeypatch.setattr(zygote, "start", dies)
    monkeypatch.setattr(loop, "after", lambda seconds, _callback: pauses.append(seconds) if seconds != spares.ANSWER_S else 0)
    for _death in range(12):
        made.want(())
        turn_until(loop, lambda: made._zygote is None, "its death is seen")
        made.want([(0,), (0,), (0,)])
        assert made._zygote is None  # not before its time
        made._ask_again()
    assert pauses == [min(0.01 * 2**death, 5.0) for death in range(12)]
    made.close()


def test_nothing_is_released_without_a_name() -> None:
    with pytest.raises(AssertionError):
        freezer.release((), "")


def test_a_spare_that_is_lost_on_the_way_to_another_tree_leaves_no_group_of_its_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    made = spares.Spares(poller.Poller(), str(tmp_path), zygote.Groups(None), namespaces=True, ready=lambda: None, failed=lambda _text: None)
    monkeypatch.setattr(freezer, "release", lambda _places, group: released.append(group))
    child = os.fork()
    if child == 0:
        os._exit(0)
    mine, theirs = socket.socketpair()
    spare = spares.Spare(child, 1, os.pidfd_open(child), mine, "last", True, (0, 0))
    assert made.recycle(spare)
    theirs.close()
    os.waitpid(child, 0)
    turn_until(made._loop, lambda: len(released) == 2, "both groups are released")
    assert set(released) == {"last", f"{made._token}.1"}
    made.close()


@pytest.mark.parametrize("owner", [(0, 0), spares.ANYBODY], ids=["again", "new"])
def test_one_that_was_ready_late_is_ended_too_if_there_are_more_than_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: tuple[int, ...]
) -> None:
    """On a busy machine they stayed for good: the others had been looked through when they came."""
    monkeypatch.setattr(spares, "LINGER_S", 0.05)
    loop = poller.Poller()
    made = spares.Spares(loop, str(tmp_path), zygote.Groups(None), namespaces=True, ready=lambda: None, failed=lambda _text: None)
    children: list[int] = []
    ends: list[socket.socket] = []

    def begin() -> None:
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
        mine, theirs = socket.socketpair()
        ends.append(theirs)
        made._begin(spares.Spare(child, 1, os.pidfd_open(child), mine, f"group{len(ends)}", True, owner))

    def ready(at: int) -> None:
        ends[at].sendall(trees_protocol.encode({"ready": True}))

    try:
        for _at in range(4):
            begin()
        for at in range(3):
            ready(at)
        at_rest = {(0, 0): 1, spares.ANYBODY: 2}[owner]
        turn_until(loop, lambda: len(made._ready) == 3, "three are ready")
        turn_until(loop, lambda: len(made._ready) == at_rest, "as many are left as at rest")
        ready(3)
        turn_until(loop, lambda: len(made._ready) == at_rest + 1, "the last is ready too")
        turn_until(loop, lambda: len(made._ready) == at_rest, "and there are as many as at rest again")
    finally:
        made.close()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for end in ends:
            end.close()


STAYS: Final = -1
"""Its control socket has ended, and it is still on its way."""


class Forked:
    """A zygote in the test's hand, whose inits end before the guard has heard of them, each as `ends` says: by a signal, 0 of itself; or STAYS."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket, theirs = socket.socketpair()
        monkeypatch.setattr(zygote, "start", lambda *_arguments: (os.open(os.devnull, os.O_RDONLY), theirs))
        monkeypatch.setattr(clone, "become_subreaper", lambda: None)
        self.loop = poller.Poller()
        self.made = spares.Spares(self.loop, str(folder), zygote.Groups(None), namespaces=True, ready=lambda: None, failed=lambda _text: None)

    def end(self, *ends: int) -> None:
        for number in ends:
            self.made._ask()
            child = os.fork()
            if child == 0:
                signal.pause() if number else os._exit(70)
            pidfd = os.pidfd_open(child)
            mine, theirs = socket.socketpair()
            if number != STAYS:
                os.kill(child, number)
                self.made.reaped(*os.waitpid(child, 0))
            socket.send_fds(self.socket, [trees_protocol.encode({"pid": child})], [pidfd, mine.fileno()])
            for descriptor in (pidfd, mine.detach(), theirs.detach()):
                os.close(descriptor)
            lost = self.made._failures
            turn_until(self.loop, lambda lost=lost: self.made._failures != lost, "it is seen to have ended")  # type: ignore[misc]


@pytest.fixture
def forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forked]:
    forked = Forked(tmp_path, monkeypatch)
    yield forked
    forked.made.close()
    forked.socket.close()


def test_spares_that_are_killed_before_the_guard_has_heard_of_them_say_nothing_about_namespaces(forked: Forked) -> None:
    forked.end(*[signal.SIGKILL] * (spares.FAILURES_MAX + 1))
    assert forked.made.namespaces
    assert not forked.made._statuses


def test_only_spares_that_die_of_themselves_count_against_namespaces(forked: Forked) -> None:
    forked.end(signal.SIGKILL, 0, signal.SIGKILL, 0, signal.SIGKILL)
    assert forked.made.namespaces
    forked.end(0)
    assert not forked.made.namespaces and forked.made.why_not == "the init died"


def test_a_spare_whose_end_is_slow_says_nothing_about_namespaces(forked: Forked) -> None:
    forked.end(*[STAYS] * (spares.FAILURES_MAX + 1))
    assert forked.made.namespaces


def test_ends_of_others_are_forgotten_once_the_zygote_has_answered_and_bounded_before(forked: Forked) -> None:
    forked.made.reaped(1, 0)
    assert not forked.made._statuses
    forked.made._ask()
    for pid in range(10 * REAPED_MAX):
        forked.made.reaped(pid, 0)
    assert len(forked.made._statuses) == REAPED_MAX
    forked.socket.sendall(trees_protocol.encode({"error": "none"}))
    turn_until(forked.loop, lambda: not forked.made._asked, "it is heard")
    assert not forked.made._statuses


def test_a_shortage_that_passes_does_not_end_namespaces_and_a_refusal_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [{"error": "Resource temporarily unavailable", "passing": True}, {"error": "No space left on device", "passing": False}]
    mine, theirs = socket.socketpair()
    monkeypatch.setattr(zygote, "start", lambda *_arguments: (os.open(os.devnull, os.O_RDONLY), mine))
    monkeypatch.setattr(clone, "become_subreaper", lambda: None)
    loop = poller.Poller()
    made = spares.Spares(loop, str(tmp_path), zygote.Groups(None), namespaces=True, ready=lambda: None, failed=lambda _text: None)
    made.want(())
    asked = len(made._asked)
    theirs.sendall(trees_protocol.encode(answers[0]))
    turn_until(loop, lambda: len(made._asked) < asked, "the first answer is heard")
    assert made.namespaces and not made.why_not
    theirs.sendall(trees_protocol.encode(answers[1]))
    turn_until(loop, lambda: not made.namespaces, "the refusal is heard")
    assert made.why_not == "No space left on device"
    theirs.close()
    made.close()
