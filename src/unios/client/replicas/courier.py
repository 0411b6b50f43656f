"""Courier: a thread of the sequencer that tells one copy what it is to be told, again until it has answered."""

import sys
import threading
import time
from collections.abc import Callable

from unios.client.messages.port import Port
from unios.client.replicas.directory import port_of
from unios.core.replication import Commit, Message, Reply
from unios.errors import CallerError, NotFound, UniosError
from unios.limits import OBJECT_LOOK_MS, OBJECT_RETRY_MS

NextMessage = Callable[[], Message]
Heard = Callable[[Message, Reply | None], None]


class Courier:
    """To the host with that pid. `next_message` waits for something to tell; `heard` gets the answer, or None if none came or `heard` itself
    failed of it: then it may not fail."""

    def __init__(self, pid: int, next_message: NextMessage, heard: Heard) -> None:
        self.pid = pid
        self._next, self._heard = next_message, heard
        self._port: Port | None = None
        threading.Thread(target=self._run, name=f"unios-courier-{pid}", daemon=True).start()

    def _run(self) -> None:
        while True:
            message = self._next()
            try:
                self._heard(message, self._tell(message))
            except Exception as error:  # noqa: BLE001 - an object that cannot be loaded, there or of what is said here, must not end this thread
                if not isinstance(error, UniosError) or (isinstance(error, CallerError) and not isinstance(error, NotFound)):
                    print(f"copy in process {self.pid}: {error}", file=sys.stderr, flush=True)
                if self._port is not None:
                    self._port.close()
                    self._port = None
                time.sleep(OBJECT_RETRY_MS / 1000)
                self._heard(message, None)

    def _tell(self, message: Message) -> Reply | None:
        timeout = OBJECT_LOOK_MS / 1000
        if self._port is None:
            self._port = Port(port_of(self.pid), timeout=timeout).options(timeout=timeout, idempotent=True)
        if isinstance(message, Commit):
            self._port.send("hear", message)
            return None
        reply: Reply = self._port.call("hear", message)
        return reply
