"""Renewal: when a node has another certificate made, and when a person has to be told that it could not. Decides only; kernel/renewing.py asks.

Interface: `Renewal(validity).on(event)` -> whether another one is to be asked for now. Invariants: it is asked for from half of the life on, again and again
until there is one, never twice at a time; one that lives for longer than is given today is renewed as if it did not; a clock that is set back asks for nothing.
"""

import msgspec

from unios.core.validity import Validity
from unios.security_limits import AUTHORITY_WARN_S, CERTIFICATE_LIFE_S, RENEW_AGAIN_MS, RENEW_WARN_SHARE


class Tick(msgspec.Struct, frozen=True):
    """It is `now_ms`, wall clock."""

    now_ms: int


class Renewed(msgspec.Struct, frozen=True):
    """There is another certificate."""

    validity: Validity


class Failed(msgspec.Struct, frozen=True):
    """The one that was asked for could not be had."""

    now_ms: int
    why: str


Event = Tick | Renewed | Failed


class Renewal:
    """That of one node's certificate."""

    def __init__(self, validity: Validity) -> None:
        self.validity = validity
        self.why = ""
        """Why the last attempt failed."""
        self._asking = False
        self._again_ms = 0

    @property
    def _life_ms(self) -> int:
        return max(1, min(self.validity.until_ms - self.validity.made_ms, 1_000 * CERTIFICATE_LIFE_S))

    @property
    def due_ms(self) -> int:
        """From when on another one is asked for."""
        return self.validity.made_ms + self._life_ms // 2

    def on(self, event: Event) -> bool:
        """Take in an event; return whether another certificate is to be asked for now. Whoever asks says how it came out."""
        match event:
            case Renewed(validity):
                self.validity, self.why, self._asking, self._again_ms = validity, "", False, 0
            case Failed(now_ms, why):
                self.why, self._asking = why, False
                self._again_ms = now_ms + min(RENEW_AGAIN_MS, max(1, self._life_ms // 40))
            case Tick(now_ms):
                set_back = self._again_ms > now_ms + RENEW_AGAIN_MS
                if not self._asking and now_ms >= self.due_ms and (now_ms >= self._again_ms or set_back):
                    self._asking = True
                    return True
        return False

    def is_urgent(self, now_ms: int) -> bool:
        """Return whether so little is left that a person should know."""
        return self.validity.until_ms - now_ms < self._life_ms // RENEW_WARN_SHARE


def authority_ends(validity: Validity, now_ms: int) -> bool:
    """Return whether the authority's own certificate ends so soon that a person should know."""
    return validity.until_ms - now_ms < 1_000 * AUTHORITY_WARN_S
