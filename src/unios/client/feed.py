"""stdin of a process from a descriptor of ours, in a thread with a connection of its own.

Bytes go out once and in order or not at all: when the connection breaks nobody knows what arrived, so nothing is sent again and the
failure is kept for the caller to tell. A break is noticed while there is no input too, and the program reads the end of its stdin then: else
it would wait for ever, or end well of an input that was cut off, and nobody would say so.
"""

import contextlib
import fcntl
import os
import struct
import termios
import threading

from unios.client import readiness
from unios.client.channel import Asked
from unios.client.connection import Connection
from unios.client.output import settled
from unios.client.processes import ENDED
from unios.errors import NotFound, Unavailable, UniosError
from unios.wire.operations import Feed

_READ_BYTES = 64 * 1024


class Feeder:
    """Starts at once; ends with the input, with the process or with the connection."""

    def __init__(self, connection: Connection, pid: int, descriptor: int) -> None:
        self.sent = 0
        self.failure: UniosError | OSError | None = None
        self._connection = connection
        self._pid = pid
        self._descriptor = descriptor
        self._thread = threading.Thread(target=self._run, name=f"stdin of {pid}", daemon=True)
        self._thread.start()

    def missed(self) -> bool:
        """Whether there was any input, or is some now: the next incarnation of a process reads none of it."""
        with contextlib.suppress(OSError):
            (waiting,) = struct.unpack("i", fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4)))
            return self.sent > 0 or waiting > 0
        return self.sent > 0

    def _run(self) -> None:
        with self._connection as connection:
            try:
                self._feed(connection)
            except NotFound:
                pass
            except (UniosError, OSError) as error:
                self.failure = error
                connection.close()
                with contextlib.suppress(UniosError):
                    connection.persist(lambda: self._end(connection))

    def _feed(self, connection: Connection) -> None:
        if settled(connection, self._pid).state in ENDED:
            return
        asked = connection.persist(lambda: connection.begin("processes.feed", Feed(self._pid)), (Unavailable,))
        while self._has_input(connection, asked) and (data := os.read(self._descriptor, _READ_BYTES)):
            asked.send(data)
            self.sent += len(data)
        asked.end_items()
        asked.finish()  # raises why, if it was cut off

    def _has_input(self, connection: Connection, asked: Asked) -> bool:
        """Wait until there is something to read, or its end; False if the request has ended."""
        while not asked.ended:
            channel = connection.channel()
            ready, _writable = readiness.wait((self._descriptor, channel.fileno()))
            if channel.fileno() in ready:
                channel.read_until(None, asked.op)
            elif ready:
                return True
        return False

    def _end(self, connection: Connection) -> None:
        """Let the program read the end of its stdin, without a byte more. Idempotent."""
        asked = connection.begin("processes.feed", Feed(self._pid))
        asked.end_items()
        asked.finish()
