"""Channel: one descriptor of /dev/fuse that is mounted. Reads requests, writes answers and notices; decides nothing.

The mount is served as long as any process has the descriptor open. A reader that ends leaves what it was given unanswered: `adopt` makes a channel of the
descriptor for a successor, which has that sent again. When the last one closes it Linux ends the connection: whoever waits gets ECONNABORTED, whoever
comes then ENOTCONN, until it is unmounted. One thread may read and answer while another tells notices; `close` is for when neither does any more: a thread
that waits in `read` keeps the descriptor, and is let go by unmounting.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

from unios.errors import ProtocolError, Unavailable, UniosError
from unios.fuse import abi, replies, session
from unios.fuse.abi import Notice, Op
from unios.fuse.decoding import decode
from unios.fuse.requests import Malformed, Request
from unios.fuse.session import Session

PARTS_MAX: Final = 1_000
"""Linux takes 1,024 at a time."""
ERRNO_MAX: Final = 511


class Unmounted(UniosError):
    """It is not mounted, or no more: nobody will ask anything."""


class Channel:
    """That of one mount. `close` gives back this process's descriptor."""

    def __init__(self, descriptor: int, agreed: Session) -> None:
        """`descriptor` is the channel's from now on."""
        self.descriptor, self.session = descriptor, agreed
        self._buffer = bytearray(agreed.buffer_bytes)
        self._view = memoryview(self._buffer)
        self._size = 0

    @classmethod
    def begin(
        cls,
        descriptor: int,
        *,
        wanted: int = session.WANTED,
        write_bytes: int = 1 << 20,
        keep: Callable[[Session], None] = lambda _agreed: None,
        again: bool = False,
    ) -> "Channel":
        """Answer INIT, which Linux sends first; waits for it. The descriptor stays the caller's if this raises: ProtocolError if this Linux is too old, or
        something else was asked; Unmounted.

        `keep` is given what is agreed before Linux is: a reader that ends between the two leaves a mount that can be adopted. `again`: a reader may have
        ended that was given INIT and had not come so far.
        """
        if again:
            with contextlib.suppress(OSError):
                os.writev(descriptor, (abi.OUT_HEADER.pack(abi.OUT_HEADER.size, Notice.RESEND, 0),))
        first = bytearray(1 << 16)
        while True:
            size = _read(descriptor, first)
            if size is None:
                raise Unavailable("nothing has been asked yet: the descriptor is not mounted, or does not block")
            request = decode(memoryview(first)[:size])
            if request.op != Op.INIT:
                raise ProtocolError(f"Linux began with {request} where INIT was due: the descriptor is in use already")
            try:
                answer, agreed = session.negotiate(request.body, wanted=wanted, write_bytes=write_bytes)
            except ProtocolError:
                _write(descriptor, request.unique, -errno.EPROTO, ())  # else whoever comes first waits for ever
                raise
            if agreed is not None:
                keep(agreed)
            _write(descriptor, request.unique, 0, (answer,))
            if agreed is not None:
                return cls(descriptor, agreed)

    @classmethod
    def adopt(cls, descriptor: int, agreed: Session) -> "Channel":
        """Go on for a reader that has ended, and have sent again what it has not answered. Whether it is mounted yet `read` finds out.

        What comes again says so (`Request.resent`): it may have been done. Without Session.can_resend it stays unanswered.
        """
        channel = cls(descriptor, agreed)
        if agreed.can_resend:
            channel.tell(*replies.resend())
        return channel

    @property
    def raw(self) -> bytes:
        """The request that was read last, as it came."""
        return bytes(self._view[: self._size])

    def read(self) -> Request | None:
        """Return the next request, None if there is none and the descriptor does not block. What it has of data is overwritten by the next read.

        What cannot be read is answered EIO. Raises Unmounted.
        """
        while True:
            size = _read(self.descriptor, self._buffer)
            if size is None:
                return None
            self._size = size
            try:
                return decode(self._view[:size])
            except Malformed as error:
                if error.unique:
                    _write(self.descriptor, error.unique, -errno.EIO, ())

    def answer(self, request: Request, *parts: bytes | memoryview) -> bool:
        """Answer it; return whether somebody waited for that still. Raises ProtocolError for what is no answer to that: it is answered EIO then."""
        try:
            return _write(self.descriptor, request.unique, 0, parts)
        except OSError as error:
            self.refuse(request, errno.EIO)
            raise ProtocolError(f"Linux does not take that for an answer to {request}: {error.strerror}") from error

    def refuse(self, request: Request, error: int) -> bool:
        """Answer with an errno, EIO for what is none; return whether somebody waited for that still."""
        return _write(self.descriptor, request.unique, -(error if 0 < error <= ERRNO_MAX else errno.EIO), ())

    def tell(self, notice: Notice, told: bytes) -> bool:
        """Tell Linux something; return whether it knew what this is about, and whether it is mounted.

        What is in use (a directory that was deleted, with somebody in it, or something mounted below) is known. An invalidation waits for pages that
        are written back, and for whoever has the directory locked: the thread that answers must not tell it.
        """
        try:
            os.writev(self.descriptor, (abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(told), notice, 0), told))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EBUSY):
                return True
            return error.errno not in (errno.ENAMETOOLONG, errno.EPERM) and _is_known(error)
        return True

    def close(self) -> None:
        """Give back the descriptor. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _read(descriptor: int, buffer: bytearray) -> int | None:
    while True:
        try:
            return os.readv(descriptor, (buffer,))
        except InterruptedError:
            continue
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOENT:  # whoever asked it is gone again
                continue
            if error.errno in (errno.ENODEV, errno.ECONNABORTED, errno.EPERM):
                raise Unmounted("it is not mounted, or no more") from None
            raise


def _write(descriptor: int, unique: int, error: int, parts: tuple[bytes | memoryview, ...]) -> bool:
    size = abi.OUT_HEADER.size + sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
    if len(parts) > PARTS_MAX:
        parts = (b"".join(parts),)
    try:
        os.writev(descriptor, (abi.OUT_HEADER.pack(size, error, unique), *parts))
    except OSError as failed:
        return _is_known(failed)
    return True


def _is_known(error: OSError) -> bool:
    """Return False for what Linux does not know (any more). Raises Unmounted, and what is nothing of both."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return False
    if error.errno in (errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EPERM):
        raise Unmounted("it is mounted no more") from None
    raise error
