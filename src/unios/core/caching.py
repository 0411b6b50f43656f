"""Caching: who keeps a copy of an object's state to read from, until when, and what a write waits for. Decides only (Gray and Cheriton 1989: leases).

A write is done, and sent to copies, when no cache has the state before it any more: each holder has said that it dropped it, or its lease is over. So whoever
has the new state, a successor of the owner too, may show it. Until then nobody is given a new grant. The holder counts its lease from before it asked, and trusts
only HOLD_SHARE of it, so clocks may run at rates that differ by a quarter.
A new owner knows no holders: it lets one lease pass before its first write.
"""

from dataclasses import dataclass
from typing import Final

from unios.limits import OBJECT_HOLDERS_MAX

HOLD_SHARE: Final = 0.75
EPOCH_GRANTS: Final = 1 << 40
"""Grants of an epoch: their numbers grow over the owners too."""


@dataclass(slots=True)
class _Grant:
    number: int
    until_ms: float


class Holders:
    """The owner's side. Times are of the owner's monotonic clock, ms."""

    def __init__(self, epoch: int, lease_ms: float, now_ms: float) -> None:
        """`now_ms`: no earlier owner has granted anything since."""
        self.lease_ms = lease_ms
        self._not_before_ms = now_ms + lease_ms if epoch > 1 else now_ms
        self._number = epoch * EPOCH_GRANTS
        self._grants: dict[str, _Grant] = {}
        self._waiting: dict[str, int] = {}
        self._retired = False

    def grant(self, session: str, now_ms: float) -> int:
        """Return the number of a grant for one lease from now; 0: there are too many holders, or none any more: read without keeping. Never between `begin`
        and its end."""
        if self._retired:
            return 0
        if session not in self._grants and len(self._grants) >= OBJECT_HOLDERS_MAX:
            self._grants = {each: grant for each, grant in self._grants.items() if grant.until_ms > now_ms}
            if len(self._grants) >= OBJECT_HOLDERS_MAX:
                return 0
        self._number += 1
        self._grants[session] = _Grant(self._number, now_ms + self.lease_ms)
        return self._number

    def begin(self, writer: str, dropped: int) -> None:
        """A write has begun: all grants have to go. The writer has dropped his up to `dropped` himself."""
        self.dropped(writer, dropped)
        self._waiting = {session: grant.number for session, grant in self._grants.items()}

    def retire(self) -> None:
        """The object is about to be taken away: all grants have to go, and there are no more. Idempotent."""
        self._retired = True
        self.begin("", 0)

    def to_drop(self, session: str) -> int:
        """Return up to which grant a holder has to drop what it keeps; 0: none."""
        return self._waiting.get(session, 0)

    def dropped(self, session: str, number: int) -> None:
        """A holder has dropped what it was granted up to `number`."""
        grant = self._grants.get(session)
        if grant is not None and grant.number <= number:
            del self._grants[session]
        if self._waiting.get(session, number + 1) <= number:
            del self._waiting[session]

    def wait_ms(self, now_ms: float) -> float:
        """Return how long the write that has begun waits at most, ms; 0: no cache has the state before it."""
        for session in [each for each in self._waiting if self._grants[each].until_ms <= now_ms]:
            del self._waiting[session], self._grants[session]
        ends = [self._grants[session].until_ms for session in self._waiting]
        return max(0.0, max(ends, default=now_ms) - now_ms, self._not_before_ms - now_ms)


class Cache:
    """The caller's side: whether what is kept may be read. Times are of the caller's monotonic clock, ms."""

    def __init__(self, lease_ms: float) -> None:
        self._lease_ms = lease_ms
        self._until_ms = 0.0
        self._number = 0
        """Of the grant that is kept; 0: none."""
        self.dropped = 0
        """All up to this grant are dropped, kept or on their way."""

    def is_usable(self, now_ms: float) -> bool:
        """Say whether what is kept may be read now."""
        return bool(self._number) and now_ms < self._until_ms

    def got(self, number: int, asked_ms: float) -> bool:
        """The state has come that was asked for at `asked_ms`. Returns whether to keep it: not if it was to be dropped while it was on its way."""
        if number <= self.dropped or number <= self._number:
            return False
        self._number, self._until_ms = number, asked_ms + self._lease_ms * HOLD_SHARE
        return True

    def drop(self, number: int) -> None:
        """Drop what was granted up to `number`."""
        self.dropped = max(self.dropped, number)
        if self._number <= self.dropped:
            self._number = 0

    def write(self) -> int:
        """Drop what is kept, because of a write of one's own. Returns up to which grant that is."""
        self.drop(self._number)
        return self.dropped
