"""Session: what both sides have agreed on at the beginning. Pure. A successor that adopts the descriptor is not asked again: it is given this."""

from typing import Final

import msgspec

from unios.errors import ProtocolError
from unios.fuse import abi
from unios.fuse.abi import Feature
from unios.fuse.requests import Init

PAGE: Final = 4096
NAMES_BYTES: Final = 16_384
"""What two names and a value of an attribute can have, however little is written at a time."""
NEEDED: Final = Feature.BIG_WRITES | Feature.INIT_EXT | Feature.MAX_PAGES | Feature.SETXATTR_EXT
"""Layouts are written for these."""
WANTED: Final = (
    NEEDED
    | Feature.ASYNC_READ
    | Feature.ASYNC_DIO
    | Feature.POSIX_LOCKS
    | Feature.FLOCK_LOCKS
    | Feature.ATOMIC_O_TRUNC
    | Feature.PARALLEL_DIROPS
    | Feature.DO_READDIRPLUS
    | Feature.READDIRPLUS_AUTO
    | Feature.EXPLICIT_INVAL_DATA
    | Feature.HANDLE_KILLPRIV_V2
    | Feature.ABORT_ERROR
    | Feature.CACHE_SYMLINKS
    | Feature.HAS_RESEND
)
"""What a coherent file system wants. EXPLICIT_INVAL_DATA: pages go when they are recalled, and not because a time has changed. WRITEBACK_CACHE is for the
caller to add."""


class Session(msgspec.Struct, frozen=True):
    """`features`: what is in force. Sizes in bytes."""

    minor: int
    features: int
    write_bytes: int
    readahead_bytes: int

    @property
    def can_resend(self) -> bool:
        """Whether a successor can have requests again that its predecessor was given; else who waits for those waits until the mount is cut."""
        return bool(self.features & Feature.HAS_RESEND)

    @property
    def writes_back(self) -> bool:
        """Whether Linux keeps writes back."""
        return bool(self.features & Feature.WRITEBACK_CACHE)

    @property
    def buffer_bytes(self) -> int:
        """How large the largest request can be: Linux refuses a reader with less."""
        return max(self.write_bytes, NAMES_BYTES) + PAGE


def negotiate(init: Init, *, wanted: int = WANTED, write_bytes: int = 1 << 20, background: int = 64) -> tuple[bytes, Session | None]:
    """Return the answer to INIT, and the session that begins with it; None: Linux asks again, with an older protocol.

    `write_bytes`: of one WRITE or READ, a multiple of 4096. `background`: how many requests nobody waits for may be under way. Raises ProtocolError if
    this Linux is too old.
    """
    if init.major > abi.MAJOR:
        return abi.INIT_OUT.pack(abi.MAJOR, abi.MINOR, *(0,) * 9), None
    if init.major < abi.MAJOR or init.minor < abi.MINOR_MIN:
        raise ProtocolError(f"this Linux speaks FUSE {init.major}.{init.minor}, and {abi.MAJOR}.{abi.MINOR_MIN} (Linux 5.17) is needed")
    if missing := NEEDED & ~init.features:
        raise ProtocolError(f"this Linux's FUSE lacks {Feature(missing)!r}")
    features = wanted & init.features
    session = Session(min(init.minor, abi.MINOR), features, write_bytes, init.readahead_bytes)
    answer = abi.INIT_OUT.pack(
        abi.MAJOR,
        session.minor,
        session.readahead_bytes,
        features & 0xFFFFFFFF,
        background,
        background * 3 // 4,
        write_bytes,
        1,  # times are kept to the nanosecond
        write_bytes // PAGE,
        0,
        features >> 32,
        0,
    )
    return answer, session
