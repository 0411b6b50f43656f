"""Keys: a node's key and its certificate on disk, exchanged together: they are two files, and one of the old with one of the new lets in nobody.

The new pair lies whole in `node.next` before either file is touched; an exchange that was broken off is done to its end when the node starts.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from unios.kernel.certificates import write_secret

NEXT: Final = "node.next"


class Pair(msgspec.Struct, frozen=True):
    """PEM both."""

    key: bytes
    certificate: bytes


def keep_next(folder: Path, key: bytes, certificate: bytes) -> None:
    """Keep a pair that is to take the place of the present one. Durable. Raises OSError."""
    write_secret(folder / NEXT, msgspec.msgpack.encode(Pair(key, certificate)))


def install(folder: Path) -> bool:
    """Let the pair that is kept take its place, if there is one; return whether there was. Durable, idempotent. Raises OSError."""
    try:
        pair = msgspec.msgpack.decode((folder / NEXT).read_bytes(), type=Pair)
    except FileNotFoundError:
        return False
    write_secret(folder / "node.key", pair.key)
    write_secret(folder / "node.crt", pair.certificate)
    os.unlink(folder / NEXT)
    return True
