"""What is asked of a store's process over a connection; `store.transact` takes a Transaction itself."""

import msgspec

from unios.store.model import Revision


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
