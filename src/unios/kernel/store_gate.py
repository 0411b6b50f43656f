"""The store's gate: serves the store's requests of a member that does not speak for root, over the stream that its kernel opened with ports.relay.

What it may do is decided by core/gate.py. A transaction is judged by the records that are there, and is then made to depend on them: it compares their
revisions too, and is judged again if one of them has changed meanwhile. What is denied is done in no part. The member keeps one set of leases per
kernel of the store's machine, over all of its connections; a kernel that knows nothing of it takes up the lease that the member's /alive record holds.

Each connection has a client of the store of its own, made as the kernel makes its own: what a member asks for, and how much of it at a time, does not
stand in the way of this node's lease.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final, cast

import msgspec

from unios.core import gate
from unios.core.gate import Member
from unios.core.nodes import alive_key
from unios.core.processes import ProcessRecord
from unios.errors import CallerError, Denied, NotFound, Unavailable, UniosError
from unios.ids import LeaseId
from unios.kernel.callers import Caller
from unios.kernel.clocks import wall_ms
from unios.limits import GATE_ATTEMPTS_MAX, GATE_CONNECTIONS_MAX, GATE_LEASES_MAX
from unios.store.client import StoreClient
from unios.store.model import UNDECODABLE, Batch, Compare, Delete, Put, Range, RangeResult, Record, Transaction, TransactionResult
from unios.store.rated import Rates
from unios.store.requests import LeaseRequest, WatchRequest
from unios.store_limits import GATE_BURST_MAX, GATE_RATE_MAX
from unios.wire.operations import Connected
from unios.wire.peer import Call, Peer
from unios.wire.pipes import CallTransport

KEYS_AT_A_TIME: Final = 256

Seen = dict[str, Record]
"""What there is of some keys; absent ones are missing."""


class _Granted:
    """What one member has: its leases, the oldest first, and its connections."""

    def __init__(self) -> None:
        self.leases: dict[int, None] = {}
        self.connections = 0
        self.rates = Rates(GATE_RATE_MAX, GATE_BURST_MAX)


class StoreGate:
    """The gate of one kernel. `open_client` returns a new client of the store."""

    def __init__(self, open_client: Callable[[], StoreClient]) -> None:
        self._open_client = open_client
        self._granted: dict[tuple[str, str], _Granted] = {}

    async def serve(self, caller: Caller, call: Call) -> None:
        """Serve one connection of a kernel until it ends; the first item says that it is connected."""
        member = Member(caller.node, caller.machine, caller.users)
        granted = self._granted.setdefault((member.node, member.machine), _Granted())
        if granted.connections >= GATE_CONNECTIONS_MAX:
            raise Unavailable(f"{member.node} has {GATE_CONNECTIONS_MAX} connections to the store, its limit")
        granted.connections += 1
        store = self._open_client()
        try:
            await call.send(Connected(0))
            await _serve(call, GateSession(member, store, granted.leases, rates=granted.rates))
        finally:
            granted.connections -= 1
            await store.close()


async def _serve(call: Call, session: "GateSession") -> None:
    peer = Peer(CallTransport(call), session.handle, role="store")
    try:
        with contextlib.suppress(UniosError):
            await peer.start()
            await peer.closed()
    finally:
        peer.close("the gate is closed")


class GateSession:
    """One connection of one member. `leases`: those that it was granted, shared by its connections."""

    def __init__(
        self, member: Member, store: StoreClient, leases: dict[int, None], clock: Callable[[], int] = wall_ms, rates: Rates | None = None
    ) -> None:
        self._member = member
        self._wall_ms = clock
        self._store = store
        self._rates = rates or Rates(GATE_RATE_MAX, GATE_BURST_MAX)
        self._leases = leases
        self._taken_up = False

    async def handle(self, call: Call) -> object:
        """Serve one request, in its turn."""
        await self._rates.wait(call.op, self._member.node)
        match call.op:
            case "store.transact":
                return await self.transact(call.decode(Transaction))
            case "store.watch":
                return await self._watch(call)
            case "store.grant":
                return await self._grant(call.decode(LeaseRequest).ttl_ms)
            case "store.renew":
                return await self._renew(LeaseId(call.decode(LeaseRequest).lease))
            case "store.end":
                return await self._end(LeaseId(call.decode(LeaseRequest).lease))
            case "store.compact":
                raise Denied(f"{self._member.node} may not make the store forget its history")
            case "store.statistics":
                return await self._store.statistics()
        raise CallerError(f"the store has no operation {call.op[:80]}")

    # transactions

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Do a transaction as the member asked for it, if it may."""
        keys = tuple(dict.fromkeys(key for operation in transaction.then if not isinstance(operation, Range) for key in gate.needs(operation.key)))
        for _attempt in range(GATE_ATTEMPTS_MAX):
            seen = await self._see(keys)
            await self._check(transaction, {key: record.value for key, record in seen.items()})
            result = await self._store.transact(_tied(transaction, keys, seen))
            if result.succeeded:
                return await self._shown(result, transaction.then)
            own, pins = result.results[: len(transaction.otherwise)], result.results[len(transaction.otherwise) :]
            if all(_modified(pin) == _revision(seen.get(key)) for key, pin in zip(keys, pins, strict=True)):
                return await self._shown(msgspec.structs.replace(result, results=own), transaction.otherwise)
        raise Unavailable("the records that decide about this keep changing: try again")

    async def _see(self, keys: Iterable[str]) -> Seen:
        seen: Seen = {}
        wanted = list(keys)
        for start in range(0, len(wanted), KEYS_AT_A_TIME):
            result = await self._store.transact(Transaction(then=tuple(Range(key) for key in wanted[start : start + KEYS_AT_A_TIME])))
            seen.update((record.key, record) for found in result.results if isinstance(found, RangeResult) for record in found.records)
        return seen

    async def _check(self, transaction: Transaction, now: dict[str, bytes]) -> None:
        for compare in transaction.compares:
            gate.check_compare(self._member, compare.key, compare.target)
        if any(not isinstance(operation, Range) for operation in transaction.otherwise):
            raise Denied(f"a transaction of {self._member.node} writes only if what it compares is so")
        together = frozenset(operation.key for operation in transaction.then if isinstance(operation, Put))
        for operation in transaction.then:
            if isinstance(operation, Put):
                if operation.lease:
                    await self._take_up()
                gate.check_lease(self._member, operation.key, operation.lease, self._leases)
                gate.check_put(self._member, operation.key, operation.value, now, together, self._wall_ms())
            elif isinstance(operation, Delete):
                gate.check_delete(self._member, operation.key, prefix=operation.prefix)

    async def _shown(self, result: TransactionResult, operations: tuple[Put | Delete | Range, ...]) -> TransactionResult:
        """Return the result without what the member may not see."""
        results = [
            await self._page(operation, found) if isinstance(operation, Range) and isinstance(found, RangeResult) else found
            for operation, found in zip(operations, result.results, strict=True)
        ]
        return msgspec.structs.replace(result, results=tuple(results))

    async def _page(self, asked: Range, found: RangeResult) -> RangeResult:
        """Return what it may see; if that is nothing of this page, of the next: who reads on asks from the last record that it got."""
        shown = await self._visible(found.records)
        while not shown and found.more:
            found, _revision = await self._store.range(asked.key, prefix=asked.prefix, after=found.records[-1].key, limit=asked.limit)
            shown = await self._visible(found.records)
        return RangeResult(shown, found.more)

    async def _visible(self, records: Iterable[Record]) -> tuple[Record, ...]:
        found = tuple(records)
        owners = await self._owners(found)
        return tuple(r for r in found if gate.may_read(self._member, r.key, r.value, owners.get(gate.names_process(r.key, r.value))))

    async def _owners(self, records: tuple[Record, ...]) -> dict[str, str]:
        """Return the users of the processes that requests among the records name, by the keys of the processes."""
        named = dict.fromkeys(key for record in records if (key := gate.names_process(record.key, record.value)))
        owners = {}
        for key, record in (await self._see(named)).items():
            with contextlib.suppress(*UNDECODABLE):
                owners[key] = msgspec.msgpack.decode(record.value, type=ProcessRecord).user
        return owners

    async def _watch(self, call: Call) -> object:
        request = call.decode(WatchRequest)
        batches = cast("AsyncGenerator[Batch, None]", self._store.watch(request.prefix, after=request.after, calm_ms=request.calm_ms))
        async with contextlib.aclosing(batches):
            async for batch in batches:
                shown = {id(record) for record in await self._visible(event.record for event in batch.events)}
                await call.send(Batch(batch.revision, tuple(event for event in batch.events if id(event.record) in shown)))
        return None

    # leases

    async def _take_up(self) -> None:
        """Take up the lease that another kernel, or an earlier life of this one, granted: the member's /alive record can hold no other's."""
        if not self._taken_up:
            found, _revision = await self._store.range(alive_key(self._member.node))
            self._leases.update((record.lease, None) for record in found.records if record.lease)
            self._taken_up = True

    async def _grant(self, ttl_ms: int) -> int:
        await self._take_up()
        while len(self._leases) >= GATE_LEASES_MAX:
            oldest = next(iter(self._leases))
            await self._store.lease_revoke(LeaseId(oldest))
            self._leases.pop(oldest, None)
        lease = await self._store.lease_grant(ttl_ms)
        self._leases[lease] = None
        return lease

    async def _renew(self, lease: LeaseId) -> int:
        """A lease that is not its own is one that it has not got: a node that hears so registers again."""
        await self._take_up()
        if lease not in self._leases:
            raise NotFound(f"{self._member.node} has no lease {lease}, or it has ended")
        try:
            return await self._store.lease_renew(lease)
        except NotFound:
            self._leases.pop(lease, None)
            raise

    async def _end(self, lease: LeaseId) -> int:
        await self._take_up()
        if lease not in self._leases:
            raise Denied(f"lease {lease} was not granted to {self._member.node}")
        await self._store.lease_revoke(lease)
        self._leases.pop(lease, None)
        return 1


def _tied(transaction: Transaction, keys: tuple[str, ...], seen: Seen) -> Transaction:
    """Return the transaction so that it does nothing if a record that decided about it has changed; its other answers then say whether one has."""
    pins = tuple(Compare(key, "modified", "==", _revision(seen.get(key))) for key in keys)
    looks = tuple(Range(key) for key in keys)
    return Transaction((*transaction.compares, *pins), transaction.then, (*transaction.otherwise, *looks))


def _revision(record: Record | None) -> int:
    return record.modified if record is not None else 0


def _modified(found: RangeResult | int) -> int:
    return found.records[0].modified if isinstance(found, RangeResult) and found.records else 0
