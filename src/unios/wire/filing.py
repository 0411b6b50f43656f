"""Filing: what the file service of a node asks that of the node which owns the tree, on the port `files`: what Linux has asked it, as it came."""

from typing import Final

import msgspec

PORT: Final = "files"


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """ask -> Told. `data`: a request of FUSE of the mount of that number; `again`: it may have been asked before; `known`: its Linux was served before by others."""

    mount: int
    data: bytes
    again: bool = False
    known: bool = False


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """`error`: an errno, or 0 and what is answered; `error` -1: nothing is."""

    error: int = 0
    data: bytes = b""


class Stay(msgspec.Struct, frozen=True, omit_defaults=True):
    """stay -> no answer: who asks is there for as long as the connection is, with these mounts. `known`: their Linux were served before by others."""

    node: str
    mounts: tuple[int, ...] = ()
    known: bool = False


class Unmounted(msgspec.Struct, frozen=True):
    """unmounted -> Empty: there is no such mount any more."""

    mount: int
