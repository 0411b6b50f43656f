"""Moving the store to another engine: what goes along. Decides only; kernel/moving.py has it done.

Who has a member of etcd is not true of another cluster, nor is what was decided about members. All else goes along as it is, with its lease.
"""

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from unios.core.nodes import NodeRecord
from unios.core.quorum import CHANGES, LEAVING, PREFIX
from unios.errors import CallerError
from unios.undecodable import UNDECODABLE

NODES: Final = "/nodes/"
MOVING: Final = "/store-moves"
"""The record that an attempt of the way back has, under its kernel's lease: MACHINE.MOVES-NUMBER."""
STAYS: Final = (PREFIX, LEAVING, CHANGES, MOVING)


def goes_along(key: str) -> bool:
    """Whether that record is true whatever the engine."""
    return not key.startswith(STAYS)


def attempt_of(machine: str, moves: int, number: str) -> str:
    """Return the name of an attempt of a machine that knows of so many moves of the store."""
    return f"{machine}.{moves}-{number}"


def machine_of(attempt: str) -> str:
    """Return the machine that an attempt is of."""
    return attempt.rpartition(".")[0]


def has_stayed(attempt: str, moves: int) -> bool:
    """Whether the store is where it was before that attempt, of whose machine it is known now how often it has moved."""
    return attempt.rpartition(".")[2].partition("-")[0] == str(moves)


def check(nodes: Iterable[tuple[str, bytes]], machines: Collection[str]) -> None:
    """Raise CallerError if a node of a machine that is none of these is a member of the system: it may have a gateway to etcd of its own. For the way back."""
    others = []
    for key, value in nodes:
        if not key.startswith(NODES):
            continue
        try:
            record = msgspec.msgpack.decode(value, type=NodeRecord)
        except UNDECODABLE as error:
            raise CallerError(f"the record {key[:80]} makes no sense to this version of unios ({error})") from error
        if record.state == "joined" and record.machine not in machines:
            others.append(record.name)
    if others:
        raise CallerError(f"the store stays in etcd: {', '.join(sorted(others)[:8])} may go on writing there; try again, or let it leave")
