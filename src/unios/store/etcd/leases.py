"""Leases in etcd: of our own length, renewed by records, judged by each gateway with its own clock.

etcd's own leases are in whole seconds, last at least two and are judged by its leader alone. Here each lease is a record l/LEASE; a renewal writes it
anew, and is answered when that is durable. The gateways that judge (judging.py) hear renewals through their feeds; the others hear none, and know only the
times to live of leases that were granted and renewed through them. A judge that has heard none for the time to live deletes the
record if it is still the one that it heard of last (compare-and-delete): a renewal that anybody had answered before makes it fail. From then on the
lease cannot be renewed nor put with, and its keys go in one revision: they hang on a lease of etcd's own with the same number and no end of its own,
which is revoked.

Time in which nothing was heard does not count: not the judge's pause, not an etcd that was away or took no writes. A judge that hears nothing for a while
writes a record of its own (lg/GATEWAY): what it hears then is that one.

e/LEASE says that etcd's own lease is to be revoked: it is written before that lease is made and before its keys are deleted. Whoever finds one that
stays does what its gateway did not come to.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from unios.core.leases import LOOK_MS, Leases
from unios.errors import CallerError, NotFound, Unavailable, UniosError
from unios.limits import LEASE_HOLD_MS, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, LEASES_MAX
from unios.store.etcd import messages
from unios.store.etcd.beside import ask
from unios.store.etcd.channel import Channel
from unios.store.etcd.feed import Beginning
from unios.store.etcd.keys import Keys, number
from unios.store.etcd.messages import Change

FOREVER_S: Final = 9_000_000_000
"""The longest that etcd grants."""
LEFT_MS: Final = 2_000
"""So long another gateway's e/ record stays before it counts as left."""
SIGN_S: Final = 0.5
"""So long a sign of life is waited for. What a follower had passed on to a leader that has died is never answered (channel.py): with a new leader there the
next one is, and until one is heard no lease's time runs. One that comes later is heard all the same."""
LEFT: Final = b"left"
"""What an e/ record says once somebody else finishes it."""
AGAIN_S: Final = 0.05
AGAIN_S_MAX: Final = 0.25
"""An etcd that gives no sign of life is asked for one ever more rarely, up to this."""
KNOWN_MAX: Final = 256
"""Of so many leases a gateway that does not judge knows the time to live without asking: one node renews one."""
RENEWAL_S: Final = LEASE_HOLD_MS / 1000
"""So long a renewal may take: what is answered later moves no deadline of its holder. Until then it is asked for again and again beside (beside.py): one that a
follower has dropped with its leader would hold up those that come after it, though there has long been a new leader. Done twice it is done once: the lease runs or
has ended, and a renewal that comes late makes no lease that has ended run again."""
RENEWALS_MAX: Final = 60
"""Renewals in one transaction: each is a compare, a put; and etcd takes 128 of each unless told otherwise."""


class EtcdLeases:
    """Those of one system, at one gateway."""

    def __init__(self, channel: Channel, keys: Keys, gateway: str, now_ms: Callable[[], int]) -> None:
        self._channel = channel
        self._keys = keys
        self._gateway = keys.signs + gateway.encode()
        self._now_ms = now_ms
        self._judged = Leases({}, now_ms())
        self._seen: dict[int, tuple[int, int]] = {}
        """Of each lease that runs: the revision of its last renewal that was heard of, and its time to live in ms."""
        self._endings: dict[int, int] = {}
        """Leases with an e/ record, and when it was first seen."""
        self._wanted: dict[int, asyncio.Future[int]] = {}
        """Renewals that wait for the next transaction."""
        self._renewing = False
        self._heard_ms = 0
        self._judges = True
        self._since = 0
        """Up to this revision, leases are as they were read."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        """Of these, what ends leases."""
        self._frozen = False

    async def count(self) -> int:
        """Return how many leases run."""
        if self._judges:
            return len(self._seen)
        return messages.read_range(
            await self._channel.call("KV/Range", messages.range_(self._keys.leases, self._keys.leases_end, count_only=True))
        ).total

    def cease(self) -> None:
        """Judge no more: renewals are not heard from now on. `begin` has it judge again."""
        self._judges = False
        self._judged, self._endings = Leases({}, self._now_ms()), {}

    def begin(self, beginning: Beginning) -> None:
        """Take what there is; every lease has its full time again."""
        now = self._now_ms()
        self._judges, self._since = True, beginning.number
        self._seen = {number(one.key): (one.modified, int(one.value)) for one in beginning.leases}
        self._judged = Leases({lease: ttl for lease, (_modified, ttl) in self._seen.items()}, now)
        self._endings = {number(one.key): now for one in beginning.endings}
        self._heard_ms = now

    def hear(self, change: Change) -> None:
        """Note a change of one of the records here."""
        key, now = change.now.key, self._now_ms()
        if not self._judges or change.now.modified <= self._since:
            return
        if key.startswith(self._keys.leases):
            lease = number(key)
            if change.deleted:
                self._seen.pop(lease, None)
                self._judged.revoked(lease)
            else:
                self._seen[lease] = (change.now.modified, int(change.now.value))
                self._judged.granted(lease, self._seen[lease][1], now)
        elif key.startswith(self._keys.endings):
            if change.deleted:
                self._endings.pop(number(key), None)
            else:
                self._endings.setdefault(number(key), now)

    def heard(self) -> None:
        """Something has been heard: judge. Never called while etcd is away, so that such time does not count."""
        now = self._now_ms()
        self._heard_ms = now
        if not self._judges or self._frozen:
            return
        for lease in self._judged.look(now):
            self._start(self._end_if_silent(lease), ends=True)
        for lease in [lease for lease, since in self._endings.items() if now - since > LEFT_MS]:
            self._endings[lease] = now
            self._start(self._finish_left(lease), ends=True)

    async def freeze(self) -> None:
        """Have no lease end by itself any more; renewals go on. Returns when what had begun to end has ended."""
        self._frozen = True
        while self._ending:
            await asyncio.wait(self._ending)

    def thaw(self) -> None:
        """Go on as before; the time in between counts against no lease."""
        self._frozen = False
        self._judged = Leases({lease: ttl for lease, (_modified, ttl) in self._seen.items()} if self._judges else {}, self._now_ms())

    async def run(self) -> None:
        """Ask etcd for a sign of life whenever there are leases and none came by itself, until cancelled."""
        again_s = AGAIN_S
        try:
            while True:
                await asyncio.sleep(self._judged.wait_ms(self._now_ms()) / 1000)
                due = (
                    self._judges
                    and bool(self._seen or self._endings)
                    and self._now_ms() - self._heard_ms >= min(LOOK_MS, self._judged.wait_ms(self._now_ms()))
                )
                if not due:
                    continue
                try:
                    await self._channel.call("KV/Put", messages.put(self._gateway, b""), timeout_s=SIGN_S)
                    again_s = AGAIN_S
                except UniosError:  # with leases that are overdue there is no other wait
                    await asyncio.sleep(again_s)
                    again_s = min(2 * again_s, AGAIN_S_MAX)
        finally:
            for task in tuple(self._tasks):
                task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], *, ends: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(_quiet(work))
        for tasks in (self._tasks, self._ending) if ends else (self._tasks,):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    # grant, renew, end

    async def grant(self, ttl_ms: int) -> int:
        """Make a lease; return its id. Raises CallerError, Unavailable, OutcomeUnknown."""
        if not LEASE_TTL_MS_MIN <= ttl_ms <= LEASE_TTL_MS_MAX:
            raise CallerError(f"a lease of {ttl_ms} ms: allowed are {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} ms")
        if await self.count() >= LEASES_MAX:
            raise Unavailable(f"the store has {LEASES_MAX} leases, its limit")
        lease = random.SystemRandom().getrandbits(62) | 1
        ending, key = self._keys.ending(lease), self._keys.lease(lease)
        await self._channel.call("KV/Put", messages.put(ending, b""))
        await self._channel.call("Lease/LeaseGrant", messages.grant(lease, FOREVER_S))
        done = await self._transact(
            [messages.compare(ending, "version", ">", 0), messages.compare(ending, "value", "==", b"")],
            [messages.as_delete(messages.delete(ending)), messages.as_put(messages.put(key, b"%d" % ttl_ms))],
        )
        if not done.succeeded:
            raise Unavailable("making a lease took too long")
        self._note(lease, done.revision, ttl_ms)
        return lease

    def _note(self, lease: int, revision: int, ttl_ms: int) -> None:
        """Note what this gateway wrote before it hears it."""
        if revision > self._seen.get(lease, (0, 0))[0]:
            self._seen[lease] = (revision, ttl_ms)
            if self._judges:
                self._judged.granted(lease, ttl_ms, self._now_ms())
            elif len(self._seen) > KNOWN_MAX:
                del self._seen[next(iter(self._seen))]

    async def renew(self, lease: int) -> int:
        """Renew a lease; return its time to live in ms, once that is durable. Raises NotFound, Unavailable, OutcomeUnknown."""
        future = self._wanted.get(lease)
        if future is None:
            future = self._wanted[lease] = asyncio.get_running_loop().create_future()
            if not self._renewing:
                self._renewing = True
                self._start(self._renew_all())
        return await asyncio.shield(future)

    async def _renew_all(self) -> None:
        """What is asked for while a transaction is under way goes into the next."""
        futures: dict[int, asyncio.Future[int]] = {}
        try:
            while self._wanted:
                now = list(self._wanted)[:RENEWALS_MAX]
                futures = {lease: self._wanted.pop(lease) for lease in now}
                try:
                    found = await self._write_renewals(now)
                except UniosError as error:
                    for future in futures.values():
                        future.set_exception(error)
                        future.exception()
                    continue
                for lease, future in futures.items():
                    if lease in found:
                        future.set_result(found[lease])
                    else:
                        future.set_exception(NotFound(f"lease {lease} has ended"))
                        future.exception()
        finally:
            self._renewing = False
            for future in (*futures.values(), *self._wanted.values()):
                if not future.done():
                    future.set_exception(Unavailable("this gateway ends"))
                    future.exception()
            self._wanted.clear()

    async def _write_renewals(self, leases: list[int]) -> dict[int, int]:
        """Write the records anew of those that run; return their times to live."""
        known = {lease: self._seen[lease][1] for lease in leases if lease in self._seen}
        for _attempt in range(3):
            unknown = [lease for lease in leases if lease not in known]
            if unknown:  # granted at another gateway a moment ago, or ended
                known |= await self._read(unknown)
            if not known:
                return {}
            renewals = messages.transaction(
                [messages.compare(self._keys.lease(lease), "version", ">", 0) for lease in known],
                [messages.as_put(messages.put(self._keys.lease(lease), b"%d" % ttl)) for lease, ttl in known.items()],
                [],
            )
            done = messages.read_transaction(await ask(self._channel, "KV/Txn", renewals, within_s=RENEWAL_S))
            if done.succeeded:
                for lease, ttl in known.items():
                    self._note(lease, done.revision, ttl)
                return known
            known = await self._read(leases)  # some have ended: the others are renewed
            if not self._judges:
                for lease in set(leases).difference(known):
                    self._seen.pop(lease, None)
        raise Unavailable("leases end faster than they can be renewed")

    async def _read(self, leases: list[int]) -> dict[int, int]:
        ranges = [messages.as_range(messages.range_(self._keys.lease(lease))) for lease in leases]
        done = messages.read_transaction(await ask(self._channel, "KV/Txn", messages.transaction([], ranges, []), writes=False, within_s=RENEWAL_S))
        found = [one.found[0] for one in done.results if isinstance(one, messages.Ranged) and one.found]
        return {number(one.key): int(one.value) for one in found}

    async def end(self, lease: int) -> int:
        """End a lease at once; return how many ended. Raises Unavailable, OutcomeUnknown: then it may be renewed."""
        done = await self._transact([messages.compare(self._keys.lease(lease), "version", ">", 0)], self._close(lease))
        if done.succeeded:
            await self._finish(lease)
        return int(done.succeeded)

    async def _end_if_silent(self, lease: int) -> None:
        """End a lease unless somebody has renewed it since its last renewal that was heard here."""
        seen = self._seen.get(lease)
        if seen is None:
            return
        try:
            done = await self._transact([messages.compare(self._keys.lease(lease), "modified", "==", seen[0])], self._close(lease))
        except UniosError:
            done = None
        if done is not None and done.succeeded:
            await self._finish(lease)
        elif lease in self._seen and lease not in self._judged:
            # renewed, or etcd is away: its time begins anew
            self._judged.granted(lease, seen[1], self._now_ms())

    def _close(self, lease: int) -> list[bytes]:
        return [
            messages.as_delete(messages.delete(self._keys.lease(lease))),
            messages.as_put(messages.put(self._keys.ending(lease), b"")),
        ]

    async def _finish_left(self, lease: int) -> None:
        """Finish what another gateway seems to have left, if it has: what is heard may be old, and a lease that was made meanwhile is not to be revoked. Once
        the record says so, making that lease fails."""
        ending = self._keys.ending(lease)
        if (await self._transact([messages.compare(ending, "version", ">", 0)], [messages.as_put(messages.put(ending, LEFT))])).succeeded:
            await self._finish(lease)

    async def _finish(self, lease: int) -> None:
        """Delete the keys of an ended lease, and then what says that this has to be done. Idempotent."""
        with contextlib.suppress(NotFound):
            await self._channel.call("Lease/LeaseRevoke", messages.revoke(lease))
        await self._channel.call("KV/DeleteRange", messages.delete(self._keys.ending(lease)))

    async def _transact(self, compares: list[bytes], then: list[bytes]) -> messages.Done:
        return messages.read_transaction(await self._channel.call("KV/Txn", messages.transaction(compares, then, [])))


async def _quiet(work: Coroutine[Any, Any, None]) -> None:
    """What fails is found again by whoever looks next."""
    with contextlib.suppress(UniosError):
        await work
