"""Entry: what one operation writes into the journal of a tree: its changes, and what of the bytes of files goes with them."""

from typing import Final

import msgspec

from unios.core.files.changes import Changes


class Patch(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a block of a file from `start` on are `data`; of the block `length` count then. What it was before is of no more use under its name."""

    ino: int
    index: int
    start: int
    data: bytes
    length: int


class Done(msgspec.Struct, frozen=True, array_like=True):
    """Which request this was: if it comes again it is not done again. `ino`: of what it made."""

    mount: int
    number: int
    ino: int


class Entry(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """`at`: the how manieth of this tree it is, from 1 on. `image`: in a journal, what the log is to have of it, where that does not follow from `changes`."""

    at: int
    changes: Changes
    patches: tuple[Patch, ...] = ()
    done: Done | None = None
    image: Changes | None = None


class Began(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """From here on what `token` names writes: the journal of one file service on one node's disk, in one life of its Linux."""

    token: str
    node: str


Written = Entry | Began
_DECODER: Final = msgspec.msgpack.Decoder(Written)


def encode(written: Written) -> bytes:
    return msgspec.msgpack.encode(written)


def decode(data: bytes) -> Written:
    """Raises unios.undecodable.UNDECODABLE."""
    written: Written = _DECODER.decode(data)
    return written
