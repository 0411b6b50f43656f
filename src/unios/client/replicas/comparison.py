"""Comparison: how many messages each strategy takes for a read, for a write, and for a workload, by its share of reads: as it should be, and as it was counted.

`python -m unios.client.replicas.comparison` prints the table; with `--measure` a workload is run on the system and its messages are counted.
"""

import argparse
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from unios.client.replicas.caller import Caller
from unios.client.replicas.handle import caller_of, close
from unios.client.replicas.objects import discard, distribute, find
from unios.core.message_costs import Costs, costs_of, total, turns_of
from unios.core.strategies import STRATEGIES
from unios.errors import Unavailable
from unios.limits import OBJECT_CALL_MS

COPIES: Final[Mapping[str, int]] = {name: strategy.copies for name, strategy in STRATEGIES.items()}
SHARES: Final = (0, 50, 80, 90, 99)
_LEASE_S: Final = 3_600.0
_KINDS: Final = frozenset({"read", "write", "fetch", "invalidate", "update", "commit"})
"""What belongs to calls: not the making of the object."""


class Register:
    """The object of the workload."""

    def __init__(self) -> None:
        self._value = 0

    def set(self, value: int) -> None:
        """Write it."""
        self._value = value

    def get(self) -> int:
        """Read it."""
        return self._value


@dataclass(frozen=True, slots=True)
class MessageTable:
    """Messages. `rows`: (strategy, copies, what a read and a write take, the totals of the workload by share of reads in percent); `str()` is for people."""

    operations: int
    callers: int
    rows: tuple[tuple[str, int, Costs, dict[int, int]], ...]
    counted: bool

    def fewest(self, share: int) -> str:
        """Return the strategy that takes the fewest messages at a share of reads."""
        return min(self.rows, key=lambda row: row[3][share])[0]

    def __str__(self) -> str:
        shares = list(self.rows[0][3])
        head = ["STRATEGY", "COPIES", "READ", "WRITE", *(f"{share}% READS" for share in shares)]
        lines = [head]
        for name, copies, costs, totals in self.rows:
            read = f"{costs.read} or {costs.per_miss}" if costs.per_miss else str(costs.read)
            write = f"{costs.write}+{costs.per_holder} a cache" if costs.per_holder else str(costs.write)
            lines.append([name, str(copies), read, write, *(f"{totals[share]}{'*' if self.fewest(share) == name else ''}" for share in shares)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
        how = "counted" if self.counted else "as it should be"
        return f"{text}\nMessages of {self.operations} calls by {self.callers} callers in turn, {how}; * the fewest."


def predict(copies: Mapping[str, int] = COPIES, *, callers: int = 3, operations: int = 100, shares: Sequence[int] = SHARES) -> MessageTable:
    """Return the table as it should be. `copies`: how many by strategy."""
    rows = tuple(
        (
            name,
            number,
            costs_of(STRATEGIES[name], number),
            {each: total(STRATEGIES[name], number, turns_of(operations, each), callers) for each in shares},
        )
        for name, number in copies.items()
    )
    return MessageTable(operations, callers, rows, False)


def measure(
    copies: Mapping[str, int] = COPIES,
    *,
    callers: int = 3,
    operations: int = 100,
    shares: Sequence[int] = SHARES,
    home: "Path | str | None" = None,
) -> MessageTable:
    """Run the workload under each strategy at each share of reads, and return the table of the messages that were counted. AssertionError on a wrong result."""
    rows = []
    for name, number in copies.items():
        totals = {share: _count(name, number, turns_of(operations, share), callers, home) for share in shares}
        rows.append((name, number, costs_of(STRATEGIES[name], number), totals))
    return MessageTable(operations, callers, tuple(rows), True)


def _count(strategy: str, copies: int, turns: str, callers: int, home: "Path | str | None") -> int:
    name = f"comparison/{uuid.uuid4().hex[:8]}"
    first = distribute(Register, name, strategy=strategy, copies=copies, reads={"get"}, lease=_LEASE_S, home=home)
    handles: list[Any] = [first, *(find(name, home=home) for _ in range(callers - 1))]
    told = copies - 1 if STRATEGIES[strategy].tells_commits else 0
    writes = 0
    try:
        value = 0
        for number, turn in enumerate(turns):
            _counts(caller_of(first), told * (1 + writes))  # or the next write would carry what was committed, and save the notice
            handle = handles[number % callers]
            if turn == "w":
                value, writes = number, writes + 1
                handle.set(value)
            else:
                assert handle.get() == value
        return sum(_counts(caller_of(first), told * (1 + writes)).values()) - told  # that the new object is committed is no call's
    finally:
        for handle in handles:
            close(handle)
        discard(name, home=home)


def _counts(caller: Caller, notices: int) -> dict[str, int]:
    """Return what was counted once so many commit notices have come, which nobody waits for; Unavailable if they do not."""
    deadline = time.monotonic() + OBJECT_CALL_MS / 1000
    while True:
        found = caller.counts()[0]
        if found.get("commit", 0) >= notices:
            return {kind: number for kind, number in found.items() if kind in _KINDS}
        if time.monotonic() >= deadline:
            raise Unavailable(f"of {notices} commit notices {found.get('commit', 0)} came: a node was lost meanwhile")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m unios.client.replicas.comparison", description="Messages of long-lived objects by strategy and share of reads."
    )
    parser.add_argument("--measure", action="store_true", help="run the workload on the system and count")
    parser.add_argument("--callers", type=int, default=3, metavar="N", help="callers that take turns")
    parser.add_argument("--operations", type=int, default=100, metavar="N", help="calls of the workload")
    given = parser.parse_args()
    if given.callers < 1 or given.operations < 1:
        parser.error("--callers and --operations take at least 1")
    print((measure if given.measure else predict)(callers=given.callers, operations=given.operations))


if __name__ == "__main__":
    main()
