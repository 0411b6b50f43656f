"""Holding: a node's own lease, from the holder's side. When to register, when to renew, and how far the node may trust it.

Interface: `Holder().on(event)` -> orders. The loop that carries them out answers every `Register` and `Renew` with exactly one event. Invariants:
- the deadline is the time at which an acknowledged renewal was *sent*, plus LEASE_HOLD_MS; it never rests on an answer's arrival;
- a lease that has ended is never trusted again: the node registers as its next incarnation, and the deadline moves only after all trees
  that run here have been compared with their records (`ClaimsChecked`);
- a node that has given its lease back neither renews nor registers: what it wrote last is what the system knows of it;
- after a deadline that had passed moves, or the first one under another lease (which freezes them too), the trees that froze are compared again.
"""

from typing import Final

import msgspec

from unios.limits import LEASE_HOLD_MS, LEASE_RENEW_MS

MARGIN_MS: Final = 100
"""An init may look at the clock up to so long after the holder did, and freeze just before the deadline moves."""


class Tick(msgspec.Struct, frozen=True, tag="tick"):
    """It is `now_ms`, CLOCK_BOOTTIME."""

    now_ms: int


class Registered(msgspec.Struct, frozen=True, tag="registered"):
    """The node is registered as `incarnation` under a new lease; the request that granted it was sent at `sent_ms`."""

    incarnation: int
    sent_ms: int


class Renewed(msgspec.Struct, frozen=True, tag="renewed"):
    """The renewal that was sent at `sent_ms` has been acknowledged; it is `now_ms`."""

    sent_ms: int
    now_ms: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A registration or renewal had no answer; whether it was done is unknown."""


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The store says that the lease has ended."""


class ClaimsChecked(msgspec.Struct, frozen=True, tag="checked"):
    """Every tree of this node has been compared with its record, as of after the registration as `incarnation`. It is `now_ms`."""

    incarnation: int
    now_ms: int


class GivenBack(msgspec.Struct, frozen=True, tag="given back"):
    """The node stops in order: its lease is to end, and no other is got for it."""


class TakenUp(msgspec.Struct, frozen=True, tag="taken up"):
    """It does not stop after all."""


class Register(msgspec.Struct, frozen=True, tag="register"):
    """Order: get a lease and register under it as the next incarnation."""


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """Order: renew the lease."""


class MoveDeadline(msgspec.Struct, frozen=True, tag="move"):
    """Order: tell the inits that the lease counts until `until_ms`."""

    until_ms: int
    incarnation: int


class CheckClaims(msgspec.Struct, frozen=True, tag="check"):
    """Order: compare the trees that run here with their records, then say ClaimsChecked."""

    incarnation: int


Event = Tick | Registered | Renewed | Failed | Ended | ClaimsChecked | GivenBack | TakenUp
Order = Register | Renew | MoveDeadline | CheckClaims


class Holder:
    """The lease of one node."""

    __slots__ = ("_asked", "_attempt_ms", "_checked", "_given_back", "_moved_for", "_now_ms", "_sent_ms", "deadline_ms", "incarnation", "registered")

    def __init__(self) -> None:
        self.incarnation = 0
        self.registered = False
        self.deadline_ms = 0
        self._now_ms = 0
        self._asked = False
        self._attempt_ms = -LEASE_RENEW_MS
        self._sent_ms = 0
        self._checked = False
        self._given_back = False
        self._moved_for = 0
        """The incarnation for which the deadline was moved last."""

    def on(self, event: Event) -> list[Order]:
        """Take in an event, return what to do."""
        match event:
            case Tick(now_ms):
                self._now_ms = now_ms
                return self._look()
            case Registered(incarnation, sent_ms):
                self.incarnation, self.registered, self._sent_ms = incarnation, True, sent_ms
                self._asked = self._checked = False
                return [CheckClaims(incarnation)]
            case Renewed(sent_ms, now_ms):
                self._asked = False
                self._now_ms = max(self._now_ms, now_ms)
                self._sent_ms = max(self._sent_ms, sent_ms)
                return self._move() if self._checked else []
            case Failed():
                self._asked = False
                return []
            case Ended():
                self._asked = self.registered = self._checked = False
                self._attempt_ms = self._now_ms - LEASE_RENEW_MS
                return self._look()
            case ClaimsChecked(incarnation, now_ms):
                self._now_ms = max(self._now_ms, now_ms)
                if not self.registered or incarnation != self.incarnation or self._checked:
                    return []
                self._checked = True
                return self._move()
            case GivenBack():
                self._given_back = True
                return []
            case TakenUp():
                self._given_back = False
                return self._look()

    def _look(self) -> list[Order]:
        if self._given_back or self._asked or self._now_ms - self._attempt_ms < LEASE_RENEW_MS:
            return []
        self._asked, self._attempt_ms = True, self._now_ms
        return [Renew() if self.registered else Register()]

    def _move(self) -> list[Order]:
        # Also the first time: what a predecessor had told the inits is not known.
        had_passed = self.deadline_ms <= self._now_ms + MARGIN_MS or self._moved_for != self.incarnation
        self._moved_for = self.incarnation
        self.deadline_ms = self._sent_ms + LEASE_HOLD_MS
        orders: list[Order] = [MoveDeadline(self.deadline_ms, self.incarnation)]
        return [*orders, CheckClaims(self.incarnation)] if had_passed else orders
