"""Joining: the only thing that a stranger may ask of a kernel, and what it answers."""

import msgspec


class JoinHello(msgspec.Struct, frozen=True):
    """join.hello -> JoinGreeting."""


class JoinGreeting(msgspec.Struct, frozen=True, omit_defaults=True):
    """The authority's certificate, PEM: the joiner compares it with its token before it says more. And what it may compare itself with."""

    authority: bytes
    version: str = ""
    wall_ms: int = 0
    probes: bool = False
    """join.probe is served."""


class JoinProbe(msgspec.Struct, frozen=True):
    """join.probe -> JoinProbed: can the joiner be reached at these addresses? Whoever answers there says `nonce`. `secret` is the token's."""

    secret: str
    addresses: tuple[str, ...]
    nonce: bytes


class JoinProbed(msgspec.Struct, frozen=True, omit_defaults=True):
    """`problems`: (address, why it is not reached) of those that were not. `node`: who tried."""

    problems: tuple[tuple[str, str], ...] = ()
    node: str = ""


class JoinAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """join.ask -> Joined. `secret` is the token's; `public_key` PEM; `name` is a wish."""

    secret: str
    public_key: bytes
    machine: str
    name: str = ""
    users: tuple[str, ...] = ()
    version: str = ""


class Joined(msgspec.Struct, frozen=True, omit_defaults=True):
    """The new node's certificate and what it has to know of the system. `members`: name -> addresses."""

    name: str
    certificate: bytes
    system: str
    engine: str
    store_machine: str
    generation: str
    members: dict[str, tuple[str, ...]]
    cluster: bytes = b""
    """Of a machine that shall have a gateway to etcd: what kernel/cluster.py keeps. Only for one that speaks for all for whom the store's machines do."""
