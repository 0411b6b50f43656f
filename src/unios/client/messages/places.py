"""Places: the way to a port by its name, from any program of a machine, waiting for whoever listens there."""

import socket
import time

import msgspec

from unios.client.connection import Connection
from unios.client.messages.intake import not_come
from unios.client.messages.line import Line
from unios.errors import NotFound, OutcomeUnknown, PeerRestarted, ProtocolError, Unavailable
from unios.limits import CALL_TIMEOUT_MS, CLIENT_RETRY_MS
from unios.undecodable import UNDECODABLE
from unios.wire.operations import Connect, Connected

WAIT_MS = 1_000
"""So long at a time the kernel is asked to wait for somebody to listen."""
GRACE_S = 0.5
"""A kernel that has been asked to wait until the deadline may answer so much later: then it says why."""


def connect(connection: Connection, name: str, deadline: float | None, *, until: float | None, keeps: bool = False) -> Line:
    """Return a line to whoever listens under a name; waits for him, and for a kernel, until the deadline (time.monotonic; None: for ever).

    `until`: by when whoever asks has to be told; a kernel that is hung is waited for no longer, and GRACE_S, even if the deadline is a nearer one.
    NotFound if nobody listens by then, Unavailable if no kernel answers by then, or at once if no node runs here at all; Denied.
    """
    while True:
        left = WAIT_MS if deadline is None else max(0, min(WAIT_MS, int((deadline - time.monotonic()) * 1000)))
        try:
            return _connect(connection, name, left, deadline, None if until is None else until + GRACE_S, keeps)
        except NotFound:
            if deadline is not None and time.monotonic() >= deadline:
                raise NotFound(f"nobody listens on port {name}") from None
        except (Unavailable, OutcomeUnknown, PeerRestarted):
            connection.close()
            if (deadline is not None and time.monotonic() >= deadline) or not connection.anybody():
                raise
            time.sleep(CLIENT_RETRY_MS / 1000)


def _connect(connection: Connection, name: str, wait_ms: int, deadline: float | None, until: float | None, keeps: bool) -> Line:
    asked = connection.begin("ports.connect", Connect(name, wait_ms), node="", until=until)
    patience_s = (wait_ms + CALL_TIMEOUT_MS) / 1000
    if deadline is not None:
        patience_s = min(patience_s, max(CLIENT_RETRY_MS / 1000, deadline + GRACE_S - time.monotonic()))
    raw, descriptors = asked.finish(timeout_s=patience_s)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    try:
        connected = msgspec.msgpack.decode(raw, type=Connected)
    except UNDECODABLE:
        connected = None
    if connected is None or len(sockets) != 1:
        for sock in sockets:
            sock.close()
        if not sockets:
            raise not_come(f"the connection to port {name}")
        raise ProtocolError("the kernel answered ports.connect with something else than a connection")
    return Line(sockets[0], local=connected.connection != 0, trusted=connected.mine, keeps=keeps)
