"""Rated: requests of each connection to a store's process in bounded rates: who asks too much waits, and is refused where that would take too long.

Decides with core/rates.py. Renewals of leases are counted apart. So a client that runs away delays itself, and neither the leases nor the others.
"""

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from unios.core.rates import Bucket
from unios.errors import Unavailable
from unios.store_limits import ASKED_BURST_MAX, ASKED_RATE_MAX, ASKED_WAIT_MS_MAX, RENEWED_BURST_MAX, RENEWED_RATE_MAX
from unios.wire.peer import Call, Peer

if TYPE_CHECKING:
    from unios.store.server import Answering

RENEW = "store.renew"


class Rates:
    """What one asker may ask."""

    def __init__(self, rate: int = ASKED_RATE_MAX, burst: int = ASKED_BURST_MAX) -> None:
        self._rate = rate
        self._asked = Bucket(rate, burst, ASKED_WAIT_MS_MAX)
        self._renewed = Bucket(RENEWED_RATE_MAX, RENEWED_BURST_MAX, ASKED_WAIT_MS_MAX)

    def is_ready(self, op: str) -> bool:
        """Return whether such a request need not wait; it is not counted."""
        return (self._renewed if op == RENEW else self._asked).is_ready(_now_us())

    def count(self, op: str) -> None:
        """Count one that was ready."""
        (self._renewed if op == RENEW else self._asked).ask(_now_us())

    async def wait(self, op: str, who: str) -> None:
        """Count a request and wait for its turn. Unavailable if that would take too long."""
        bucket, rate = (self._renewed, RENEWED_RATE_MAX) if op == RENEW else (self._asked, self._rate)
        wait_us = bucket.ask(_now_us())
        if wait_us is None:
            raise Unavailable(
                f"{who} asks the store for more than {rate} things a second, its limit, and more of them wait than a second has room for"
            )
        if wait_us:
            await asyncio.sleep(wait_us / 1_000_000)


class Rated:
    """Answers as `requests` does, in bounded rates for each connection."""

    def __init__(self, requests: "Answering") -> None:
        self._requests = requests
        self._rates: WeakKeyDictionary[Peer, Rates] = WeakKeyDictionary()

    def _of(self, peer: Peer) -> Rates:
        rates = self._rates.get(peer)
        if rates is None:
            rates = self._rates[peer] = Rates()
        return rates

    async def handle(self, call: Call) -> object:
        rates = self._of(call.peer)
        if not rates.is_ready(call.op):
            self._requests.tally.asked("delayed", len(memoryview(call.body)))
        await rates.wait(call.op, "this connection")
        return await self._requests.handle(call)

    def at_once(self, call: Call) -> bool:
        """What has to wait is left to `handle`."""
        rates, taken = self._of(call.peer), True
        if not rates.is_ready(call.op):
            return False
        try:
            taken = self._requests.at_once(call)
        finally:  # what it raises is the answer
            if taken:
                rates.count(call.op)
        return taken


def _now_us() -> int:
    return time.monotonic_ns() // 1_000
