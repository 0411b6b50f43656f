"""Links that go through a third node: this one passes bytes on for two that do not reach each other, or takes a connection in that came so."""

import os
from typing import TYPE_CHECKING

from unios.errors import Unavailable
from unios.kernel.callers import user_of
from unios.kernel.relaying import join_ends
from unios.limits import RELAYS_MAX
from unios.wire.operations import Empty, RelayTo
from unios.wire.peer import Call
from unios.wire.pipes import CallTransport

if TYPE_CHECKING:
    from unios.kernel.links import Links


class LinkRelays:
    """Those of one kernel."""

    def __init__(self, links: "Links") -> None:
        self._links = links
        self._count = 0

    async def relay(self, call: Call) -> object:
        """links.relay: pass bytes on to a node that the asker does not reach. They are ciphertext to this node."""
        body, me = call.decode(RelayTo), self._links.me
        link = self._links.straight(body.to)
        if link is None:
            raise Unavailable(f"{me} has no straight link to {body.to}")
        if self._count >= RELAYS_MAX:
            raise Unavailable(f"{me} relays {RELAYS_MAX} connections, its bound")
        self._count += 1
        try:
            async with link.peer.stream("links.accept", RelayTo(me), user=user_of(os.geteuid())) as onward:
                await onward.next(Empty)
                await call.send(Empty())
                await join_ends(call, onward)
        finally:
            self._count -= 1
        return Empty()

    async def accept(self, call: Call) -> object:
        """links.accept: a connection that comes through the asking node; who is at its end is for TLS to say."""
        body = call.decode(RelayTo)
        await call.send(Empty())
        transport = CallTransport(call)
        await self._links.take_in(transport, via=body.to, origin=f"who comes by way of {body.to}")
        return Empty()
