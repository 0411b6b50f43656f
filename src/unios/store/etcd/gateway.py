"""What a store's process does where etcd is the engine: asks etcd, and hands on what it hears. It has no state that has to outlive it.

Transactions are asked side by side, many at a time as one (store/etcd/group_commit.py); etcd puts those that arrive together into one sync. What is written
through other gateways is heard like what is written through this one.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from unios.core.quorum import PREFIX
from unios.errors import CallerError, Compacted, OutcomeUnknown, Unavailable, UniosError
from unios.ids import Generation
from unios.limits import WATCH_QUEUE_BYTES_MAX
from unios.store import bounds
from unios.store.etcd import leaving, members, messages, translation, whole
from unios.store.etcd.channel import Channel
from unios.store.etcd.feed import Beginning, Feed
from unios.store.etcd.group_commit import GroupCommit
from unios.store.etcd.health import Doctor
from unios.store.etcd.judging import Judging
from unios.store.etcd.keys import Keys
from unios.store.etcd.leases import EtcdLeases
from unios.store.etcd.members import Following, Moved
from unios.store.etcd.messages import Change
from unios.store.etcd.recent import Recent
from unios.store.everything import Everything
from unios.store.model import Batch, Delete, Event, Put, Range, RangeResult, Record, Revision, StoreStatistics, Transaction, TransactionResult
from unios.store.requests import Dumped, Health, MemberRequest, MemberView
from unios.store.sqlite import RANGE_BYTES_MAX, Compact, End, Grant, Job, Result, record_bytes
from unios.store.tally import Tally
from unios.store.watchers import Push, Watcher, Watchers

READY_S: Final = 3.0
"""So long a request waits for a gateway that has just started."""
LOOK_S: Final = 0.02
SETTLE_AGAIN_S: Final = 0.5
IN_FLIGHT_MAX: Final = 256
CATCH_UP_S: Final = 4.0
PAGE_RECORDS: Final = 200
OLDER: Final = "etcd has an older state than it had: the store begins a new generation"


class Older(Unavailable):
    """To a read; a write may have been done in that older state."""


Settles = Callable[["Gateway"], Awaitable[None]]
"""What is made sure of when a gateway begins, before anything is answered; a UniosError: again."""


class Gateway:
    """The host of one system's store. See store/model.py for what it promises."""

    def __init__(
        self,
        channel: Channel,
        root: bytes,
        now_ms: Callable[[], int],
        moved: Moved | None = None,
        quota_bytes: int = 0,
        settles: Settles | None = None,
    ) -> None:
        """`moved`: for a cluster of our own, whose members come and go. `quota_bytes`: how much each may have, if that is known."""
        self._channel = channel
        self._doctor = Doctor(channel)
        self._quota_bytes = quota_bytes
        self._following = Following(channel, moved) if moved is not None else None
        self._keys = Keys(root)
        self._name = os.urandom(6).hex()
        self._leases = EtcdLeases(channel, self._keys, self._name, now_ms)
        self._feed = Feed(channel, self._keys, self._begin, self._hear, self._break, self._leases.begin)
        self._judging = Judging(channel, self._keys, self._name, now_ms, lambda: self._feed.trouble is None, self._judges)
        self._ready = asyncio.Event()
        self._generation = Generation("")
        self.tally = Tally()
        self._watchers = Watchers(self._generation, self.tally)
        self._recent = Recent(0)
        self._arrived = asyncio.Event()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._compacted = 0
        self._transactions = 0
        self._written = 0
        self._left = False
        self._settles = settles
        self._groups = GroupCommit(self._together)

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._settles is not None:
            await self._settle(self._settles)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed.run())
            group.create_task(self._leases.run())
            group.create_task(self._judging.run())
            if self._following is not None:
                group.create_task(self._following.run())

    async def _settle(self, settles: Settles) -> None:
        while True:
            try:
                return await settles(self)
            except UniosError as error:
                self._feed.trouble = error  # who asks meanwhile is told why
            await asyncio.sleep(SETTLE_AGAIN_S)

    # what is heard

    def _begin(self, beginning: Beginning) -> None:
        self._generation, self._keys.base = beginning.generation, beginning.base
        self._watchers.cut_off_all()  # those that were let in since the break
        self._watchers = Watchers(self._generation, self.tally)
        self._recent = Recent(beginning.number + beginning.base)
        self._leases.begin(beginning)
        self._judging.begin(beginning.seats)
        self._ready.set()
        if self._following is not None:
            self._following.changed()

    def _break(self) -> None:
        """Part of history was not heard: who watches has to read."""
        self._ready.clear()
        self._watchers.cut_off_all()

    def _hear(self, number: int, changes: list[Change]) -> None:
        data = [change for change in changes if change.now.key.startswith(self._keys.data)]
        events = [translation.event(self._keys, change) for change in data]
        for change in changes:
            if change.now.key == self._keys.generation:
                raise Compacted("the store has begun a new generation: read everything again")
            self._channel.tally.told(f"heard {self._keys.section(change.now.key)}", 1, len(change.now.key) + len(change.now.value), 1)
            self._leases.hear(change)
            self._judging.hear(change)
        self._recent.note(number + self._keys.base, events)
        if events:
            self._watchers.tell(tuple(events))
            if self._following is not None and any(event.record.key.startswith(PREFIX) for event in events):
                self._following.changed()
        self._leases.heard()
        self._arrived.set()
        self._arrived = asyncio.Event()

    def _judges(self, judges: bool) -> None:
        if not judges:
            self._leases.cease()
        self._feed.turn(whole=judges)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(READY_S):
                await self._ready.wait()
        except TimeoutError:
            raise self._feed.trouble or Unavailable("etcd has not answered yet") from None

    # requests

    async def do(self, job: Job) -> Result:
        """Do one job; return its result once it is durable, or raise why it was refused."""
        match job:
            case Transaction():
                return await self._transact(job)
            case Grant(ttl_ms):
                await self._wait()
                return await self._leases.grant(ttl_ms)
            case End((lease,)):
                return await self.end(lease)
            case Compact(revision):
                return await self._compact(revision)
        raise CallerError("a gateway to etcd does no such job")

    async def _transact(self, transaction: Transaction) -> TransactionResult:
        bounds.check(transaction)
        await self._wait()
        generation = self._generation
        try:
            return await self._asked(transaction)
        except Older:  # nothing was written: what is there now is as good an answer, once the feed has found it too
            await self._another(generation)
            return await self._asked(transaction)

    async def _another(self, generation: Generation) -> None:
        """Wait until the store has begun another generation than that. Older if that takes too long."""
        until = asyncio.get_running_loop().time() + READY_S
        while self._generation == generation:
            if asyncio.get_running_loop().time() > until:
                raise Older(OLDER)
            await asyncio.sleep(LOOK_S)
        await self._wait()

    async def _asked(self, transaction: Transaction) -> TransactionResult:
        async with self._slots:
            if len(transaction.then) == 1 and not transaction.compares and isinstance(transaction.then[0], Range):
                return await self._range(transaction.then[0])
            return await self._groups.do(transaction)

    async def _together(self, transactions: tuple[Transaction, ...]) -> list[TransactionResult | UniosError]:
        """Have etcd do these in one request; each may have been refused by itself. Raises what became of all."""
        writes = sum(map(translation.writes, transactions))
        generation, heard = self._generation, self._recent.heard
        answer = await self._channel.call("KV/Txn", translation.request_of_all(self._keys, transactions), writes=bool(writes))
        try:
            done = messages.read_transaction(answer)
            results = translation.results_of_all(self._keys, generation, transactions, done)
        except ValueError as error:
            raise (OutcomeUnknown if writes else Unavailable)(f"etcd's answer cannot be read: {error}") from error
        if done.revision + self._keys.base < heard:  # what has been heard meanwhile may be newer than the answer
            raise (OutcomeUnknown if writes else Older)(OLDER)
        self._transactions += len(transactions)
        self._written += writes
        return results

    async def _range(self, wanted: Range) -> TransactionResult:
        """Read page by page in one revision, no more than a message takes."""
        found: list[Record] = []
        size, revision, limit = 0, 0, translation.bound(wanted)
        generation, heard = self._generation, self._recent.heard
        more, after = True, wanted.after
        while more and len(found) < limit and size <= RANGE_BYTES_MAX:
            fitting = PAGE_RECORDS if not found else max(1, (RANGE_BYTES_MAX - size) * len(found) // size + 1)
            asked = translation.range_request(
                self._keys, Range(wanted.key, wanted.prefix, after), limit=min(limit - len(found), fitting), revision=revision
            )
            page = messages.read_range(await self._channel.call("KV/Range", asked))
            records = [translation.record(self._keys, one) for one in page.found]
            found += records
            size += sum(map(record_bytes, records))
            revision = revision or page.revision
            if revision + self._keys.base < heard:
                raise Older(OLDER)
            more = page.more and wanted.prefix
            after = found[-1].key if found else ""
        self._transactions += 1
        result: RangeResult = translation.cut(found, more)
        return TransactionResult(True, Revision(generation, revision + self._keys.base), (result,))

    async def members(self) -> tuple[MemberView, ...]:
        return await members.listed(self._channel)

    async def change_member(self, request: MemberRequest) -> tuple[MemberView, ...]:
        if self._following is None:
            raise CallerError("the etcd that keeps the records is not run by unios: its members are changed where it is run")
        found = await members.change(self._channel, request)
        self._following.changed()
        return found

    async def health(self) -> Health:
        """Ask each member for itself. Raises Unavailable if none can say who they are."""
        return Health(await self._doctor.look(await self.members()), self._quota_bytes)

    def reconnect(self) -> None:
        """Ask etcd over new connections, with the certificates that lie in the files now. Raises Unavailable."""
        self._channel.reconnect()
        self._doctor.reconnect()

    async def defragment(self, member: int) -> int:
        await self._doctor.defragment(await self.members(), member)
        return 0

    async def disarm(self, member: int) -> int:
        await self._doctor.disarm(member)
        return 0

    async def dump(self) -> AsyncIterator[Dumped]:
        """Yield all records as they are at one revision."""
        await self._wait()
        async for page in whole.dump(self._channel, self._keys, self._generation):
            yield page

    async def restore(self, operations: tuple[Put | Delete, ...]) -> int:
        """Make these changes and begin a new generation, at every gateway, and at this one before it returns; leases go on. Raises Unavailable, OutcomeUnknown."""
        await self._wait()
        generation = self._generation
        await whole.restore(self._channel, self._keys, operations)
        with contextlib.suppress(Older):  # it is done, and each gateway hears of it by and by
            await self._another(generation)
        return 0

    async def adopt(self, moved: Everything) -> None:
        """Begin as a store that was another engine's until now, in place of whatever there is: what it had, with the same leases, in a new generation.
        Nobody may ask meanwhile. Raises Unavailable, OutcomeUnknown: then it may be a part, and is to be done again or thrown away."""
        await self._wait()
        generation = self._generation
        await whole.adopt(self._channel, self._keys, moved)
        await self._another(generation)

    # another engine takes its place

    async def freeze(self) -> None:
        """Have no lease end by itself any more; renewals go on. What is asked afterwards is the caller's to keep away."""
        await self._leases.freeze()

    def thaw(self) -> None:
        """Go on as before."""
        self._leases.thaw()

    async def everything(self) -> Everything:
        """Return all that the system has now. Raises Unavailable, Compacted."""
        await self._wait()
        return await whole.everything(self._channel, self._keys)

    async def about_to_leave(self, attempt: str) -> None:
        """Have etcd say that the records go elsewhere by that attempt: no other gateway begins any more. Raises Unavailable: they stay; OutcomeUnknown."""
        await self._wait()
        await leaving.leave(self._channel, self._keys, attempt)

    async def stay(self, machine: str) -> None:
        """Take that back, for an attempt of that machine. Idempotent. Raises Unavailable, OutcomeUnknown."""
        await leaving.stay(self._channel, self._keys, machine)

    async def left(self) -> str:
        """Return the attempt by which the records have gone elsewhere, or are about to; empty: none. Raises Unavailable."""
        return await leaving.left(self._channel, self._keys)

    async def come_back(self) -> str:
        """End an attempt of another machine; return "", or the attempt if the records have gone by it, or may have. Raises Unavailable, OutcomeUnknown."""
        return await leaving.come_back(self._channel, self._keys)

    async def forget(self, leases: Iterable[int]) -> None:
        """Take the system's records away, once they are elsewhere. Raises Unavailable, OutcomeUnknown."""
        await whole.forget(self._channel, self._keys, leases)

    def leave(self) -> None:
        """The records are elsewhere from now on: whoever watches is cut off, or refused."""
        self._left = True
        self._watchers.cut_off_all()

    async def begun(self, wait_s: float) -> None:
        """Wait until etcd has answered. Raises why it does not."""
        until = asyncio.get_running_loop().time() + wait_s
        while True:
            try:
                return await self._wait()
            except Unavailable:
                if asyncio.get_running_loop().time() > until:
                    raise

    async def renew(self, lease: int) -> int:
        await self._wait()
        return await self._leases.renew(lease)

    async def end(self, lease: int) -> int:
        await self._wait()
        return await self._leases.end(lease)

    async def _compact(self, revision: Revision) -> int:
        await self._wait()
        if revision.generation != self._generation or revision.number > await self._present():
            raise Compacted("that revision is not of this store")
        try:
            await self._channel.call("KV/Compact", messages.compact(max(1, revision.number - self._keys.base)))
        except Compacted:
            return 0  # it is forgotten already
        self._compacted = max(self._compacted, revision.number)
        return 0

    async def statistics(self) -> StoreStatistics:
        """Return figures. `syncs`: writes that were acknowledged; etcd makes no more syncs for them on any member."""
        await self._wait()
        counted = messages.range_(self._keys.data, self._keys.data_end, count_only=True)
        found = messages.read_range(await self._channel.call("KV/Range", counted))
        size = messages.read_database_bytes(await self._channel.call("Maintenance/Status", b""))
        revision = Revision(self._generation, found.revision + self._keys.base)
        return StoreStatistics(
            revision,
            self._compacted,
            found.total,
            await self._leases.count(),
            len(self._watchers),
            size,
            self._transactions,
            self._written,
            *self.tally.shown(),
            self._channel.traffic(),
        )

    # watches

    async def watch(self, prefix: str, after: Revision | None, *, calm_ms: int = 0, push: Push | None = None) -> Watcher:
        """Return a watcher that is told every event of `prefix` after that revision; Compacted if they are gone."""
        await self._wait()
        watcher = Watcher(prefix, calm_ms, push or (lambda _raw: False))
        if after is None:
            present = await self._present()
            self._add(watcher, max(present, self._recent.heard), [])
            return watcher
        if after.generation != self._generation:
            raise Compacted("the store has begun a new generation: read everything again")
        number = max(after.number, 1 + self._keys.base)
        try:  # etcd itself says whether that revision is known and not compacted
            await self._channel.call("KV/Range", messages.range_(self._keys.generation, revision=number - self._keys.base, count_only=True))
        except Compacted:
            await self._feed.seen(number - self._keys.base)
            raise
        events = self._recent.after(prefix, number) if after.generation == self._generation else []
        if events is None:
            events, number = await self._catch_up(prefix, number)
            newer = self._recent.after(prefix, number)
            if newer is None:
                raise Compacted("too much was written meanwhile: read everything again")
            events += newer
        if after.generation != self._generation:  # it has begun while etcd was asked: what went before it is in no history
            raise Compacted("the store has begun a new generation: read everything again")
        self._add(watcher, max(number, self._recent.heard), events)
        return watcher

    def _add(self, watcher: Watcher, number: int, events: list[Event]) -> None:
        if self._left:
            raise Compacted("the store has gone to another engine: read everything again")
        self._watchers.add(watcher, Batch(Revision(self._generation, number), tuple(events)))

    async def _catch_up(self, prefix: str, number: int) -> tuple[list[Event], int]:
        """Return the events of a prefix after a revision, and up to which: one that this gateway writes now, so that etcd says when that is all."""
        mark = messages.put(self._keys.gateways + self._name.encode(), b"")
        base = self._keys.base
        until = messages.read_revision(await self._channel.call("KV/Put", mark, writes=False)) + base
        events: list[Event] = []
        size = 0
        try:
            async with asyncio.timeout(CATCH_UP_S):
                async for told in self._channel.watch(self._keys.root, number - base, self._keys.leases):
                    for change in told.changes:
                        if number < change.now.modified + base <= until and change.now.key.startswith(self._keys.record(prefix)):
                            events.append(translation.event(self._keys, change))
                            size += record_bytes(events[-1].record)
                    if size > WATCH_QUEUE_BYTES_MAX:
                        raise Compacted(f"more than {WATCH_QUEUE_BYTES_MAX} bytes were written after revision {number}: read everything again")
                    if told.changes and not told.fragment and told.changes[-1].now.modified + base >= until:
                        break
                while self._recent.heard < until:
                    await self._arrived.wait()
        except TimeoutError:
            raise Unavailable(f"what happened after revision {number} could not be read in time") from None
        except LookupError:
            raise Compacted(f"part of what happened after revision {number} is compacted: read everything again") from None
        return events, until

    async def _present(self) -> int:
        """Return the revision number, no older than when it is asked."""
        return await self._feed.present() + self._keys.base

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.remove(watcher)

    async def close(self) -> None:
        await self._groups.close()
        await self._doctor.close()
        await self._channel.close()
