"""Line: a connection of one who waits for many, never blocking. What cannot be sent at once is kept, in the order in which it was said."""

import contextlib
import socket
from collections import deque
from collections.abc import Sequence

from unios.limits import TASK_QUEUE_BYTES
from unios.wire.parcels import Head, ParcelReader, Part, head_of

_READ_BYTES = 64 * 1024
_JOIN_BYTES = 64 * 1024
_PIECES_MAX = 64


class Line:
    """One connected socket, taken over. `say` only keeps; `flush` sends."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._reader = ParcelReader()
        self._out: deque[memoryview] = deque()
        self._small: list[bytes] = []
        self.over = False
        """Whether the peer has ended the connection, or it broke; what it said before has been read."""

    def fileno(self) -> int:
        return self.sock.fileno()

    def say(self, head: Head, parts: Sequence[Part] = ()) -> None:
        """Keep a message to be sent; the head's sizes are those of the parts."""
        self._small.append(head_of(head))
        for part in parts:
            if len(part) <= _JOIN_BYTES:
                self._small.append(bytes(part))
            else:
                self._join()
                self._out.append(memoryview(part).cast("B"))

    def _join(self) -> None:
        if self._small:
            self._out.append(memoryview(b"".join(self._small)))
            self._small.clear()

    def flush(self) -> bool:
        """Send what Linux takes; return whether all is sent. A broken connection takes everything: its end is told by `receive`."""
        self._join()
        out = self._out
        try:
            while out:
                sent = self.sock.sendmsg([out[at] for at in range(min(len(out), _PIECES_MAX))])
                while sent:
                    first = out[0]
                    if sent < len(first):
                        out[0] = first[sent:]
                        break
                    sent -= len(first)
                    out.popleft()
                while out and not len(out[0]):
                    out.popleft()
        except BlockingIOError:
            return False
        except OSError:
            out.clear()
        return True

    def receive(self) -> list[tuple[Head, list[Part]]]:
        """Return what has come, up to TASK_QUEUE_BYTES; `over` says whether that was all. ProtocolError if it is none."""
        found: list[tuple[Head, list[Part]]] = []
        count = 0
        try:
            while count < TASK_QUEUE_BYTES:
                room = self._reader.room()
                if room is not None:
                    got = self.sock.recv_into(room)
                    if got and (whole := self._reader.filled(got)) is not None:
                        found.append(whole)
                else:
                    data = self.sock.recv(_READ_BYTES)
                    got = len(data)
                    if got:
                        found += self._reader.feed(data)
                        if got < _READ_BYTES and self._reader.room() is None:
                            return found
                if not got:
                    self.over = True
                    return found
                count += got
        except BlockingIOError:
            pass
        except OSError:
            self.over = True
        return found

    def end(self) -> None:
        """End the connection for both ends. Idempotent."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # the broker of a port keeps duplicates of both ends: only this tells it
        self.sock.close()
        self._out.clear()
