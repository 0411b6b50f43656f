"""Pacing: how much of one connection's output may be out of reach of what is more urgent. Decides only; wire/outbox.py tells it what goes out.

A frame that is being sent, and what Linux has taken, cannot be overtaken. So both are as large as the link carries off within a few milliseconds: small
where it is slow or nothing is known, larger where it has just carried PACE_BYTES at PACE_BYTES_S or more. A buffer that takes a burst at once
does not look like a swift link: it holds less than PACE_BYTES.
"""

from typing import Final

from unios.limits import CHUNK_BYTES, PACE_BYTES, PACE_BYTES_S, SEND_AHEAD_BYTES, SEND_AHEAD_SWIFT_BYTES, WIDE_CHUNK_BYTES

_PACE_S: Final = PACE_BYTES / PACE_BYTES_S


class Pace:
    """That of one connection."""

    __slots__ = ("_began", "_bytes", "swift")

    def __init__(self) -> None:
        self.swift = False
        """Whether the last PACE_BYTES went out at PACE_BYTES_S or more. A link that had little to do looks slow, and that costs nothing."""
        self._bytes = 0
        self._began = 0.0

    def sent(self, size: int, now: float) -> bool:
        """Note that so many bytes go out at `now` (seconds, monotonic); return whether `swift` has changed by it."""
        if not self._bytes:
            self._began = now
        self._bytes += size
        if self._bytes < PACE_BYTES:
            return False
        before, self.swift = self.swift, now - self._began <= _PACE_S
        self._bytes = 0
        return self.swift != before

    @property
    def chunk_bytes(self) -> int:
        """The largest piece in which bulk is to be sent now."""
        return WIDE_CHUNK_BYTES if self.swift else CHUNK_BYTES

    @property
    def ahead_bytes(self) -> int:
        """How much Linux may hold that it has not sent."""
        return SEND_AHEAD_SWIFT_BYTES if self.swift else SEND_AHEAD_BYTES
