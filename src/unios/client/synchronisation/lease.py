"""Lease: until when a session may trust in what it holds, by what it has sent and what was acknowledged of that.

By the clock that counts while the machine sleeps. Trust lasts SYNC_HOLD_MS from the *sending* of the last acknowledged renewal on, which is over before the
manager, who counts from the arrival, gives anything to others.
"""

import time
from typing import Final

from unios.synchronisation_limits import SYNC_HOLD_MS, SYNC_RENEW_MS

HUNG_S: Final = 2.0
"""A renewal that is not acknowledged by then: the connection is made again."""


def boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """That of one session; not locked."""

    def __init__(self) -> None:
        self.trusted_until_s = 0.0
        self.renew_at_s = 0.0
        """By time.monotonic."""
        self._sent: dict[int, float] = {}
        self._number = 0

    @property
    def is_over(self) -> bool:
        return boot_s() > self.trusted_until_s

    @property
    def is_hung(self) -> bool:
        """Whether the manager does not acknowledge what it is sent."""
        return bool(self._sent) and boot_s() - min(self._sent.values()) > HUNG_S

    def begin(self) -> None:
        """The session is opened on a connection, now."""
        self._sent, self._number = {0: boot_s()}, 0
        self.renew_at_s = time.monotonic() + SYNC_RENEW_MS / 1000

    def renew(self) -> int:
        """Return under which number it is renewed now."""
        self._number += 1
        self._sent[self._number] = boot_s()
        self.renew_at_s = time.monotonic() + SYNC_RENEW_MS / 1000
        return self._number

    def acknowledged(self, number: int) -> None:
        """A renewal was, or with 0 the opening."""
        sent_s = self._sent.get(number)
        if sent_s is not None:
            self.trusted_until_s = sent_s + SYNC_HOLD_MS / 1000
            self._sent = {one: at_s for one, at_s in self._sent.items() if one > number}
