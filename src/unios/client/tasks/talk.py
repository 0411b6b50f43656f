"""Talk: a worker's connection to who has the tasks, blocking."""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Sequence

from unios.client import ports
from unios.client.connection import Connection
from unios.client.tasks import proofs
from unios.errors import ProtocolError, Unavailable
from unios.limits import CLIENT_RECONNECT_MS, HELLO_TIMEOUT_MS
from unios.wire.parcels import Head, Hello, ParcelReader, Part, Welcome, head_of

_READ_BYTES = 64 * 1024
_JOIN_BYTES = 64 * 1024


class Talk:
    """One connected socket, taken over. Any thread may say, one at a time hears."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(True)
        self._reader = ParcelReader()
        self._heard: deque[tuple[Head, list[Part]]] = deque()
        self._saying = threading.Lock()
        self._soon: deque[bytes] = deque()

    def say(self, head: Head, parts: Sequence[Part] = ()) -> None:
        """Send a message, whose sizes are those of the parts. OSError if the connection is gone."""
        pieces: list[Part] = []
        small = [head_of(head)]
        for part in parts:
            if len(part) <= _JOIN_BYTES:
                small.append(bytes(part))
            else:
                pieces += (b"".join(small), part)
                small = []
        pieces.append(b"".join(small))
        with self._saying:
            for piece in pieces:
                self.sock.sendall(piece)
            self._say_rest()

    def say_soon(self, head: Head) -> None:
        """Send a message without parts now, or after the next one if another is just being sent: a finalizer may call it, also in the middle of `say`."""
        self._soon.append(head_of(head))
        if self._saying.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):  # whoever hears sees the end
                    self._say_rest()
            finally:
                self._saying.release()

    def _say_rest(self) -> None:
        while self._soon:
            self.sock.sendall(self._soon.popleft())

    def hear(self) -> tuple[Head, list[Part]] | None:
        """Wait for a message; None at the end of the connection. ProtocolError if what comes is none."""
        while not self._heard:
            try:
                room = self._reader.room()
                if room is not None:
                    got = self.sock.recv_into(room)
                    if got and (whole := self._reader.filled(got)) is not None:
                        self._heard.append(whole)
                else:
                    data = self.sock.recv(_READ_BYTES)
                    got = len(data)
                    self._heard.extend(self._reader.feed(data))
            except OSError:
                return None
            if not got:
                return None
        return self._heard.popleft()

    def end(self) -> None:
        """End it for both ends. Idempotent."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def reach(port: str, secret: bytes, crew: int, worker: int, node: str) -> tuple[Talk, list[Part]]:
    """Connect to the executor, greet, and see that it is the one; return the connection and what the welcome brought.

    Unavailable or NotFound if it is not there, ProtocolError if somebody else is.
    """
    with Connection(role="worker") as connection:
        talk = Talk(ports.connect_raw(connection, port, wait_ms=CLIENT_RECONNECT_MS if not worker else HELLO_TIMEOUT_MS))
    try:
        nonce = proofs.new_nonce()
        talk.sock.settimeout(HELLO_TIMEOUT_MS / 1000)
        talk.say(Hello((), crew, worker, node, nonce, proofs.of_worker(secret, nonce, crew, worker)))
        welcome = talk.hear()
        if welcome is None:
            raise Unavailable("the executor ended the connection")
        head, parts = welcome
        if not isinstance(head, Welcome) or not proofs.same(head.proof, proofs.of_caller(secret, nonce)):
            raise ProtocolError("who listens there is not the executor")
        talk.sock.settimeout(None)
    except BaseException:
        talk.end()
        raise
    return talk, parts
