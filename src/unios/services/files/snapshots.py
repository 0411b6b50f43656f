"""Snapshots of the whole tree: kept as blocks, so that who goes on from the log need not read all that ever was. The record in the store names them."""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from unios.client import blocks
from unios.client.connection import Connection
from unios.core.files.changes import Changes, decode, encode
from unios.core.files.inode import BLOCK_BYTES
from unios.errors import DataLost
from unios.services.files.blocks import USER
from unios.undecodable import UNDECODABLE

ROOT: Final = "/files/root"
ENTRIES: Final = 50_000
"""So many entries of the log after the last snapshot there is another one."""
NAME_BYTES: Final = 32
_LENGTH: Final = struct.Struct("<I")


class RootRecord(msgspec.Struct, frozen=True):
    """At /files/root. `blocks`: the names of the blocks with the snapshot, 32 bytes each; `offset`: where in the log one goes on from there.

    `at`: the last entry that is in it; `token`: whose journal that was in (Began).
    """

    blocks: bytes
    offset: int
    at: int
    token: str


def keep(connection: Connection, parts: Iterable[Changes], kept: Callable[[int], None] = lambda _count: None) -> bytes:
    """Keep what makes a state in blocks; return their names, in order."""
    whole = b"".join(piece for part in parts for piece in _framed(part))
    found = [whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES)]
    data = {blocks.name_of(one): one for one in found}
    if data:
        blocks.keep(connection, list(data), blocks.Content(data.__getitem__, lambda name: len(data[name])), user=USER, sent=kept)
    return b"".join(blocks.name_of(one) for one in found)


def _framed(part: Changes) -> Iterator[bytes]:
    data = encode(part)
    yield _LENGTH.pack(len(data))
    yield data


def read(connection: Connection, names: bytes) -> Iterator[Changes]:
    """Yield what `keep` was given. DataLost."""
    each = [names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)]
    whole = b"".join(blocks.fetch(connection, each, user=USER))
    at = 0
    while at < len(whole):
        try:
            (size,) = _LENGTH.unpack_from(whole, at)
            yield decode(whole[at + _LENGTH.size : at + _LENGTH.size + size])
        except (*UNDECODABLE, struct.error) as error:
            raise DataLost(f"the snapshot of the tree of files makes no sense: {error}") from error
        at += _LENGTH.size + size
