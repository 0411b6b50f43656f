"""Clocks: how far another node's wall clock is from this one's, estimated from pings. Decides only, and nothing of unios depends on what it finds:
leases and deadlines are judged by each side's own clock that nobody can set.

The far clock is read half a round trip before the answer arrives, so an answer is off by at most half its round trip; of the last few the quickest is
believed (the clock filter of NTP, RFC 5905 section 10).
"""

from collections import deque
from typing import Final

from unios.limits import CLOCK_OFFSET_MS_MAX

SAMPLES: Final = 8


class ClockOffset:
    """That of one other node."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)

    def heard(self, *, theirs_ms: int, ours_ms: int, rtt_ms: float) -> None:
        """An answer with the far wall clock came in when ours said `ours_ms`, `rtt_ms` after the question went out."""
        self._samples.append((rtt_ms, theirs_ms + rtt_ms / 2 - ours_ms))

    def estimate_ms(self) -> float | None:
        """Return how far the other clock is ahead (below 0: behind); None if nothing is known."""
        return min(self._samples)[1] if self._samples else None

    def doubt_ms(self) -> float:
        """Return by how much the estimate may be wrong."""
        return min(self._samples)[0] / 2 if self._samples else 0.0


def far_apart(whose: str, than: str, offset_ms: float, doubt_ms: float = 0.0) -> str:
    """Return a sentence if `whose` clock is further from `than`'s than CLOCK_OFFSET_MS_MAX, for certain; else ""."""
    if abs(offset_ms) - doubt_ms <= CLOCK_OFFSET_MS_MAX:
        return ""
    seconds = abs(offset_ms) / 1000
    amount = f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"the clock of {whose} is {amount} {'ahead of' if offset_ms > 0 else 'behind'} that of {than}"
