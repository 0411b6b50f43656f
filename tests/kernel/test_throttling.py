"""An init slows its tree down while it forks against its bound: who holds it, when it is let go, what is told. A real loop, a freezer that only takes note."""

import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from unios.core.throttle import REFUSED_BURST
from unios.kernel import throttling
from unios.kernel.poller import Poller
from unios.kernel.throttling import Throttling


class Freezer:
    """Stands still a while after it was told to, as processes do that are in a fork."""

    def __init__(self, wakes: int) -> None:
        self.wakes, self.held, self.holds, self.dies = wakes, False, 0, False
        self.settles_at, self.never, self.stuck, self.lets = 0.0, False, False, 0

    def open_refusals(self) -> int:
        return self.wakes

    def hold(self) -> bool:
        if self.dies:
            return False
        if not self.held:
            self.held, self.holds, self.settles_at = True, self.holds + 1, time.monotonic() + 0.02
        return True

    def settled(self) -> bool:
        return self.held and not self.never and time.monotonic() >= self.settles_at

    def let_go(self) -> bool:
        self.lets += 1
        self.held &= self.stuck
        return not self.stuck


class Tree:
    """An init, as far as throttling goes, and a program that is refused `rate` forks a second while it is not held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.poller = Poller()
        self.wakes, self._rings = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.freezer = Freezer(self.wakes)
        self.started, self.ending, self.disturbed = True, False, False
        self.leash = SimpleNamespace(frozen=False, killed=False)
        self.job = SimpleNamespace(pid=7, incarnation=1)
        self.told: list[dict[str, Any]] = []
        self.rate, self.refused, self._at = 0.0, 90_000.0, time.monotonic()
        monkeypatch.setattr(throttling, "WATCH_EVERY_S", 0.02)
        monkeypatch.setattr(throttling, "CALM_S", 0.3)
        monkeypatch.setattr(Throttling, "_refused", lambda _throttling: self.count())
        self.throttling = Throttling(self)  # type: ignore[arg-type]
        self.throttling.begin()

    def count(self) -> int:
        now = time.monotonic()
        if not self.freezer.settled():
            self.refused += self.rate * (now - self._at)
        self._at = now
        return int(self.refused)

    def tell(self, event: dict[str, Any]) -> None:
        self.told.append(event)

    def turns(self, seconds: float) -> float:
        """Run for so long; return which share of it the tree stood still."""
        until, still, before = time.monotonic() + seconds, 0.0, time.monotonic()
        while (now := time.monotonic()) < until:
            self.count()
            still += (now - before) * self.freezer.settled()
            before = now
            self.poller.after(0.002, lambda: None)
            self.poller.turn()
        return still / seconds

    def close(self) -> None:
        self.throttling.close()
        os.close(self._rings)


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    made = Tree(monkeypatch)
    yield made
    made.close()


def test_a_tree_that_forks_against_its_bound_stands_still_most_of_the_time(tree: Tree) -> None:
    tree.rate = 20_000
    tree.throttling.watch()
    tree.turns(0.3)
    assert tree.turns(3) > 0.7
    assert tree.freezer.holds > 2 and tree.disturbed
    assert [(event["event"], event["pid"], event["incarnation"], event["on"]) for event in tree.told] == [("throttled", 7, 1, True)]


def test_it_is_let_go_when_it_stops_and_that_is_told(tree: Tree) -> None:
    tree.rate = 20_000
    tree.throttling.watch()
    tree.turns(1)
    tree.rate = 0
    tree.turns(1.8)
    assert not tree.freezer.held and not tree.throttling.holds
    assert [event["on"] for event in tree.told] == [True, False]
    holds = tree.freezer.holds
    tree.turns(0.3)
    assert tree.freezer.holds == holds


def test_one_that_only_meets_its_bound_is_never_held(tree: Tree) -> None:
    tree.rate = 200
    tree.throttling.watch()
    tree.turns(1)
    assert not tree.freezer.holds and not tree.told


@pytest.mark.parametrize("what", ["frozen", "killed", "ending", "dies"])
def test_what_holds_it_otherwise_or_ends_it_goes_first(tree: Tree, what: str) -> None:
    tree.rate = 20_000
    tree.throttling.watch()
    while not tree.freezer.settled():
        tree.turns(0.01)
    if what == "frozen":
        tree.leash.frozen = True
    elif what == "killed":
        tree.leash.killed = True
    elif what == "ending":
        tree.ending = True
    else:
        tree.freezer.dies = True
    holds = tree.freezer.holds
    tree.turns(1)
    assert tree.freezer.holds == holds and not tree.throttling.holds
    assert tree.freezer.held == (what != "dies"), "what a person or a lease has frozen is not let go"
    if what == "frozen":
        tree.leash.frozen, tree.freezer.held = False, False
        tree.throttling.watch()
        tree.turns(0.5)
        assert tree.freezer.holds > holds, "let go by them, and at it again"


def test_what_was_refused_long_ago_is_no_reason(tree: Tree) -> None:
    tree.refused += 100 * REFUSED_BURST
    tree.throttling.watch()
    tree.turns(0.3)
    assert not tree.freezer.holds


def test_one_that_somebody_else_let_go_while_it_was_to_stand_still_is_held_again(tree: Tree) -> None:
    tree.rate = 20_000
    tree.throttling.watch()
    while not tree.freezer.held:
        tree.turns(0.002)
    tree.freezer.let_go()  # frozen and thawed by a person between two looks
    tree.turns(0.3)
    assert tree.turns(1.5) > 0.6


def test_one_that_cannot_stand_still_is_let_run_again_and_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for another one of its tree in a way that nothing breaks off: held for ever, neither would go on."""
    monkeypatch.setattr(throttling, "SETTLED_S_MAX", 0.2)
    tree.rate, tree.freezer.never = 20_000, True
    tree.throttling.watch()
    tree.turns(1.5)
    assert tree.freezer.lets >= 3 and tree.freezer.holds >= 3


def test_who_asks_something_of_it_is_not_kept_waiting(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "WAY_S", 0.3)
    tree.rate = 20_000
    tree.throttling.watch()
    while not tree.freezer.settled():
        tree.turns(0.01)
    tree.throttling.give_way()
    assert not tree.freezer.held and tree.turns(0.25) == 0
    tree.turns(0.3)
    assert tree.turns(1.5) > 0.6, "and then it is held as before"


def test_a_tree_whose_program_has_ended_is_let_go_for_good_and_nothing_more_is_told(tree: Tree) -> None:
    tree.rate = 20_000
    tree.throttling.watch()
    while not tree.freezer.settled():
        tree.turns(0.01)
    tree.throttling.program_ended()
    tree.ending, holds = True, tree.freezer.holds
    tree.turns(0.8)
    assert not tree.freezer.held and tree.freezer.holds == holds
    assert [event["on"] for event in tree.told] == [True]


def test_what_linux_refuses_to_let_go_is_let_go_later(tree: Tree) -> None:
    tree.rate = 20_000
    tree.throttling.watch()
    while not tree.freezer.settled():
        tree.turns(0.01)
    tree.freezer.stuck, tree.rate = True, 0
    tree.turns(1)
    assert tree.freezer.held
    tree.freezer.stuck = False
    tree.turns(1)
    assert not tree.freezer.held and not tree.throttling.holds


def test_bursts_with_pauses_are_told_of_once(tree: Tree) -> None:
    for _ in range(4):
        tree.rate = 20_000
        tree.throttling.watch()
        tree.turns(0.4)
        tree.rate = 0
        tree.turns(0.25)
    assert [event["on"] for event in tree.told] == [True]
