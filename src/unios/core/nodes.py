"""Nodes: their records. Data only; core/membership.py decides what they mean."""

from typing import Literal

import msgspec


class NodeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node as the system knows it, at /nodes/<name>."""

    name: str
    machine: str
    incarnation: int
    """Counts its registrations: a node whose lease ended comes back as the next incarnation."""
    addresses: tuple[str, ...] = ()
    """host:port where its kernel takes links, the best first."""
    state: Literal["joined", "left"] = "joined"
    users: tuple[str, ...] = ("*",)
    """Whose users it may speak for; "*" only if it runs as root."""
    cores: int = 1
    version: str = ""
    protocol: int = 1
    joined_ms: int = 0


class Alive(msgspec.Struct, frozen=True):
    """At /alive/<name>, attached to the node's lease: while it is there the node is not lost."""

    incarnation: int


def node_key(name: str) -> str:
    return f"/nodes/{name}"


def alive_key(name: str) -> str:
    return f"/alive/{name}"
