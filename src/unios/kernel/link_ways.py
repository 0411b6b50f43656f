"""Ways to another kernel: straight to an address, or as a stream through a third, which passes on what it cannot read."""

import asyncio
import os
import socket

from unios.core.addresses import split_address
from unios.core.routing import Attempt
from unios.errors import Unavailable
from unios.kernel.callers import user_of
from unios.kernel.link import Link
from unios.wire.operations import Empty, RelayTo
from unios.wire.pipes import StreamTransport
from unios.wire.transport import SocketTransport, Transport


async def way(name: str, attempt: Attempt, between: Link | None) -> Transport:
    """Open the way to a node that an attempt is for. `between`: the link to the third, if it goes through one. Raises OSError, UniosError, ValueError."""
    if attempt.via:
        if between is None:
            raise Unavailable(f"no link to {attempt.via}")
        stream = between.peer.stream("links.relay", RelayTo(name), user=user_of(os.geteuid()))
        await stream.next(Empty)
        return StreamTransport(stream)
    host, port = split_address(attempt.address)
    loop = asyncio.get_running_loop()
    info = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, info[4])
    except BaseException:
        sock.close()
        raise
    return SocketTransport(sock)
