"""Forwarding: TCP ports here whose connections are made to a port of a process, wherever it runs.

Each connection is a thread with a connection to a kernel of its own: what one side does not read stops the other, and no one else. So many at a time are
taken in; the rest wait in Linux's queue of the listener.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

from unios.client import readiness
from unios.client.channel import Asked
from unios.client.connection import Connection
from unios.errors import UniosError
from unios.limits import FORWARD_BUFFER_BYTES, FORWARD_CONNECTIONS_MAX
from unios.wire.terminals import Reach

_CHUNK = 64 * 1024
_BACKLOG = 128
_CONNECT_S = 15.0


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket. Raises OSError."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG)


class Forwarding:
    """That of one command. `failed` is told, from a thread of its own, why a connection could not be made or broke."""

    def __init__(self, connection: Connection, pid: int, failed: Callable[[str], None]) -> None:
        self._connection, self._pid, self._failed = connection, pid, failed
        self._places = threading.BoundedSemaphore(FORWARD_CONNECTIONS_MAX)

    def serve(self, listener: socket.socket, port: int) -> None:
        """Take connections in for ever: for a thread."""
        while True:
            self._places.acquire()
            try:
                sock, _address = listener.accept()
            except OSError:
                self._places.release()
                return
            threading.Thread(target=self._carry, args=(sock, port), name=f"to port {port} of {self._pid}", daemon=True).start()

    def _carry(self, sock: socket.socket, port: int) -> None:
        try:
            with sock, self._connection.again() as connection:
                asked = connection.begin("processes.reach", Reach(self._pid, port))
                try:
                    asked.next(bytes, timeout_s=_CONNECT_S)  # empty: it is connected
                    _Relay(sock, asked, connection.channel().fileno()).run(connection)
                finally:
                    asked.close()
        except UniosError as error:
            self._failed(str(error))
        except OSError:
            pass  # who connected here is gone
        finally:
            self._places.release()


class _Relay:
    """Between a socket here and a request under way, without ever waiting for one direction only."""

    def __init__(self, sock: socket.socket, asked: Asked, wire: int) -> None:
        self._sock, self._asked, self._wire = sock, asked, wire
        self._waiting = bytearray()
        self._reading = True
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self, connection: Connection) -> None:
        """Go on until the process's side has ended and all of it is passed on."""
        channel, here = connection.channel(), self._sock.fileno()
        while self._take() or self._waiting:
            read = [] if channel.is_closed or len(self._waiting) > FORWARD_BUFFER_BYTES else [self._wire]
            if self._reading and self._asked.room > 0 and not self._asked.ended:
                read.append(here)
            ready, writable = readiness.wait(read, [here] if self._waiting else [])
            if writable:
                del self._waiting[: self._sock.send(self._waiting[:_CHUNK])]
            if self._wire in ready:
                channel.read_until(None, self._asked.op)
            if here in ready:
                self._pass_on()

    def _take(self) -> bool:
        """Take in what has come while there is room; return whether there is more to come."""
        while self._asked.ready and len(self._waiting) <= FORWARD_BUFFER_BYTES:
            data: bytes | None = self._asked.next(bytes)
            if data is None:
                return False
            self._waiting += data
        return True

    def _pass_on(self) -> None:
        data = self._sock.recv(_CHUNK)
        if data:
            self._asked.send(data)
        else:
            self._reading = False
            self._asked.end_items()
