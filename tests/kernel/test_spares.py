"""Spares when the zygote cannot be forked; that they work is shown by the guard's tests."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from unios.kernel import freezer, poller, spares, zygote


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
