"""Seats: which gateways to an etcd judge the leases of the system. Decides only; store/etcd/judging.py writes the records.

Each renewal of a lease is heard by whoever judges leases. Were that every gateway, n nodes would be told n times n renewals. So there are SEATS seats: who has
one hears and judges, the others neither. One more seat than a loss takes: while one of the judges is away the others go on, and nobody waits for a new one.

A seat is a record that its holder writes anew every SEAT_RENEW_MS. One that was not written for SEAT_TTL_MS, and a while more that is each gateway's own so that
not all of them try at once, is taken by compare-and-set. Where there are no more gateways than seats all of them judge.

Seats are for traffic alone: to judge without one is safe, since a lease is ended by compare-and-set at the renewal that was heard of last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SEATS: Final = 3
SEAT_RENEW_MS: Final = 1_000
SEAT_TTL_MS: Final = 2_500
PATIENCE_MS_MAX: Final = 1_000
"""Of the while that is each gateway's own."""
PAUSE_MS: Final = 2_000
"""Who has not looked for so long did not run, or heard nothing: that time counts against nobody."""
WAIT_MS_MIN: Final = 50


@dataclass(frozen=True, slots=True)
class Claim:
    """Order to the gateway: write its name onto `seat`, if the record there is still as it was at revision `modified` (0: there is none)."""

    seat: int
    modified: int


@dataclass(slots=True)
class _Seat:
    holder: str
    modified: int
    heard_ms: int


class Seats:
    """Those of one system, as one gateway sees them."""

    def __init__(self, name: str, patience_ms: int) -> None:
        self._name = name
        self._patience_ms = patience_ms
        self._seats: dict[int, _Seat] = {}
        self._looked_ms = 0

    def begin(self, found: Mapping[int, tuple[str, int]], now_ms: int) -> None:
        """Take what there is: the holder of each seat and the revision of its record. Each has its full time again."""
        self._seats = {seat: _Seat(holder, modified, now_ms) for seat, (holder, modified) in found.items()}
        self._looked_ms = now_ms

    def heard(self, seat: int, holder: str, modified: int, now_ms: int) -> None:
        """Note that somebody has written onto a seat; without a holder: that its record is gone."""
        if not holder:
            self._seats.pop(seat, None)
        elif seat < SEATS and modified > (self._seats[seat].modified if seat in self._seats else 0):
            self._seats[seat] = _Seat(holder, modified, now_ms)

    @property
    def judges(self) -> bool:
        """Whether this gateway has a seat, or there are not as many who have one yet."""
        return self._mine() is not None or len(self._seats) < SEATS

    def _mine(self) -> int | None:
        return next((seat for seat, one in self._seats.items() if one.holder == self._name), None)

    def look(self, now_ms: int, *, hears: bool = True) -> Claim | None:
        """Return what to write now, if anything. `hears`: whether etcd is there and tells what happens."""
        if not hears or now_ms - self._looked_ms > PAUSE_MS:
            for one in self._seats.values():
                one.heard_ms = max(one.heard_ms, now_ms - SEAT_RENEW_MS)
        self._looked_ms = now_ms
        if not hears:
            return None
        mine = self._mine()
        if mine is not None:
            return Claim(mine, self._seats[mine].modified) if now_ms - self._seats[mine].heard_ms >= SEAT_RENEW_MS else None
        for seat in range(SEATS):
            there = self._seats.get(seat)
            if there is None:
                return Claim(seat, 0)
            if now_ms - there.heard_ms > SEAT_TTL_MS + self._patience_ms:
                return Claim(seat, there.modified)
        return None

    def wait_ms(self, now_ms: int) -> int:
        """Return when to look again."""
        mine = self._mine()
        if mine is not None:
            due = self._seats[mine].heard_ms + SEAT_RENEW_MS
        else:
            due = min((one.heard_ms for one in self._seats.values()), default=now_ms) + SEAT_TTL_MS + self._patience_ms + 1
        return min(max(due - now_ms, WAIT_MS_MIN), SEAT_RENEW_MS)
