"""Listening: a port of one's own, blocking. The kernel hands over connected sockets, each with a stamp that says who called."""

import contextlib
import os
import socket

import msgspec

from unios.client.connection import Connection
from unios.errors import ProtocolError
from unios.limits import CALL_TIMEOUT_MS
from unios.undecodable import UNDECODABLE
from unios.wire.doors import receive_descriptors
from unios.wire.operations import Accepted, Listen

_PACKET_BYTES = 4096


class Listener:
    """An open port. Its descriptor is readable when somebody has connected, or when the kernel that holds the port is gone."""

    def __init__(self, connection: Connection, name: str, mode: int = 0o600) -> None:
        """Open it at the kernel of this machine that the connection talks to. Raises as ports.listen."""
        asked = connection.begin("ports.listen", Listen(name, mode), node="")
        _raw, descriptors = asked.finish(timeout_s=CALL_TIMEOUT_MS / 1000)
        if len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ProtocolError(f"the kernel answered ports.listen with {len(descriptors)} descriptors")
        self._sock = socket.socket(fileno=descriptors[0])
        self._sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> tuple[Accepted, socket.socket] | None:
        """Return the next connection with its stamp, the caller's to close. BlockingIOError if there is none now, None when the port is gone."""
        while True:
            try:
                packet, descriptors = receive_descriptors(self._sock, _PACKET_BYTES, 1)
            except BlockingIOError:
                raise
            except OSError:
                return None
            if not packet:
                return None
            stamp = stamp_of(packet)
            if stamp is not None and descriptors:
                return stamp, socket.socket(fileno=descriptors[0])
            for descriptor in descriptors:  # this process is out of descriptors, or has a kernel that it does not understand
                os.close(descriptor)

    def close(self) -> None:
        """Give the port up; connections go on. Idempotent."""
        with contextlib.suppress(OSError):
            self._sock.close()


def stamp_of(packet: bytes) -> Accepted | None:
    """Return the stamp in a listener's packet, None if it is none."""
    try:
        return msgspec.msgpack.decode(packet, type=Accepted)
    except UNDECODABLE:
        return None
