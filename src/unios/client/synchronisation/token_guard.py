"""TokenGuard: what a resource needs to refuse the late effects of one who held a lock before: it remembers the greatest token that it has seen.

In memory, for a resource that lives in one process, or in a file of its own, which is written before the token is let pass and locked meanwhile.
Source: the sequencers of Chubby (Burrows 2006).
"""

import fcntl
import os
import threading
from typing import Final

from unios.errors import LeaseLost
from unios.wire.synchronising import Token

_NONE: Final = Token(0, 0)


class TokenGuard:
    """That of one resource."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path`: a file on a local disk that keeps the greatest token, for all processes that use it."""
        self._path = path
        self._greatest = _NONE
        self._mutex = threading.Lock()

    @property
    def greatest(self) -> Token:
        """The greatest token that was let pass; (0, 0) for none."""
        with self._mutex:
            return self._greatest if self._path is None else self._read()

    def _read(self) -> Token:
        assert self._path is not None
        try:
            with open(self._path) as file:
                return _parse(file.read())
        except FileNotFoundError:
            return _NONE

    def admit(self, token: tuple[int, int] | None) -> Token:
        """Let an effect under this token pass and return the token; LeaseLost if a later holder's has been seen. Equal tokens pass."""
        if token is None:
            raise LeaseLost("no token: the lock is not held")
        mine = Token(*token)
        with self._mutex:
            if self._path is None:
                self._greatest = _later(self._greatest, mine)
            else:
                self._admit_in_file(self._path, mine)
        return mine

    def _admit_in_file(self, path: str | os.PathLike[str], mine: Token) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            seen = _parse(os.pread(descriptor, 100, 0).decode())
            if _later(seen, mine) != seen:
                os.pwrite(descriptor, f"{mine.epoch:020d} {mine.number:020d}\n".encode(), 0)
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _parse(text: str) -> Token:
    words = text.split()
    return Token(int(words[0]), int(words[1])) if len(words) == 2 else _NONE


def _later(seen: Token, mine: Token) -> Token:
    if mine < seen:
        raise LeaseLost(f"token {tuple(mine)} is older than {tuple(seen)}, which a later holder has shown: the effect is refused")
    return mine
