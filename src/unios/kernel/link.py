"""Link: one established connection of this kernel to another, with what is known of it. Data only; kernel/links.py makes and keeps them."""

from typing import NamedTuple

from unios.core.clocks import ClockOffset
from unios.kernel.certificates import Identity
from unios.wire.peer import Peer


class Refused(NamedTuple):
    """Why a node gets no link. `left`: this very node, by its certificate, has left the system."""

    why: str
    left: bool = False


class LinkStatistics(NamedTuple):
    """What `node.links` shows of one."""

    peer: str
    up: bool
    via: str
    rtt_ms: float
    reason: str
    version: str = ""
    clock_ms: float = 0.0
    clock_doubt_ms: float = 0.0


class Link:
    """One established connection."""

    __slots__ = ("clock", "dialled", "identity", "peer", "rtt_ms", "via")

    def __init__(self, peer: Peer, identity: Identity, *, via: str, dialled: bool) -> None:
        self.peer, self.identity, self.via, self.dialled = peer, identity, via, dialled
        self.rtt_ms = 0.0
        self.clock = ClockOffset()

    def statistics(self) -> LinkStatistics:
        version = self.peer.theirs.facts.get("version", "") if self.peer.theirs else ""
        offset = self.clock.estimate_ms() or 0.0
        return LinkStatistics(self.identity.node, True, self.via, self.rtt_ms, "", version[:40], offset, self.clock.doubt_ms())
