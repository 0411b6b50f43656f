"""Ports from outside: a channel to whoever listens under a name. The bytes go straight there; the kernel only introduces.

Always a port of a kernel of this machine, whatever node the connection names: descriptors do not travel further."""

import socket

from unios.client.channel import Channel
from unios.client.connection import Connection
from unios.errors import ProtocolError
from unios.limits import CALL_TIMEOUT_MS
from unios.wire.operations import Connect


def connect_raw(connection: Connection, name: str, *, wait_ms: int = 0) -> socket.socket:
    """Return a connected stream socket to the port; NotFound if nobody listens on it within `wait_ms`. Not idempotent."""
    asked = connection.begin("ports.connect", Connect(name, wait_ms), node="")
    _raw, descriptors = asked.finish(timeout_s=(wait_ms + CALL_TIMEOUT_MS) / 1000)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if len(sockets) != 1:
        for sock in sockets:
            sock.close()
        raise ProtocolError(f"the kernel answered ports.connect with {len(sockets)} descriptors")
    return sockets[0]


def connect(connection: Connection, name: str, *, wait_ms: int = 0) -> Channel:
    """Return a channel to a service's port; Unavailable if the service does not greet, NodeUnknown if the connection's node is none of the system."""
    connection.reach()
    return Channel(connect_raw(connection, name, wait_ms=wait_ms), role=connection.role)
