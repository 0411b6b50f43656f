"""Deadlocks: cycles of those who wait for each other (Coffman, Elphick and Shoshani 1971). Decides only."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

A = TypeVar("A")


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
