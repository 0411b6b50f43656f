"""A chunk of output whose bytes are still in the connection: they go from there into a pipe without passing through this process.

Linux moves pages between a socket and a pipe; nothing else than a pipe takes them so, and small chunks are cheaper read. Bytes count as passed on when they
are in the pipe, one splice after the other, so after a connection that broke amid a chunk the rest is asked for, and each byte comes once.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
from typing import TYPE_CHECKING, Final

from unios.errors import ProtocolError
from unios.wire.chunks import Begun, is_tail

if TYPE_CHECKING:
    from unios.client.channel import Channel

HEAD_BYTES: Final = 4 * 1024
"""So much is read of what may be a large chunk: its head, and few of its bytes."""
LEAST_BYTES: Final = 32 * 1024
"""Of a chunk with less than that still to come the rest is read."""
PIPE_BYTES: Final = 256 * 1024
"""Asked of Linux for a pipe through which much flows; it counts pipes' sizes per user, so the others keep theirs."""
_SET_PIPE_SIZE: Final = 1031
_GET_PIPE_SIZE: Final = 1032
_COPIED_BYTES: Final = 64 * 1024
_CANNOT: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a Linux says, or what confines this process, where these two do not splice."""
_widened: Final[set[int]] = set()


def widen(pipe: int) -> None:
    """Let a pipe hold PIPE_BYTES: its reader and this side then wake each other less often. What Linux refuses stays as it is."""
    with contextlib.suppress(OSError):
        if fcntl.fcntl(pipe, _GET_PIPE_SIZE) < PIPE_BYTES:
            fcntl.fcntl(pipe, _SET_PIPE_SIZE, PIPE_BYTES)


def is_pipe(descriptor: int) -> bool:
    """Whether a descriptor is one end of a pipe; False if it is none at all."""
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False


class Flowing:
    """One chunk. `first`: those of its bytes that were read with its head, to be written before anything is moved; the rest waits for `move`."""

    def __init__(self, channel: "Channel", begun: Begun, first: bytes) -> None:
        self.stream, self.incarnation, self.offset = begun.stream, begun.incarnation, begun.offset
        self.lost = 0
        """So many bytes before it are gone."""
        self.first = first
        self.left = begun.size - len(first)
        """So many bytes are still to be moved."""
        self.cost = begun.cost
        self._splices = True
        self._channel, self._tail_bytes, self._tail = channel, begun.tail_bytes, b""

    def wrote_first(self) -> None:
        """`first` has been written."""
        self.offset += len(self.first)
        self.first = b""

    def move(self, into: int) -> bool:
        """Move all that is left into a pipe; return whether it was all, else the connection has ended, which is told to whoever reads it. Waits.

        Raises BrokenPipeError if nobody reads the pipe, and OSError if it takes nothing for another reason.
        """
        if self._channel.is_closed:  # it has broken as room for more was granted
            return False
        if into not in _widened:
            _widened.add(into)
            widen(into)
        source = self._channel.fileno()
        while self.left:
            try:
                moved = os.splice(source, into, self.left) if self._splices else self._copy(into)
            except BlockingIOError:
                _wait(source, select.POLLIN)
                _wait(into, select.POLLOUT)
                continue
            except BrokenPipeError:
                raise
            except ConnectionError:
                moved = 0
            except OSError as error:
                if error.errno not in _CANNOT or not self._splices:
                    raise
                self._splices = False
                continue
            if not moved:
                self._channel.close("the peer closed the connection")
                return False
            self.left -= moved
            self.offset += moved
        return True

    def _copy(self, into: int) -> int:
        """Read some and write it, as Linux does not move them; return how many, 0 at the end of the connection."""
        data = memoryview(self._channel.sock.recv(min(self.left, _COPIED_BYTES)))
        rest = data
        while rest:
            try:
                rest = rest[os.write(into, rest) :]
            except BlockingIOError:
                _wait(into, select.POLLOUT)
        return len(data)

    def drop(self, sock: socket.socket) -> None:
        """Read what is left, and what stands behind it, so that the next frame can be. Called by the channel, before it reads on; again after TimeoutError.

        Raises ProtocolError if something else stands behind it, and OSError.
        """
        while self.left:
            self.left -= len(_received(sock, min(self.left, _COPIED_BYTES)))
        while (missing := self._tail_bytes - len(self._tail)) > 0:
            self._tail += _received(sock, missing)
        if not is_tail(self._tail):
            raise ProtocolError("the peer sent a chunk that does not end as one")


def _received(sock: socket.socket, bytes_max: int) -> bytes:
    data = sock.recv(bytes_max)
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return data


def _wait(descriptor: int, events: int) -> None:
    poll = select.poll()
    poll.register(descriptor, events)
    poll.poll()
