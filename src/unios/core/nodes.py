"""Nodes: their records. Data only; core/membership.py decides what they mean."""

import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from unios.demands import Device

_UNNAMED: Final = re.compile(r"#[1-9][0-9]{0,9}")
"""A user without a name is called by his uid. Whatever else begins so (#0, #-1, # 0) could be root by another name."""


class Etcd(msgspec.Struct, frozen=True):
    """What a node says of the member of etcd that it could have: which version it has found, and where that would be reached, https://host:port."""

    version: str
    peer: str
    client: str


class NodeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node as the system knows it, at /nodes/<name>."""

    name: str
    machine: str
    incarnation: int
    """Counts its registrations: a node whose lease ended comes back as the next incarnation."""
    addresses: tuple[str, ...] = ()
    """host:port where its kernel takes links, the best first."""
    state: Literal["joined", "left"] = "joined"
    users: tuple[str, ...] = ()
    """For whom it may speak and run programs; "*" is everybody but root, who has to be named."""
    cores: int = 1
    version: str = ""
    protocol: int = 1
    """The newest that it speaks on links, and `protocol_min` the oldest."""
    protocol_min: int = 1
    release: str = ""
    """The version and a mark of the files of what it runs; "" of an older one."""
    joined_ms: int = 0
    stopped: bool = False
    """It was stopped in order; `unios up` on its machine brings it back."""
    memory_bytes: int = 0
    """Of its machine; 0: not known."""
    devices: tuple[Device, ...] = ()
    certificate: str = ""
    """SHA-256 of the node's certificate, hex: under its name no other is taken. Empty: of an older version, any is."""
    next_certificate: str = ""
    """The same of the one that was made for it and is to take its place: until it has, both are taken."""
    returns_ms: tuple[int, ...] = ()
    """When it came back after a loss, the last FLAP_LOSSES times, by its own wall clock (core/flapping.py)."""
    etcd: Etcd | None = None
    """None: it can have no member of the system's own etcd."""
    place: str = ""
    """Where its kernel registered from (kernel/place.py): while its lease stands another one is a copy of it."""
    expelled: bool = False
    """It has not left but was cut off: nobody waits for it to say good-bye."""


class TokenRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """At /tokens/<sha256 of the secret>, attached to a lease of its time to live."""

    expires_ms: int
    users: tuple[str, ...]
    used_by: str = ""


def rank_of(record: NodeRecord | None, mark: str) -> int:
    """Return how new a node's certificate is by its record: 2: the next one, 1: the present one, 0: neither, or nobody knows."""
    if record is None or not mark:
        return 0
    return 2 if mark == record.next_certificate else int(mark == record.certificate)


def may_speak_for(users: tuple[str, ...], user: str) -> bool:
    """Return whether a node with these users may ask for, and run programs as, `user`."""
    return user in users or ("*" in users and user != "root" and not (user.startswith("#") and not _UNNAMED.fullmatch(user)))


def covers(users: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Return whether a node with `users` speaks for everybody for whom one with `others` does."""
    return all(may_speak_for(users, user) for user in others)


def may_claim_machine(machine: str, users: tuple[str, ...], kept: frozenset[str], known: Iterable["NodeRecord"], *, owner: str) -> bool:
    """Return whether one who joins for `users` may say that it is a node of `machine`.

    A machine's nodes are asked for what is kept there, so nobody gets to one by its name alone: on the machines of the system itself (`kept`: the store,
    the authority's key) only who speaks for the system's `owner`, on another one only who speaks for all whom its nodes speak for.
    """
    if machine in kept and not may_speak_for(users, owner):
        return False
    return all(covers(users, record.users) for record in known if record.machine == machine and record.state != "left")


class Alive(msgspec.Struct, frozen=True):
    """At /alive/<name>, attached to the node's lease: while it is there the node is not lost."""

    incarnation: int


def node_key(name: str) -> str:
    return f"/nodes/{name}"


def alive_key(name: str) -> str:
    return f"/alive/{name}"
