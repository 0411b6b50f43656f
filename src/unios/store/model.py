"""The store's interface: etcd's model, whatever the engine behind it.

- A *key* is a path-like string; its *value* is bytes.
- Every successful transaction that writes makes a new *revision number*, which others that were under way at the same time may share, if none of them
  touches what another writes; a revision is (generation, number) and opaque to callers except for equality, for handing it back to `watch`, and for which
  of two of one generation is the later: its number is larger.
- A *record* knows the number that created it, that last modified it, and its version (1 at creation).
- A *transaction* compares, then does one of two lists of operations, atomically, and is durable when it is acknowledged.
- A *watch* delivers every event of a prefix from a revision on, in order, without gap or duplicate, or raises `Compacted`.
- A *lease* has an id and a time to live; keys attached to it are deleted, in one transaction, when it ends.

Source: the etcd v3 API (range, txn, watch, lease). One conformance suite (tests/store) runs on every engine.
"""

from collections.abc import AsyncIterator
from typing import Literal, NamedTuple, Protocol

import msgspec

from unios.ids import Generation, LeaseId
from unios.undecodable import UNDECODABLE as UNDECODABLE


class Revision(NamedTuple):
    """A point in a store's history; numbers of different generations cannot be compared."""

    generation: Generation
    number: int


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A key with its value. `created` and `modified` are revision numbers, `version` counts puts since creation."""

    key: str
    value: bytes
    created: int
    modified: int
    version: int
    lease: int = 0


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """One condition. An absent key has created = modified = version = 0 and equals no value."""

    key: str
    target: Literal["created", "modified", "version", "value", "lease"]
    op: Literal["==", "!=", "<", ">"]
    operand: int | bytes


class Put(msgspec.Struct, frozen=True, tag="put"):
    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    """Delete `key`, or with `prefix` every key that starts with it."""

    key: str
    prefix: bool = False


class Range(msgspec.Struct, frozen=True, tag="range"):
    """Read `key`, or with `prefix` every key that starts with it and is > `after`, in key order, at most `limit` (0: the bound)."""

    key: str
    prefix: bool = False
    after: str = ""
    limit: int = 0


Operation = Put | Delete | Range


class Transaction(msgspec.Struct, frozen=True):
    """If every compare holds do `then`, else `otherwise`."""

    compares: tuple[Compare, ...] = ()
    then: tuple[Operation, ...] = ()
    otherwise: tuple[Operation, ...] = ()


class RangeResult(msgspec.Struct, frozen=True):
    """`more` says that `limit` cut the answer."""

    records: tuple[Record, ...]
    more: bool = False


class TransactionResult(msgspec.Struct, frozen=True):
    """`results` has one entry per operation done: RangeResult for a range, the number of keys for a delete (0 for a put)."""

    succeeded: bool
    revision: Revision
    results: tuple[RangeResult | int, ...] = ()


class Event(msgspec.Struct, frozen=True, array_like=True):
    """What happened to a key at revision number `number`. For a delete, `record` is the last one before it, `modified` included."""

    kind: Literal["put", "delete"]
    number: int
    record: Record


class Batch(msgspec.Struct, frozen=True):
    """Events of whole revisions, ending with `revision`. The first batch of a watch may be empty: it says where the watch begins."""

    revision: Revision
    events: tuple[Event, ...] = ()


class Traffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went one way since the process began. `messages`: requests, or messages to watchers."""

    messages: int
    bytes: int
    events: int = 0


class StoreStatistics(msgspec.Struct, frozen=True):
    revision: Revision
    compacted: int
    keys: int
    leases: int
    watchers: int
    bytes: int
    transactions: int
    syncs: int
    """fsyncs or their like that the engine has issued since it started."""
    asked: dict[str, Traffic] = {}
    """What this process was asked, by operation and part of the store (store/tally.py)."""
    told: dict[str, Traffic] = {}
    """What its watchers were told, by the prefix that they watch."""
    etcd: dict[str, Traffic] = {}
    """Of a gateway: what it asked of etcd, by operation, and what it heard of it ("watch")."""


class Store(Protocol):
    """What an engine, and a client of a store process, offers. All raise `Unavailable` when the store cannot be reached before
    anything was sent, and `OutcomeUnknown` when a transaction that writes was sent and its answer is lost."""

    async def range(self, key: str, *, prefix: bool = False, after: str = "", limit: int = 0) -> tuple[RangeResult, Revision]: ...

    async def put(self, key: str, value: bytes, *, lease: LeaseId = LeaseId(0)) -> Revision: ...  # noqa: B008 a NewType: no call at all

    async def delete(self, key: str, *, prefix: bool = False) -> tuple[int, Revision]: ...

    async def transact(self, transaction: Transaction) -> TransactionResult: ...

    def watch(self, prefix: str, *, after: Revision | None = None, calm_ms: int = 0) -> AsyncIterator[Batch]:
        """Yield every event after `after` (None: from now on); raise `Compacted` if that part of history is gone.

        `calm_ms`: events may be gathered for so long, for a watcher that is in no hurry.
        """
        ...

    async def lease_grant(self, ttl_ms: int) -> LeaseId: ...

    async def lease_renew(self, lease: LeaseId) -> int:
        """Return the ttl in ms that is granted anew; raise `NotFound` if the lease has ended."""
        ...

    async def lease_revoke(self, lease: LeaseId) -> None: ...

    async def compact(self, revision: Revision) -> None: ...

    async def statistics(self) -> StoreStatistics: ...

    async def close(self) -> None: ...
