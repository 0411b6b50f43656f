"""Blocks from the caller's side: what is missing there, sending it, fetching it. Through the kernel that the connection talks to.

All of it is idempotent: after the death of a kernel another one is asked, and only what it lacks goes over the wire.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from unios.client.connection import Connection
from unios.errors import DataLost, ProtocolError
from unios.limits import BLOCKS_COPIES, COPY_TIMEOUT_MS
from unios.wire import manifests
from unios.wire.carries import OfBlocks, Stored

NAMES_AT_ONCE = 4_096
GET_AT_ONCE = 256
_PUT_TIMEOUT_S = 60 + BLOCKS_COPIES * COPY_TIMEOUT_MS / 1000


class Sent(NamedTuple):
    """`bytes`: that went over the wire. `nodes`: those that have all on disk."""

    bytes: int
    nodes: frozenset[str]


def chunks(names: list[bytes], size: int) -> Iterator[list[bytes]]:
    return (names[at : at + size] for at in range(0, len(names), size))


def keep(
    connection: Connection, names: list[bytes], read: Callable[[bytes], bytes], *, user: str = "", prefer: str = "", sent: Callable[[int], None]
) -> Sent:
    """See that the blocks are kept, on two nodes where there are two. `read` gives the content of one that is missing. Idempotent."""
    total, nodes = 0, None
    for some in chunks(names, NAMES_AT_ONCE):
        stored = connection.persist(lambda some=some: _keep(connection, some, read, user, prefer, sent))  # type: ignore[misc]
        total += stored.bytes
        nodes = frozenset(stored.nodes) if nodes is None else nodes & frozenset(stored.nodes)
    return Sent(total, nodes or frozenset())


def _keep(connection: Connection, names: list[bytes], read: Callable[[bytes], bytes], user: str, prefer: str, sent: Callable[[int], None]) -> Stored:
    whole = b"".join(names)
    missing = manifests.split(connection.call("blocks.has", OfBlocks(whole, user), bytes))
    asked = connection.begin("blocks.put", OfBlocks(whole, user, copies=BLOCKS_COPIES, prefer=prefer))
    try:
        for bundle in manifests.bundles(map(read, missing)):
            asked.send(bundle, timeout_s=_PUT_TIMEOUT_S)
            sent(sum(map(len, bundle)))
        asked.end_items()
        raw, _descriptors = asked.finish(timeout_s=_PUT_TIMEOUT_S)
    finally:
        asked.close()
    try:
        stored: Stored = msgspec.msgpack.decode(raw, type=Stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the kernel sent an answer that is none: {error}") from error
    return stored


def fetch(connection: Connection, names: Iterable[bytes], *, user: str = "") -> Iterator[bytes]:
    """Yield the blocks in that order, verified. DataLost if one is nowhere to be had."""
    for some in chunks(list(names), GET_AT_ONCE):
        unique = list(dict.fromkeys(some))
        got = connection.persist(lambda unique=unique: _get(connection, unique, user))  # type: ignore[misc]
        for name in some:
            if name not in got:
                raise DataLost("no node that is left has it")
            yield got[name]


def _get(connection: Connection, names: list[bytes], user: str) -> dict[bytes, bytes]:
    asked = connection.begin("blocks.get", OfBlocks(b"".join(names), user, elsewhere=True))
    found: dict[bytes, bytes] = {}
    try:
        while (bundle := asked.next(list[bytes], timeout_s=_PUT_TIMEOUT_S)) is not None:
            found.update((manifests.name_of(data), data) for data in bundle)
    finally:
        asked.close()
    return found


def read_manifest(connection: Connection, names: bytes, *, user: str = "") -> list[manifests.Entry]:
    """Return what a manifest says. DataLost if it is nowhere, CallerError if it is none."""
    return manifests.decode(b"".join(fetch(connection, manifests.split(names), user=user)))
