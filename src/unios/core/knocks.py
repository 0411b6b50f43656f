"""Knocks: how often who comes from an address may try and fail at the door of the links. Decides only; kernel/strangers.py counts and turns away.

A leaky bucket for each address: each failure fills it by one, one leaks out each KNOCK_MS. Who shows a certificate of the system is let in all the same: the
members behind one router have one address, and none of them can be kept out by another who fails there. Addresses of IPv6 count by their first 64 bits,
since who has one of those has all of them.
"""

import ipaddress

from unios.security_limits import KNOCK_MS, KNOCKERS_MAX, KNOCKS_MAX


def origin_of(address: str) -> str:
    """Return what is counted as one for an address; what is none is itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Knocks:
    """The failures of all addresses. Times in ms, of any clock that does not go back."""

    def __init__(self) -> None:
        self._empty_ms: dict[str, int] = {}
        """When the bucket of an origin is empty again; the longest quiet first."""

    def __len__(self) -> int:
        return len(self._empty_ms)

    def failed(self, origin: str, now_ms: int) -> None:
        """Somebody from there has tried in vain."""
        until_ms = max(self._empty_ms.pop(origin, 0), now_ms)
        self._empty_ms[origin] = min(until_ms + KNOCK_MS, now_ms + 2 * KNOCKS_MAX * KNOCK_MS)
        while len(self._empty_ms) > KNOCKERS_MAX:
            del self._empty_ms[next(iter(self._empty_ms))]

    def wait_ms(self, origin: str, now_ms: int) -> int:
        """Return how long strangers from there have to wait; 0: they need not."""
        until_ms = self._empty_ms.get(origin, 0)
        if until_ms <= now_ms:
            self._empty_ms.pop(origin, None)
            return 0
        return max(0, until_ms - KNOCKS_MAX * KNOCK_MS - now_ms)
