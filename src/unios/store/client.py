"""A client of a store's process: the Store interface over a connection that is made again when it breaks.

Nothing is sent twice: a transaction that writes and whose answer is lost is OutcomeUnknown, everything else Unavailable. A watch goes on by itself
from the last revision that it delivered.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from unios.errors import Elsewhere, OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.ids import LeaseId
from unios.limits import STORE_RETRY_MS, STORE_TIMEOUT_MS
from unios.store.model import (
    Batch,
    Delete,
    Put,
    Range,
    RangeResult,
    Revision,
    StoreStatistics,
    Transaction,
    TransactionResult,
)
from unios.store.requests import (
    CompactRequest,
    DefragmentRequest,
    Dumped,
    Health,
    LeaseRequest,
    MemberRequest,
    MemberView,
    MoveRequest,
    RestoreRequest,
    WatchRequest,
)
from unios.wire.doors import connect_unix
from unios.wire.peer import Peer, Stream
from unios.wire.transport import SocketTransport

DEFRAGMENT_TIMEOUT_MS: Final = 130_000
"""A member writes its file anew, of up to 4 GiB."""

RESTORE_TIMEOUT_MS: Final = 120_000
MOVE_TIMEOUT_MS: Final = 60_000
"""A cluster of one member begins, and it may be slow to."""
RESTORE_PART: Final = 5_000
RESTORE_PART_BYTES: Final = 2 * 1024 * 1024

Connect = Callable[[], Awaitable[Peer]]
"""Return a started connection to the store's process; raise Unavailable or OSError."""


class StoreClient:
    """See store/model.py for what each method promises."""

    def __init__(self, connect: Connect, *, timeout_ms: int = STORE_TIMEOUT_MS) -> None:
        self._connect = connect
        self._timeout_ms = timeout_ms
        self._peer: Peer | None = None
        self._attempt: asyncio.Task[Peer] | None = None
        self._closed = False

    async def _connected(self) -> Peer:
        """Return the connection, or make it. Whoever comes while it is being made shares what comes of it."""
        if self._peer is not None and not self._peer.is_closed:
            return self._peer
        if self._closed:
            raise Unavailable("this client of the store is closed")
        if self._attempt is None:
            self._attempt = asyncio.create_task(self._make())
            self._attempt.add_done_callback(self._made)
        attempt = self._attempt
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            if not attempt.cancelled():
                raise
            raise Unavailable("this client of the store is closed") from None

    async def _make(self) -> Peer:
        try:
            self._peer = await asyncio.wait_for(self._connect(), self._timeout_ms / 1000)
        except (OSError, TimeoutError, OutcomeUnknown, ProtocolError) as error:
            raise Unavailable(f"the store cannot be reached: {error}") from error
        return self._peer

    def _made(self, attempt: asyncio.Task[Peer]) -> None:
        self._attempt = None
        if not attempt.cancelled():
            attempt.exception()  # nobody may be waiting any more

    async def _ask(self, op: str, body: object, type_: Any, *, writes: bool = False, timeout_ms: int = 0) -> Any:
        until = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        while True:
            peer = await self._connected()
            try:
                return await peer.call(op, body, type_, timeout_ms=timeout_ms or self._timeout_ms)
            except Elsewhere:
                if self._peer is peer:  # what else waits there for an answer gets one; the other side closes it
                    self._peer = None
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(STORE_RETRY_MS / 1000)
            except OutcomeUnknown as error:
                if writes:
                    raise
                raise Unavailable(f"the store did not answer: {error}") from error

    async def pass_on(self, op: str, body: msgspec.Raw, *, timeout_ms: int = 0) -> msgspec.Raw:
        """Ask what another has asked; what was lost is OutcomeUnknown, whatever it was: he knows what he asked for."""
        answer: msgspec.Raw = await self._ask(op, body, msgspec.Raw, writes=True, timeout_ms=timeout_ms)
        return answer

    async def range(self, key: str, *, prefix: bool = False, after: str = "", limit: int = 0) -> tuple[RangeResult, Revision]:
        result = await self.transact(Transaction(then=(Range(key, prefix, after, limit),)))
        found = result.results[0]
        assert isinstance(found, RangeResult)
        return found, result.revision

    async def put(self, key: str, value: bytes, *, lease: LeaseId = LeaseId(0)) -> Revision:  # noqa: B008 a NewType: no call at all
        return (await self.transact(Transaction(then=(Put(key, value, lease),)))).revision

    async def delete(self, key: str, *, prefix: bool = False) -> tuple[int, Revision]:
        result = await self.transact(Transaction(then=(Delete(key, prefix),)))
        count = result.results[0]
        assert isinstance(count, int)
        return count, result.revision

    async def transact(self, transaction: Transaction) -> TransactionResult:
        writes = any(not isinstance(operation, Range) for operation in (*transaction.then, *transaction.otherwise))
        result: TransactionResult = await self._ask("store.transact", transaction, TransactionResult, writes=writes)
        return result

    async def watch(self, prefix: str, *, after: Revision | None = None, calm_ms: int = 0) -> AsyncIterator[Batch]:
        """Yield batches; the first, which may be empty, says where the watch begins. Ends only by Compacted or by being closed."""
        while True:
            stream: Stream | None = None
            try:
                stream = (await self._connected()).stream("store.watch", WatchRequest(prefix, after, calm_ms))
                async for batch in stream.items(Batch):
                    after = batch.revision
                    yield batch
            except (Unavailable, OutcomeUnknown):
                if self._closed:
                    raise
            finally:
                if stream is not None:
                    stream.close()
            await asyncio.sleep(STORE_RETRY_MS / 1000)

    async def lease_grant(self, ttl_ms: int) -> LeaseId:
        lease: LeaseId = await self._ask("store.grant", LeaseRequest(ttl_ms=ttl_ms), LeaseId, writes=True)
        return lease

    async def lease_renew(self, lease: LeaseId, *, timeout_ms: int = 0) -> int:
        ttl: int = await self._ask("store.renew", LeaseRequest(lease), int, timeout_ms=timeout_ms)
        return ttl

    def renew_now(self, lease: LeaseId, told: Callable[[int | UniosError], None], *, timeout_ms: int) -> bool:
        """Ask for what `lease_renew` asks for, without a task; `told` hears it. Return False, nothing asked, while there is no connection."""
        peer = self._peer
        if peer is None or peer.is_closed:
            return False
        peer.ask("store.renew", LeaseRequest(lease), int, told, timeout_ms=timeout_ms)
        return True

    async def lease_revoke(self, lease: LeaseId) -> None:
        await self._ask("store.end", LeaseRequest(lease), int, writes=True)

    async def compact(self, revision: Revision) -> None:
        await self._ask("store.compact", CompactRequest(revision), msgspec.Raw, writes=True)

    async def statistics(self) -> StoreStatistics:
        found: StoreStatistics = await self._ask("store.statistics", None, StoreStatistics)
        return found

    async def members(self) -> tuple[MemberView, ...]:
        """Return the members of the etcd behind it. CallerError where there is none."""
        found: tuple[MemberView, ...] = await self._ask("store.members", None, tuple[MemberView, ...])
        return found

    async def change_member(self, request: MemberRequest) -> tuple[MemberView, ...]:
        """Change who is a member; return who is then. As etcd refuses it, or OutcomeUnknown."""
        found: tuple[MemberView, ...] = await self._ask("store.member", request, tuple[MemberView, ...], writes=True)
        return found

    async def health(self) -> Health:
        """Return how the engine stands, each member of an etcd asked for itself."""
        found: Health = await self._ask("store.health", None, Health)
        return found

    async def reconnect(self) -> None:
        """Have a gateway connect to etcd anew, with the certificates that lie in its files now."""
        await self._ask("store.reconnect", None, int)

    async def defragment(self, member: int) -> None:
        """Have a member of the etcd give back what its file does not need."""
        await self._ask("store.defragment", DefragmentRequest(member), int, writes=True, timeout_ms=DEFRAGMENT_TIMEOUT_MS)

    async def disarm(self, member: int) -> None:
        """Take back a member's alarm of no space: writes are taken again until the next."""
        await self._ask("store.disarm", DefragmentRequest(member), int, writes=True)

    async def dump(self) -> AsyncIterator[Dumped]:
        """Yield all records as they are at one revision. Raises Unavailable, also in the midst of it."""
        stream = (await self._connected()).stream("store.dump")
        try:
            async for page in stream.items(Dumped):
                yield page
        finally:
            stream.close()

    async def restore(self, operations: Sequence[Put | Delete]) -> None:
        """Make these changes in one transaction, and begin a new generation. Leases go on. OutcomeUnknown: it may have been done."""
        part, size = list[Put | Delete](), 0
        peer = await self._connected()

        async def take(request: RestoreRequest, timeout_ms: int) -> None:
            """Parts belong together by their connection."""
            await peer.call("store.restore", request, int, timeout_ms=timeout_ms)

        for operation in operations:
            part.append(operation)
            size += len(operation.key) + (len(operation.value) if isinstance(operation, Put) else 0)
            if size > RESTORE_PART_BYTES or len(part) >= RESTORE_PART:
                try:
                    await take(RestoreRequest(tuple(part)), self._timeout_ms)
                except OutcomeUnknown as error:
                    raise Unavailable(f"nothing was restored: {error}") from error
                part, size = [], 0
        await take(RestoreRequest(tuple(part), True), RESTORE_TIMEOUT_MS)

    async def move(self, to: str, attempt: str = "", machines: tuple[str, ...] = ()) -> str:
        """Have another engine be the store, "" for none; return which it is. OutcomeUnknown: ask again, which waits for one that is under way."""
        engine: str = await self._ask("store.move", MoveRequest(to, attempt, machines), str, writes=True, timeout_ms=MOVE_TIMEOUT_MS)
        return engine

    async def give_up(self) -> None:
        """Have a gateway answer what it has been asked, and then end: nobody asks it any more. Returns before it has ended."""
        await self._ask("store.give_up", None, int)

    async def close(self) -> None:
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
        if self._peer is not None:
            self._peer.close("the client closed")


def at(folder: Path) -> Connect:
    """Return how to connect to the store of a folder of this machine."""

    async def connect() -> Peer:
        peer = Peer(SocketTransport(connect_unix(folder / "sock", timeout_s=0)), role="store client")
        await peer.start()
        return peer

    return connect
