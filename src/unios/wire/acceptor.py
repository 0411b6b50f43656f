"""Acceptor: takes connections at a listening socket in an asyncio loop, and rests while no descriptor is to be had.

A connection that cannot be accepted stays in the backlog, so the listener stays readable: without the rest the loop would do nothing but try.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from unios.limits import ACCEPT_REST_MS

_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """That of one listener, which it takes over. `taken` is called with each connection and owns it."""

    def __init__(self, listener: socket.socket, taken: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError as error:
            if error.errno in _SHORTAGES:
                self._loop.remove_reader(self._listener.fileno())
                self._rest = self._loop.call_later(ACCEPT_REST_MS / 1000, self._go_on)
            return
        self._taken(sock)

    def _go_on(self) -> None:
        self._rest = None
        self._loop.add_reader(self._listener.fileno(), self._readable)

    def close(self) -> None:
        """Close the listener; idempotent."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
