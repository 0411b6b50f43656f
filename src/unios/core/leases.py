"""Leases as their judge sees them: which have ended. Decides only; the store's process holds the clock and deletes the records.

Invariants: a lease ends no earlier than its time to live after the judge last *received* a renewal; time in which the judge itself did not run
does not count, since it could not have heard anything; a judge that starts anew gives every lease its full time again.
"""

from typing import Final

PAUSE_MS: Final = 500
"""A longer gap between two looks means that the judge did not run."""
LOOK_MS: Final = 260
"""The judge looks at least so often: a little less often than holders renew, so that it looks when their renewals have woken it anyway."""


class Leases:
    """The leases of one store. Times in ms of any clock that never goes back."""

    __slots__ = ("_looked_ms", "_ttl_ms", "_until_ms")

    def __init__(self, ttl_ms: dict[int, int], now_ms: int) -> None:
        """`ttl_ms`: the leases that the store has on disk."""
        self._ttl_ms = dict(ttl_ms)
        self._until_ms = {lease: now_ms + ttl for lease, ttl in ttl_ms.items()}
        self._looked_ms = now_ms

    def __len__(self) -> int:
        return len(self._ttl_ms)

    def __contains__(self, lease: int) -> bool:
        return lease in self._ttl_ms

    def granted(self, lease: int, ttl_ms: int, now_ms: int) -> None:
        """Note a new lease."""
        self._ttl_ms[lease] = ttl_ms
        self._until_ms[lease] = now_ms + ttl_ms

    def renewed(self, lease: int, now_ms: int) -> int:
        """Note a renewal; return the time to live that it grants, 0 if the lease has ended."""
        ttl = self._ttl_ms.get(lease, 0)
        if ttl:
            self._until_ms[lease] = now_ms + ttl
        return ttl

    def revoked(self, lease: int) -> None:
        """Forget a lease. Idempotent."""
        self._ttl_ms.pop(lease, None)
        self._until_ms.pop(lease, None)

    def wait_ms(self, now_ms: int) -> int:
        """Return when the judge has to look again: when the next lease would end, and never later than in LOOK_MS."""
        return max(1, min(LOOK_MS, min(self._until_ms.values(), default=now_ms + LOOK_MS) - now_ms))

    def look(self, now_ms: int) -> list[int]:
        """Return the leases that have ended by now; they are forgotten, a renewal that comes later finds none."""
        gap = now_ms - self._looked_ms
        self._looked_ms = now_ms
        if gap > PAUSE_MS:
            for lease in self._until_ms:
                self._until_ms[lease] += gap
        ended = sorted(lease for lease, until in self._until_ms.items() if until <= now_ms)
        for lease in ended:
            self.revoked(lease)
        return ended
