"""What may be asked about blocks, and about what a process took along: arguments and answers, as in operations.py. docs/kernel.md is their manual."""

import msgspec

from unios.demands import Carry


class OfResults(msgspec.Struct, frozen=True):
    """processes.results -> Results: what a process took along and what has been collected of it."""

    pid: int


class Results(msgspec.Struct, frozen=True, omit_defaults=True):
    """`results`: names of the blocks of the results' manifest, 32 bytes each; empty: none have been collected. `state`, `reason`: the record's."""

    carry: Carry
    user: str
    state: str
    results: bytes = b""
    reason: str = ""


# blocks


class OfBlocks(msgspec.Struct, frozen=True, omit_defaults=True):
    """blocks.has -> bytes, the names that are missing. blocks.get -> stream of bundles: lists of blocks; what is not there is left out.
    blocks.drop -> Dropped. blocks.put, with items that are bundles -> Stored.

    `names`: 32 bytes each. `user`: whose; others' need privilege. `elsewhere` (get): fetch what is missing from other nodes first. `copies` (put): so
    many nodes shall have all of `names` when it is answered.
    """

    names: bytes
    user: str = ""
    elsewhere: bool = False
    copies: int = 1
    prefer: str = ""
    """The node that will need them (put): of those that are as good it gets the copy."""
    bytes: int = 0
    """How many will come (put), 0 if that is not known: what has no room is refused before it is sent."""


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """`bytes`: taken in. `nodes`: those that have all of it on disk. `refused`: what nodes said that have no room for a copy."""

    bytes: int
    nodes: tuple[str, ...]
    refused: tuple[str, ...] = ()


class Dropped(msgspec.Struct, frozen=True):
    count: int


class ListBlocks(msgspec.Struct, frozen=True, omit_defaults=True):
    """blocks.list -> tuple[BlockView, ...], of one user, by name, at most 10,000 that come after `after`."""

    after: bytes = b""
    user: str = ""


class BlockView(msgspec.Struct, frozen=True):
    name: bytes
    size: int
