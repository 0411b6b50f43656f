"""Message costs: how many messages a strategy takes for a read and for a write, where nothing fails. The measured ones are equal, a test says.

A call is two messages, the request and its answer; a commit notice is one. Starting, and a copy that comes back, are not in it.
"""

from dataclasses import dataclass
from typing import Final

from unios.core.strategies import STRATEGIES, Strategy

CALL: Final = 2
NOTICE: Final = 1


@dataclass(frozen=True, slots=True)
class Costs:
    """Messages. `per_holder`: for each cache, beside the writer's own, that a write has to invalidate. `per_miss`: a read of a cache that has nothing."""

    read: int
    write: int
    per_holder: int = 0
    per_miss: int = 0


def costs_of(strategy: Strategy, copies: int) -> Costs:
    """Return what a strategy costs with so many copies."""
    told = (copies - 1) * (CALL + (NOTICE if strategy.tells_commits else 0))
    if strategy.reads == "caller":
        return Costs(0, CALL + told, CALL, CALL)
    return Costs(CALL, CALL + told)


def total(strategy: Strategy, copies: int, turns: str, callers: int) -> int:
    """Return the messages of a workload: `turns` of "r" and "w", one caller after the other in turn."""
    costs = costs_of(strategy, copies)
    sum_ = 0
    holders: set[int] = set()
    for number, turn in enumerate(turns):
        caller = number % callers
        if turn == "w":
            sum_ += costs.write + costs.per_holder * len(holders - {caller})
            holders.clear()
        else:
            sum_ += costs.read
            if costs.per_miss and caller not in holders:
                sum_ += costs.per_miss
                holders.add(caller)
    return sum_


def turns_of(count: int, reads_percent: int) -> str:
    """Return so many turns, the reads spread evenly among the writes."""
    return "".join("r" if (number + 1) * reads_percent // 100 > number * reads_percent // 100 else "w" for number in range(count))


def table(copies: dict[str, int], callers: int, count: int = 100) -> list[tuple[str, Costs, dict[int, int]]]:
    """Return (strategy, costs, messages by share of reads in percent) for a workload of `count` turns."""
    shares = (0, 50, 80, 95, 99, 100)
    return [
        (name, costs_of(STRATEGIES[name], number), {share: total(STRATEGIES[name], number, turns_of(count, share), callers) for share in shares})
        for name, number in copies.items()
    ]
