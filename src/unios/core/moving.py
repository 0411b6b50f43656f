"""Moving the store to another engine: what goes along. Decides only; kernel/moving.py has it done.

Who has a member of etcd is not true of another cluster, nor is what was decided about members. All else goes along as it is, with its lease.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from unios.core.nodes import NodeRecord
from unios.core.quorum import CHANGES, LEAVING, PREFIX
from unios.errors import CallerError
from unios.undecodable import UNDECODABLE

NODES: Final = "/nodes/"
STAYS: Final = (PREFIX, LEAVING, CHANGES)


def goes_along(key: str) -> bool:
    """Whether that record is true whatever the engine."""
    return not key.startswith(STAYS)


def check(nodes: Iterable[tuple[str, bytes]], machine: str) -> None:
    """Raise CallerError if a node of another machine is a member of the system, which may have a gateway to etcd of its own: for the way back from there."""
    others = []
    for key, value in nodes:
        if not key.startswith(NODES):
            continue
        try:
            record = msgspec.msgpack.decode(value, type=NodeRecord)
        except UNDECODABLE as error:
            raise CallerError(f"the record {key[:80]} makes no sense to this version of unios ({error})") from error
        if record.state == "joined" and record.machine != machine:
            others.append(record.name)
    if others:
        raise CallerError(
            f"the store of a system of several machines stays in etcd, and {', '.join(sorted(others)[:8])} is on another than this: let it leave before the "
            "move and join after it"
        )
