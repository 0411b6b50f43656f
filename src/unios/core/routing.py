"""Routing: how a node reaches another: straight, or through a third that reaches both. Decides only; kernel/links.py dials.

Rules: of two nodes the one whose name is smaller dials at once, the other helps after HELP_MS, so that one direction suffices; of two connections that
arose at once both keep the one that the smaller name dialled; while straight attempts fail, each neighbour in turn is asked to relay; straight is
tried again as long as the way is not straight.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from unios.limits import LINK_RETRY_MS_MAX

HELP_MS: Final = 400
RETRY_MS_FIRST: Final = 50
RELAY_AFTER: Final = 1
"""So many failed straight attempts before neighbours are asked."""
STRAIGHT_AGAIN_MS: Final = 3_000


class Attempt(NamedTuple):
    """Order: try this now. Exactly one of the two is set."""

    address: str = ""
    via: str = ""


class Route:
    """The way from `me` to one other node. Times in ms."""

    __slots__ = ("_due_ms", "_failures", "_me", "_peer", "_turn", "addresses", "linked", "straight")

    def __init__(self, me: str, peer: str, addresses: Sequence[str], now_ms: int) -> None:
        self._me, self._peer = me, peer
        self.addresses = tuple(addresses)
        self.linked = False
        self.straight = False
        self._failures = 0
        self._turn = 0
        self._due_ms = now_ms if me < peer else now_ms + HELP_MS

    def next(self, now_ms: int, neighbours: Iterable[str]) -> Attempt | None:
        """Return what to try now, if anything; its outcome must be told before the next question."""
        if now_ms < self._due_ms or self.straight:
            return None
        others = sorted(name for name in neighbours if name not in (self._me, self._peer))
        choices = [Attempt(address=address) for address in self.addresses]
        if not self.linked and (self._failures >= RELAY_AFTER or not choices):
            choices += [Attempt(via=name) for name in others]
        if not choices:
            return None
        choice = choices[self._turn % len(choices)]
        self._turn += 1
        return choice

    def failed(self, now_ms: int) -> None:
        """The attempt led nowhere."""
        self._failures += 1
        wait_ms = STRAIGHT_AGAIN_MS if self.linked else min(RETRY_MS_FIRST << min(self._failures, 10), LINK_RETRY_MS_MAX)
        self._due_ms = now_ms + wait_ms

    def expected(self, now_ms: int) -> bool:
        """The peer has come back, and what failed before says nothing any more: begin anew. Return whether there is anything to try."""
        if self.linked:
            return False
        self._failures = self._turn = 0
        self._due_ms = min(self._due_ms, now_ms + (0 if self._me < self._peer else HELP_MS))
        return True

    def up(self, *, straight: bool, now_ms: int) -> None:
        """There is a link."""
        self.linked, self.straight, self._failures, self._turn = True, straight, 0, 0
        self._due_ms = now_ms + STRAIGHT_AGAIN_MS

    def down(self, now_ms: int) -> None:
        """The link broke."""
        self.linked = self.straight = False
        self._due_ms = now_ms + (0 if self._me < self._peer else HELP_MS)


def keeps_new(me: str, peer: str, *, old_dialled_here: bool, new_dialled_here: bool, old_straight: bool, new_straight: bool) -> bool:
    """Return whether a second connection to a peer takes the place of the first. Both sides come to the same answer."""
    if new_straight != old_straight:
        return new_straight
    if new_dialled_here == old_dialled_here:
        return True
    return new_dialled_here == (me < peer)
