"""Strategies: how the copies of a long-lived object agree. One table; the sequencer, the copies and the callers read it (E1, 1999: per object, by configuration).

What a call returns is the same under each. What differs is who is told of a write, what he is told, and who answers a read: the number of messages.
"""

from dataclasses import dataclass
from typing import Final, Literal

from unios.errors import Misused
from unios.limits import OBJECT_COPIES_MAX

Reads = Literal["sequencer", "nearest", "caller"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """`ships_state`: copies are sent the state after a write, else the call, which each of them does itself. `reads`: who answers them: the sequencer; the copy
    nearest to the caller, which therefore is told when a write is committed; or the caller himself, from a cache that a write invalidates."""

    name: str
    copies: int
    """Unless another number is asked for."""
    ships_state: bool
    reads: Reads
    meaning: str

    @property
    def tells_commits(self) -> bool:
        """Say whether copies hear that a write is committed: those that answer reads must not show another."""
        return self.reads == "nearest"


STRATEGIES: Final = {
    strategy.name: strategy
    for strategy in (
        Strategy("one-place", 1, True, "sequencer", "one copy answers everything; lost with its node"),
        Strategy("active", 2, False, "nearest", "every copy does every write; the nearest answers reads"),
        Strategy("primary-backup", 2, True, "sequencer", "the primary does everything; backups are sent the state after each write"),
        Strategy("cached-reads", 2, True, "caller", "as primary-backup; callers read from a cache, which a write invalidates first"),
    )
}


def strategy_of(name: str, copies: int | None) -> tuple[Strategy, int]:
    """Return the strategy and the number of copies. Misused for one that does not exist, or a number that it cannot have."""
    strategy = STRATEGIES.get(name)
    if strategy is None:
        raise Misused(f"there is no strategy {name!r}; there are {', '.join(STRATEGIES)}")
    wanted = strategy.copies if copies is None else copies
    most = 1 if name == "one-place" else OBJECT_COPIES_MAX
    if not 1 <= wanted <= most:
        raise Misused(f"{name} takes {'one copy' if most == 1 else f'1 to {most} copies'}, not {wanted}")
    return strategy, wanted
