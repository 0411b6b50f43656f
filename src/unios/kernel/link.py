"""Link: one established connection of this kernel to another, with what is known of it; kernel/links.py makes and keeps them."""

from typing import NamedTuple

from unios.core.clocks import ClockOffset
from unios.kernel.certificates import Identity
from unios.kernel.clocks import wall_ms
from unios.security_limits import LINK_SUPERSEDED_MS, RELAY_SUPERSEDED_MS
from unios.wire.operations import Pong
from unios.wire.peer import Call, Peer


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

    __slots__ = ("again_ms", "clock", "dialled", "identity", "mark", "peer", "rtt_ms", "superseded_ms", "turn", "until_ms", "via")

    def __init__(self, peer: Peer, identity: Identity, *, via: str, dialled: bool, mark: str, turn: int, until_ms: int) -> None:
        """`mark`: of the certificate that the other side has shown; `turn`: counts those that this side has; `until_ms`: when the first of both ends, wall."""
        self.peer, self.identity, self.via, self.dialled = peer, identity, via, dialled
        self.mark, self.turn, self.until_ms = mark, turn, until_ms
        self.again_ms = 0
        """Before that it is not tried to make it again with a newer certificate."""
        self.superseded_ms = 0
        """Since when there is a better one, straight, or with newer certificates, or the one of two that both sides keep; 0: there is none."""
        self.rtt_ms = 0.0
        self.clock = ClockOffset()

    @property
    def makes_way(self) -> bool:
        """Whether it serves yet, though there is a better one."""
        return bool(self.superseded_ms) and not self.peer.is_closed

    def is_over(self, since_ms: int) -> bool:
        """Return whether it need be there no longer, when there has been a better one for so long. A third's relay is not held for what never ends."""
        return since_ms >= LINK_SUPERSEDED_MS and (self.peer.is_idle or (bool(self.via) and since_ms >= RELAY_SUPERSEDED_MS))

    def statistics(self) -> LinkStatistics:
        version = self.peer.theirs.facts.get("version", "") if self.peer.theirs else ""
        offset = self.clock.estimate_ms() or 0.0
        return LinkStatistics(self.identity.node, True, self.via, self.rtt_ms, "", version[:40], offset, self.clock.doubt_ms())


def answer_ping(call: Call) -> bool:
    """Serve what needs no task: a ping."""
    if call.op != "links.ping":
        return False
    call.answer(Pong(wall_ms()))
    return True
