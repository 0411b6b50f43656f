"""Deadlocks: cycles of those who wait for each other (Coffman, Elphick and Shoshani 1971). Decides only."""

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from unios.core.gates import Gate
from unios.core.grants import TIMED, Waiter

A = TypeVar("A")
Actor = tuple[str, str]
"""(session, who of it)"""


class EndlessWaits:
    """Who waits at which gate until it is granted. `ledger`: what each actor holds; nobody waits for one that holds nothing and is the last in its queue."""

    def __init__(self, ledger: Mapping[Actor, int]) -> None:
        self._ledger = ledger
        self._waits: dict[Actor, tuple[Gate, Waiter]] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def end(self, actor: Actor) -> None:
        """It waits no more."""
        self._waits.pop(actor, None)

    def begin(self, gate: Gate, waiter: Waiter, label: Callable[[str], str]) -> tuple[Gate, Waiter, str] | None:
        """Note a wait; if it closes a circle, return the youngest in that, where it waits, and a sentence that names all. `label`: of a session."""
        if waiter.ask.flags & TIMED or gate.kind == "semaphore":
            return None
        self._waits[waiter.actor] = gate, waiter
        if waiter.actor not in self._ledger:
            return None
        found = cycle(waiter.actor, _Blockers(self._waits))
        may_fail = [actor for actor in found if self._waits[actor][1].ask.op == "take"]
        if not may_fail:
            return None
        at, victim = self._waits[max(may_fail, key=lambda actor: self._waits[actor][1].number)]
        gates = [self._waits[actor][0] for actor in found]
        links = [(f"{label(actor[0])} ({actor[1]})", f"{gate.kind} {gate.name}") for actor, gate in zip(found, gates, strict=True)]
        return at, victim, sentence(links)


class _Blockers:
    """Whom each waits for, for one search: of each gate its holders and each place in its queue are looked at once, however many wait behind them."""

    def __init__(self, waits: Mapping[Actor, tuple[Gate, Waiter]]) -> None:
        self._waits = waits
        self._with_holders: set[Gate] = set()
        self._queues: dict[Gate, list[Waiter]] = {}
        self._looked: dict[Gate, int] = {}
        """How many of the queue have been named."""

    def __call__(self, actor: Actor) -> list[Actor]:
        """Return whom it waits for and nobody before it, in this search, did."""
        if actor not in self._waits:
            return []
        gate, waiter = self._waits[actor]
        if not gate.is_waited_for_by(waiter):
            return []
        found: list[Actor] = []
        if gate not in self._with_holders and not gate.has_room(waiter):
            self._with_holders.add(gate)
            found = [(hold.session, hold.actor) for hold in gate.holds.values()]
        if gate not in self._queues:
            self._queues[gate] = list(gate.queue.values())
        queue, looked = self._queues[gate], self._looked.get(gate, 0)
        before = bisect.bisect_left(queue, waiter.number, key=lambda one: one.number)
        self._looked[gate] = max(looked, before)
        return found + [one.actor for one in queue[looked:before]]


def cycle(start: A, blockers: Callable[[A], Iterable[A]]) -> list[A]:
    """Return who waits for whom, from `start` round to it again; empty if nobody whom it waits for waits for it. Each is looked at once."""
    came_from: dict[A, A] = {}
    waiting = [start]
    while waiting:
        actor = waiting.pop()
        for other in blockers(actor):
            if other == start:
                return _back(actor, start, came_from)
            if other not in came_from:
                came_from[other] = actor
                waiting.append(other)
    return []


def _back(last: A, start: A, came_from: dict[A, A]) -> list[A]:
    path = [last]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]


def sentence(links: Sequence[tuple[str, str]]) -> str:
    """Say a cycle of (who, what it waits for)."""
    parts = [f"{who} waits for {what}" for who, what in links]
    return f"a deadlock of {len(links)}: {', held or awaited before it by '.join(parts)}, held or awaited before it by {links[0][0]}"
