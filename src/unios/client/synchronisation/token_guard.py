"""TokenGuard: what a resource needs to refuse the late effects of one who held a lock before: it remembers the greatest token that it has seen.

In memory, for a resource that lives in one process, or in a file of its own, which is written before the token is let pass and locked meanwhile. A file that
says no token is damaged, an empty one too: it is made whole and only then given its name. Then every effect is refused, because nobody knows what was let pass.
Source: the sequencers of Chubby (Burrows 2006).
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import threading
from collections.abc import Iterator
from typing import Final

from unios.durable import sync_folder
from unios.errors import DataLost, LeaseLost
from unios.wire.synchronising import Token

_NONE: Final = Token(0, 0)
_NUMBER_MAX: Final = 2**63
_WRITTEN: Final = re.compile(rb"([0-9]{20}) ([0-9]{20})\n")


class TokenGuard:
    """That of one resource."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path`: a file on a local disk that keeps the greatest token, for all processes that use it; made by the first token."""
        self._path = os.fsdecode(path) if path is not None else None
        self._greatest = _NONE
        self._on_disk = _NONE
        """What this object has brought to the disk itself: another process may have written the same and been killed before it synced that."""
        self._mutex = threading.Lock()

    @property
    def greatest(self) -> Token:
        """The greatest token that was let pass; (0, 0) for none. DataLost if the file does not say."""
        with self._mutex:
            if self._path is None:
                return self._greatest
            with _opened(self._path, os.O_RDONLY) as descriptor:
                if descriptor is None:
                    return self._seen(self._path, None)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                return self._seen(self._path, descriptor)

    def admit(self, token: tuple[int, int] | None) -> Token:
        """Let an effect under this token pass and return the token; LeaseLost if a later holder's has been seen. Equal tokens pass. DataLost if the file is
        damaged: a person must act, as the sentence says; OSError if it cannot be written. ValueError for what is no token."""
        if token is None:
            raise LeaseLost("no token: the lock is not held")
        mine = Token(*token)
        if not all(type(number) is int and number < _NUMBER_MAX for number in mine):
            raise ValueError(f"{tuple(mine)} is no token: a token is two whole numbers under 2**63")
        with self._mutex:
            self._greatest = _later(self._greatest, mine) if self._path is None else self._admit_in_file(self._path, mine)
        return mine

    def _admit_in_file(self, path: str, mine: Token) -> Token:
        with _opened(path, os.O_RDWR) as descriptor:
            if descriptor is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                seen = self._seen(path, descriptor)
                if _later(seen, mine) != self._on_disk:
                    _written(os.pwrite(descriptor, _text(mine), 0), path)
                    os.fdatasync(descriptor)
                    if self._on_disk == _NONE:
                        sync_folder(os.path.dirname(path))
                    self._on_disk = mine
                return mine
            _later(self._seen(path, None), mine)
        _make(path)
        return self._admit_in_file(path, mine)

    def _seen(self, path: str, descriptor: int | None) -> Token:
        """Return what the file says; DataLost if that cannot be what was let pass."""
        data = os.pread(descriptor, 100, 0) if descriptor is not None else _text(_NONE)
        found = _WRITTEN.fullmatch(data)
        if found is None:
            raise DataLost(_advice(path, f"is damaged: its {os.fstat(descriptor).st_size if descriptor is not None else 0} bytes are no token"))
        seen = Token(int(found[1]), int(found[2]))
        if seen < self._greatest:
            said = f"says {tuple(seen)}" if descriptor is not None else "is gone"
            raise DataLost(_advice(path, f"{said}, but {tuple(self._greatest)} was let pass: it was replaced or removed"))
        return seen


def _advice(path: str, wrong: str) -> str:
    return (
        f"the guard's file {path} {wrong}. Which tokens were let pass is not known any more, so every effect is refused. Whoever keeps this resource "
        f"must find the greatest token that has changed it and write that (printf '%020d %020d\\n' EPOCH NUMBER > {path}), "
        "or end all who may still hold an older token and remove the file; then start again who uses it"
    )


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int | None]:
    """Open the guard's file; None if there is none."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make(path: str) -> None:
    """Make the file, whole and on the disk before it has its name. Another process may do so at the same time: one of them is kept."""
    folder = os.path.dirname(path) or "."
    made = f"{path}.{secrets.token_hex(6)}"
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _written(os.write(descriptor, _text(_NONE)), path)
        os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.close(descriptor)
        os.unlink(made)
    sync_folder(folder)


def _written(count: int, path: str) -> None:
    if count < len(_text(_NONE)):
        raise OSError(errno.ENOSPC, "no room for the greatest token", path)


def _text(token: Token) -> bytes:
    return f"{token.epoch:020d} {token.number:020d}\n".encode()


def _later(seen: Token, mine: Token) -> Token:
    if mine < seen:
        raise LeaseLost(f"token {tuple(mine)} is older than {tuple(seen)}, which a later holder has shown: the effect is refused")
    return mine
