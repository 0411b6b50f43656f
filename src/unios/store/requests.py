"""What is asked of a store's process over a connection; `store.transact` takes a Transaction itself."""

import msgspec

from unios.store.model import Delete, Put, Record, Revision


class WatchRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """store.watch -> stream of Batch. Without a revision: from now on. `calm_ms`: events are gathered for so long."""

    prefix: str
    after: Revision | None = None
    calm_ms: int = 0


class LeaseRequest(msgspec.Struct, frozen=True):
    """store.grant (ttl_ms) -> id; store.renew (lease) -> ttl_ms; store.end (lease) -> number ended."""

    lease: int = 0
    ttl_ms: int = 0


class CompactRequest(msgspec.Struct, frozen=True):
    """store.compact -> 0."""

    revision: Revision


class MemberView(msgspec.Struct, frozen=True):
    """store.members -> a tuple of these: the members of the etcd behind it, empty for the embedded engine. `name`: empty until it has started."""

    id: int
    name: str
    peer: str
    client: str
    learner: bool = False


class MemberRequest(msgspec.Struct, frozen=True):
    """store.member -> what store.members says then. `what`: "add" the member at `peer` as a learner, "promote", "remove", or "move" it to `peer`."""

    what: str
    id: int = 0
    peer: str = ""


class MemberHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member of the etcd as it answers for itself. `trouble`: why it does not answer, or what it complains of; `alarm`: "nospace", "corrupt"."""

    id: int
    name: str
    peer: str
    client: str
    learner: bool = False
    answers: bool = False
    version: str = ""
    leader: bool = False
    bytes: int = 0
    """Of its file; of these, `used_bytes` hold something, the rest is given back by defragmenting it."""
    used_bytes: int = 0
    alarm: str = ""
    trouble: str = ""


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """store.health -> how the engine stands. `members`: none for the embedded engine. `quota_bytes`: what a member may have at most, 0: not known."""

    members: tuple[MemberHealth, ...] = ()
    quota_bytes: int = 0


class DefragmentRequest(msgspec.Struct, frozen=True):
    """store.defragment -> 0: have one member give back what its file does not need. It does nothing else meanwhile.

    store.disarm -> 0: take back its alarm of no space.
    """

    id: int


class MoveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """store.move -> the engine that is the store then. `to`: "etcd", "sqlite", or empty: none; then it says which it is, once no move is under way.

    `attempt`: of the way back, what the record MOVING says; `machines`: those that have no gateway any more, for that attempt.
    """

    to: str = ""
    attempt: str = ""
    machines: tuple[str, ...] = ()


class Dumped(msgspec.Struct, frozen=True):
    """store.dump -> stream of these: all records, in key order, as they are at one revision."""

    revision: Revision
    records: tuple[Record, ...]


class RestoreRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """store.restore -> 0. Changes come in parts and are made with the last, in one transaction; with it a new generation begins: who watches reads anew.
    Leases go on. Those of one connection belong together."""

    operations: tuple[Put | Delete, ...] = ()
    last: bool = False
