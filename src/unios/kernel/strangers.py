"""Strangers: who comes to the links' door and has shown no certificate. They may ask to join, for a moment, and that is all.

All of them are bounded: over the bound the oldest goes of those from the address of which there are most. Who fails too often (core/knocks.py) is told how
long to wait, and heard no more until then; who shows a certificate of the system is no stranger and is let in from wherever he comes.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from unios.core.knocks import Knocks
from unios.errors import Denied, Unavailable
from unios.kernel.clocks import boot_ms
from unios.limits import CONNECT_TIMEOUT_MS, STRANGERS_MAX
from unios.security_limits import KNOCKS_MAX, KNOCKS_OPEN_MAX
from unios.wire.peer import Call, Peer
from unios.wire.tls import TlsTransport

Join = Callable[[Call], Awaitable[object]]
STAY_S: Final = 2 * CONNECT_TIMEOUT_MS / 1000 + 30


class Strangers:
    """Those of one kernel."""

    def __init__(self, join: Join, facts: dict[str, str]) -> None:
        self._join, self._facts = join, facts
        self._here: dict[TlsTransport, str] = {}
        """Who is there, the oldest first, and from where."""
        self._knocks = Knocks()

    def __len__(self) -> int:
        return len(self._here)

    def hears(self, origin: str) -> bool:
        """Return whether one more from there is to be heard at all."""
        here = sum(1 for each in self._here.values() if each == origin)
        return here < KNOCKS_OPEN_MAX or not self._knocks.wait_ms(origin, boot_ms())

    def admit(self, tls: TlsTransport, origin: str) -> None:
        """Of too many an older one goes and not the newest: a kernel shows its certificate at once, those that only sit here do not keep it out."""
        while len(self._here) >= STRANGERS_MAX:
            ((most, _count),) = Counter(self._here.values()).most_common(1)
            oldest = next(tls for tls, each in self._here.items() if each == most)
            del self._here[oldest]
            oldest.close(f"{STRANGERS_MAX} others came without a certificate meanwhile")
        self._here[tls] = origin

    def known(self, tls: TlsTransport) -> None:
        """That one is no stranger, or has gone. Idempotent."""
        self._here.pop(tls, None)

    def failed(self, origin: str) -> None:
        """Somebody from there has tried in vain."""
        self._knocks.failed(origin, boot_ms())

    async def serve(self, tls: TlsTransport, origin: str) -> None:
        """Let one who shows no certificate ask to join."""
        peer = Peer(tls, lambda call: self._only_join(call, origin), role="kernel", facts=self._facts)
        try:
            async with asyncio.timeout(STAY_S):
                await peer.start()
                await peer.closed()
        finally:
            peer.close("strangers may not stay")

    async def _only_join(self, call: Call, origin: str) -> object:
        wait_ms = self._knocks.wait_ms(origin, boot_ms())
        if wait_ms:
            raise Unavailable(f"{origin} has failed more than {KNOCKS_MAX} times here: try again in {-(-wait_ms // 1000)} s")
        if call.op not in ("join.hello", "join.probe", "join.ask"):
            self.failed(origin)
            raise Denied("who has no certificate of this system may only join it")
        try:
            return await self._join(call)
        except Denied:
            self.failed(origin)
            raise
