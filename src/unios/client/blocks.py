"""Blocks from the caller's side: what is missing there, sending it, fetching it. Through the kernel that the connection talks to.

All of it is idempotent: after the death of a kernel another one is asked, and only what it lacks goes over the wire.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from unios.client.connection import Connection
from unios.errors import DataLost, NoRoom, ProtocolError, UniosError
from unios.limits import BLOCKS_COPIES, COPY_TIMEOUT_MS
from unios.undecodable import UNDECODABLE
from unios.wire import manifests
from unios.wire.carries import OfBlocks, Stored
from unios.wire.operations import Empty, NodeInfo, NodeView

name_of = manifests.name_of
NAMES_AT_ONCE = 4_096
GET_AT_ONCE = 256
OTHERS_MAX = 3
"""So many nodes are asked to take in what the nearest has no room for."""
_PUT_TIMEOUT_S = 60 + BLOCKS_COPIES * COPY_TIMEOUT_MS / 1000


class Sent(NamedTuple):
    """`bytes`: that went over the wire. `nodes`: those that have all on disk. `refused`: what nodes said that have no room for a copy."""

    bytes: int
    nodes: frozenset[str]
    refused: frozenset[str]


class Content(NamedTuple):
    """What blocks hold, by their names: all of it, and how many bytes."""

    read: Callable[[bytes], bytes]
    size: Callable[[bytes], int]


def chunks(names: list[bytes], size: int) -> Iterator[list[bytes]]:
    return (names[at : at + size] for at in range(0, len(names), size))


def keep(connection: Connection, names: list[bytes], content: Content, *, user: str = "", prefer: str = "", sent: Callable[[int], None]) -> Sent:
    """See that the blocks are kept, on two nodes where there are two. Where the nearest has no room, others are asked. NoRoom. Idempotent."""
    total, nodes = 0, None
    refused: set[str] = set()
    for some in chunks(names, NAMES_AT_ONCE):
        stored = connection.persist(lambda some=some: _keep_somewhere(connection, some, content, user, prefer, sent))  # type: ignore[misc]
        total += stored.bytes
        nodes = frozenset(stored.nodes) if nodes is None else nodes & frozenset(stored.nodes)
        refused.update(stored.refused)
    return Sent(total, nodes or frozenset(), frozenset(refused))


def _keep_somewhere(connection: Connection, names: list[bytes], content: Content, user: str, prefer: str, sent: Callable[[int], None]) -> Stored:
    try:
        return _keep(connection, None, names, content, user, prefer, sent)
    except NoRoom:
        for node in _others(connection):
            with contextlib.suppress(UniosError):
                return _keep(connection, node, names, content, user, prefer, sent)
        raise


def _others(connection: Connection) -> list[str]:
    """Return some nodes that can be asked in the place of the one at the other end."""
    mine = connection.call("node.info", Empty(), NodeInfo).name
    views: tuple[NodeView, ...] = connection.call("node.list", Empty(), tuple[NodeView, ...])
    machine = next((view.machine for view in views if view.name == mine), "")
    ready = sorted((view.machine == machine, view.name) for view in views if view.state == "ready" and view.name != mine)
    return [name for _same, name in ready[:OTHERS_MAX]]


def _keep(
    connection: Connection, node: str | None, names: list[bytes], content: Content, user: str, prefer: str, sent: Callable[[int], None]
) -> Stored:
    """`node`: to be asked in the place of the one at the other end."""
    whole = b"".join(names)
    missing = manifests.split(connection.call("blocks.has", OfBlocks(whole, user), bytes, node=node))
    needed = sum(map(content.size, missing))
    asked = connection.begin("blocks.put", OfBlocks(whole, user, copies=BLOCKS_COPIES, prefer=prefer, bytes=needed), node=node)
    try:
        for bundle in manifests.bundles(map(content.read, missing)):
            asked.send(bundle, timeout_s=_PUT_TIMEOUT_S)
            sent(sum(map(len, bundle)))
        asked.end_items()
        raw, _descriptors = asked.finish(timeout_s=_PUT_TIMEOUT_S)
    finally:
        asked.close()
    try:
        stored: Stored = msgspec.msgpack.decode(raw, type=Stored)
    except UNDECODABLE as error:
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
