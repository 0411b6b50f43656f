"""Pacing: how much of one connection's output may be out of reach of what is more urgent. Decides only; wire/outbox.py tells it what goes out.

A frame that is being sent, and what Linux has taken, cannot be overtaken. So both are as large as the link carries off within a few milliseconds: small
where it is slow or nothing is known, larger where it has just carried PACE_BYTES at PACE_BYTES_S or more, and what Linux may hold larger still where it has
done so PACE_ROUNDS times at PACE_RACING_BYTES_S. A buffer that takes a burst at once does not make a link look fast: it holds less than what is looked at.
"""

from typing import Final

from unios.limits import (
    CHUNK_BYTES,
    PACE_BYTES,
    PACE_BYTES_S,
    PACE_RACING_BYTES_S,
    PACE_ROUNDS,
    SEND_AHEAD_BYTES,
    SEND_AHEAD_RACING_BYTES,
    SEND_AHEAD_SWIFT_BYTES,
    WIDE_CHUNK_BYTES,
)

_SWIFT_S: Final = PACE_BYTES / PACE_BYTES_S
_RACING_S: Final = PACE_BYTES / PACE_RACING_BYTES_S


class Pace:
    """That of one connection."""

    __slots__ = ("_began", "_bytes", "_rounds", "swift")

    def __init__(self) -> None:
        self.swift = False
        """Whether the last PACE_BYTES went out at PACE_BYTES_S or more. A link that had little to do looks slow, and that costs nothing."""
        self._rounds = 0
        """So many times in a row they went out at PACE_RACING_BYTES_S or more."""
        self._bytes = 0
        self._began = 0.0

    def sent(self, size: int, now: float) -> bool:
        """Note that so many bytes go out at `now` (seconds, monotonic); return whether `ahead_bytes` has changed by it.

        A frame says nothing of itself, for it goes out in one moment however large it is, but of those before it: they have made room for it.
        """
        before = self.ahead_bytes
        if self._bytes >= PACE_BYTES:
            took = now - self._began
            self.swift = took <= _SWIFT_S
            self._rounds = min(self._rounds + 1, PACE_ROUNDS) if took <= _RACING_S else 0
            self._bytes = 0
        if not self._bytes:
            self._began = now
        self._bytes += size
        return self.ahead_bytes != before

    @property
    def chunk_bytes(self) -> int:
        """The largest piece in which bulk is to be sent now."""
        return WIDE_CHUNK_BYTES if self.swift else CHUNK_BYTES

    @property
    def ahead_bytes(self) -> int:
        """How much Linux may hold that it has not sent."""
        if self._rounds == PACE_ROUNDS:
            return SEND_AHEAD_RACING_BYTES
        return SEND_AHEAD_SWIFT_BYTES if self.swift else SEND_AHEAD_BYTES
