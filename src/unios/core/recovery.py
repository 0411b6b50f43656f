"""Recovery: what happens to the processes of a lost node, and who does it. Decides only; any node's recovery service acts, the store picks the winner.

Every survivor may claim everything. To spare the store a stampede each waits for its rank in a rendezvous order of (process, node): if the first in
rank is gone too, the second claims a moment later. Invariant: a claim never lowers an incarnation.
"""

import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

from unios.core import claims
from unios.core.processes import LIVE, ProcessRecord

RANK_DELAY_MS: Final = 150


class Claim(NamedTuple):
    """Order: `delay_ms` from now, decide about this process as `outcome` says, if it still is as it was."""

    pid: int
    incarnation: int
    outcome: claims.Loss
    delay_ms: int


def rank(pid: int, me: str, survivors: Iterable[str]) -> int:
    """Return my place, from 0, among those that may claim process `pid` (highest random weight, Thaler and Ravishankar 1998)."""
    weight = zlib.crc32(f"{pid}/{me}".encode())
    return sum(1 for other in survivors if other != me and (zlib.crc32(f"{pid}/{other}".encode()), other) > (weight, me))


def plan(lost: str, records: Iterable[ProcessRecord], me: str, survivors: Iterable[str]) -> list[Claim]:
    """Return what to claim of the processes that the lost node holds, in order of delay."""
    others = list(survivors)
    orders = [
        Claim(record.pid, record.incarnation, claims.on_loss(record), RANK_DELAY_MS * rank(record.pid, me, others))
        for record in records
        if record.node == lost and record.state in LIVE
    ]
    return sorted(orders, key=lambda order: (order.delay_ms, order.pid))


def restarts(records: Iterable[ProcessRecord], me: str, survivors: Iterable[str]) -> list[Claim]:
    """Return the ended processes that their policy starts again."""
    others = list(survivors)
    return [
        Claim(record.pid, record.incarnation, "again", RANK_DELAY_MS * rank(record.pid, me, others))
        for record in records
        if claims.wants_restart(record)
    ]
