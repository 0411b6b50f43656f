"""A history: what each client asked for, when, and how that ended. Written as lines while it happens, so that a client that is killed leaves what it had begun.

- `ok`: it was done, somewhere between asking and the answer. `fail`: it was not done, and never will be. `unknown`: it may be done at any time after asking.
- Times are of CLOCK_MONOTONIC, which all processes of one Linux have in common, pseudo-machines included.
- Values that are written are written once in a history: then a read tells which write it saw.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

Outcome = Literal["ok", "fail", "unknown"]


class Operation(msgspec.Struct, frozen=True):
    """One operation of a client on one object."""

    client: str
    action: str
    argument: Any = None
    result: Any = None
    began_ns: int = 0
    ended_ns: int | None = None
    """None: no end is known, so it may take effect at any time."""
    must: bool = True
    """Whether it took effect for certain; else it may have, before its end if it has one."""
    key: str = ""
    note: str = ""

    def __str__(self) -> str:
        end = "..." if self.ended_ns is None else f"{self.ended_ns / 1e6:.3f}"
        what = f"{self.action}({'' if self.argument is None else self.argument})"
        result = "" if self.result is None else f" -> {self.result}"
        maybe = "" if self.must else "  (may or may not have been done)"
        return f"{self.began_ns / 1e6:14.3f} {end:>14} ms  {self.client:<10} {self.key} {what}{result}{maybe}{'  ' + self.note if self.note else ''}"


class Began(msgspec.Struct, frozen=True, tag="began"):
    """Written before it is asked for. `number` counts what a client asks."""

    client: str
    number: int
    workload: str
    key: str
    action: str
    argument: Any
    at_ns: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Written after the answer."""

    client: str
    number: int
    outcome: Outcome
    result: Any
    at_ns: int
    note: str = ""


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """What was done to the system."""

    text: str
    at_ns: int


Line = Began | Ended | Fault
_decoder = msgspec.json.Decoder(Line)


def encode(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def read(path: Path) -> list[Line]:
    """Return what a file of lines says; the last one of a client that was killed may be cut off."""
    return list(decode(path.read_bytes().splitlines()))


def decode(lines: Iterable[bytes]) -> Iterator[Line]:
    for line in lines:
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError:
            continue


class Asked(msgspec.Struct, frozen=True):
    """What was asked and how it ended, as the client has it."""

    began: Began
    ended: Ended | None

    @property
    def outcome(self) -> Outcome:
        return "unknown" if self.ended is None else self.ended.outcome

    def operation(self, **changes: Any) -> Operation:
        """Return it as an operation; what failed may be asked for only where a model makes something of it."""
        begun, end = self.began, self.ended
        done = end is not None and self.outcome == "ok"
        found = Operation(
            begun.client,
            begun.action,
            begun.argument,
            end.result if end is not None and done else None,
            begun.at_ns,
            end.at_ns if end is not None and done else None,
            done,
            begun.key,
            end.note if end is not None else "never answered",
        )
        return msgspec.structs.replace(found, **changes)


def pair(lines: Iterable[Line]) -> dict[str, list[Asked]]:
    """Return what was asked by workload, in the order of asking."""
    ends = {}
    begun = []
    for line in lines:
        if isinstance(line, Began):
            begun.append(line)
        elif isinstance(line, Ended):
            ends[line.client, line.number] = line
    found: dict[str, list[Asked]] = {}
    for one in sorted(begun, key=lambda one: one.at_ns):
        found.setdefault(one.workload, []).append(Asked(one, ends.get((one.client, one.number))))
    return found


def by_key(asked: Iterable[Asked]) -> dict[str, list[Asked]]:
    """Return it apart for each object: a history is linearizable if that of each object is (Herlihy and Wing 1990, locality)."""
    found: dict[str, list[Asked]] = {}
    for one in asked:
        found.setdefault(one.began.key, []).append(one)
    return found
