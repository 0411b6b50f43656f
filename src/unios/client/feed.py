"""stdin of a process from a descriptor of ours, in a thread with a connection of its own.

Bytes go out once and in order or not at all: when the connection breaks nobody knows what arrived, so nothing is sent again and the
failure is kept for the caller to tell.
"""

import os
import threading

from unios.client.connection import Connection
from unios.client.output import settled
from unios.client.processes import ENDED
from unios.errors import NotFound, UniosError
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

    def _run(self) -> None:
        try:
            self._feed()
        except NotFound:
            pass
        except (UniosError, OSError) as error:
            self.failure = error

    def _feed(self) -> None:
        with self._connection as connection:
            if settled(connection, self._pid).state in ENDED:
                return
            asked = connection.begin("processes.feed", Feed(self._pid))
            while data := os.read(self._descriptor, _READ_BYTES):
                asked.send(data)
                if asked.ended:
                    asked.finish()  # raises why, if it was cut off
                    return
                self.sent += len(data)
            asked.end_items()
            asked.finish()
