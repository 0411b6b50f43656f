"""Changing the keys of the system's own etcd: who had the former reaches its members no more. Everything goes on meanwhile.

The steps are those of `cluster.following_step`; each is taken by every kernel whose machine has a gateway before the next begins, members of etcd one after
the other. Which authorities count etcd reads at its start only, so each member is started anew for the first step and for the last; with the last, connections
that were let in by the former keys end. Keys go from kernel to kernel alone, and only between those that speak for all for whom the other does, as at a join.

A machine that was away asks the others for them (`catch_up`) when it finds the store away. A change that was broken off is finished by the next, before that begins.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from unios.core.nodes import covers
from unios.core.quorum import PREFIX
from unios.errors import CallerError, Denied, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.ids import LeaseId
from unios.kernel import cluster, quorum_member, runfiles
from unios.kernel.callers import Caller
from unios.kernel.clocks import boot_ms
from unios.kernel.cluster import STEPS, Cluster, following_step
from unios.kernel.system import ETCD
from unios.store.client import StoreClient
from unios.store.model import Compare, Put, Transaction
from unios.undecodable import UNDECODABLE
from unios.wire.keeping import AskEngine, Keys, Rekeyed, StoreEngine
from unios.wire.operations import Empty
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

T = TypeVar("T")
UNDER_WAY: Final = "/rekeying"
"""There while the keys are changed: by whom."""
MARK_MS: Final = 10_000
"""So long the mark of a kernel that was killed stands in the way of the next change."""
ASK_TIMEOUT_MS: Final = 5_000
SOON_MS: Final = 2_000
"""To be told by each of the others, all at once: whoever searches has little time (quorum_search.ASK_S), and one that is silent must not take it all."""
TAKE_TIMEOUT_MS: Final = 40_000
"""To be told that a kernel has taken a step: a member of etcd has to come back for it, from a disk that may be slow."""
MEMBER_S: Final = 30.0
LOOK_S: Final = 0.1
AGAIN_S: Final = 0.2
STEP_MS: Final = 60_000


class Rekeying:
    """That of one kernel."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._taking = asyncio.Lock()

    async def rekey(self, caller: Caller, _call: Call) -> object:
        """Serve store.rekey. Raises Denied, CallerError, Unavailable: asked again it goes on."""
        if not caller.privileged:
            raise Denied("only the system's owner may have the keys of its etcd changed")
        return await self.change()

    async def change(self) -> Rekeyed:
        """Change the keys; return who has them. Raises CallerError where the system runs no etcd itself; Unavailable: not done, or not everywhere."""
        node = self._node
        mine = self._kept()
        if mine is None:
            what = "has its records in a file" if node.system.engine != ETCD else "has its etcd from elsewhere, or not on this machine"
            raise CallerError(f"the system {what}: there are no keys of an etcd of its own to be changed here")
        async with self._marked() as lease:
            return await self._change(mine, lease)

    @contextlib.asynccontextmanager
    async def _marked(self) -> AsyncIterator[LeaseId]:
        """Have the mark; Unavailable if somebody else has. Its lease is one of its own: a node's is taken up again by the kernel that comes after one that was
        killed, and the mark would stay."""
        store = self._node.store
        lease = await _sure(store.lease_grant(MARK_MS))
        keeping = asyncio.create_task(self._keep(lease))
        try:
            mark = Put(UNDER_WAY, self._node.name.encode(), lease)
            if not (await _sure(store.transact(Transaction((Compare(UNDER_WAY, "version", "==", 0),), (mark,))))).succeeded:
                raise Unavailable("the keys of the system's etcd are being changed: wait for it")
            yield lease
        finally:
            keeping.cancel()
            with contextlib.suppress(UniosError):  # else it ends by itself
                await store.lease_revoke(lease)

    async def _keep(self, lease: LeaseId) -> None:
        while True:
            await asyncio.sleep(MARK_MS / 4000)
            with contextlib.suppress(UniosError):  # `_check_mark` finds what comes of it
                await self._node.store.lease_renew(lease)

    async def _check_mark(self, lease: LeaseId) -> None:
        """Raise Unavailable if the mark is not known to be this change's: another one would be told apart by nobody, as its steps have the same numbers."""
        until_ms = boot_ms() + MARK_MS
        while True:
            try:
                held = (await self._node.store.transact(Transaction((Compare(UNDER_WAY, "lease", "==", lease),)))).succeeded
                break
            except UniosError:  # a member has just been started anew
                if boot_ms() > until_ms:
                    raise
            await asyncio.sleep(AGAIN_S)
        if not held:
            raise Unavailable("the store was away for too long while the keys of its etcd were changed: both count; `unios store rekey` goes on")

    async def _change(self, mine: Cluster, lease: LeaseId) -> Rekeyed:
        node = self._node
        found = {name: await self._keys_of(name) for name in self._others()}
        holders = [name for name, keys in found.items() if keys is not None and keys.managed]
        now = newest([mine, *(keys for name, keys in found.items() if name in holders and keys is not None)])
        fresh = await asyncio.to_thread(cluster.begun, node.system.id, now.rotation + STEPS)
        keepers = await self._keepers()
        await self._step(now, holders, keepers)  # of a change that was broken off some may not have taken the last step
        for _step in range(-now.rotation % STEPS + STEPS):
            await self._check_mark(lease)
            now = following_step(now, fresh)
            holders += await self._come({node.name, *found, *holders})
            await self._step(now, holders, keepers)
        with contextlib.suppress(UniosError):
            await node.events.write("store", f"the keys of the system's etcd were changed, by {node.name}: the former let nobody in any more")
        return Rekeyed(tuple(sorted([node.name, *holders])))

    def _others(self) -> list[str]:
        return [name for name in self._node.membership.names("ready", "suspect") if name != self._node.name]

    async def _come(self, known: Collection[str]) -> list[str]:
        """Return who has joined, or come back, since the change began, and has keys. One that does not say so now asks for them itself, later."""
        come = await self._told(name for name in self._others() if name not in known)
        return [name for name, keys in come.items() if keys.managed]

    async def _keepers(self) -> frozenset[str]:
        """Return who has a member, as the store says it: the mirror of a kernel that can have none itself is empty."""
        found, _revision = await self._node.store.range(PREFIX, prefix=True)
        return frozenset(record.key.removeprefix(PREFIX) for record in found.records)

    async def _step(self, now: Cluster, holders: Iterable[str], keepers: Collection[str]) -> None:
        try:
            await self.take_in(now)  # on this disk before anybody shows anything of it
        except OSError as error:
            raise Unavailable(f"{self._node.name} cannot keep the new keys of etcd ({error}): see to it, then `unios store rekey`") from error
        for name in holders:
            if name in keepers:
                await self._tell(name, now)
        await asyncio.gather(*(self._tell(name, now) for name in holders if name not in keepers))

    async def _tell(self, name: str, now: Cluster) -> None:
        """Have a node take a step; one that is lost meanwhile asks for it itself."""
        node, until_ms = self._node, boot_ms() + STEP_MS
        while True:
            try:
                await node.links.call(name, "store.keys", Keys(msgspec.json.encode(now)), Empty, user=node.user, timeout_ms=TAKE_TIMEOUT_MS)
                return
            except UniosError as error:
                if node.membership.view(name)[0] not in ("ready", "suspect"):
                    return
                if isinstance(error, (CallerError, Denied, NotFound)) or boot_ms() > until_ms:
                    raise Unavailable(f"{name} has not taken the new keys of etcd ({error}): see to it, then `unios store rekey`") from error
            await asyncio.sleep(AGAIN_S)

    async def _keys_of(self, name: str, *, timeout_ms: int = ASK_TIMEOUT_MS) -> Cluster | None:
        """Return what a node's machine knows, None if it has no gateway, or may not have one. Raises Unavailable."""
        node = self._node
        try:
            found = await node.links.call(name, "store.engine", AskEngine(), StoreEngine, user=node.user, timeout_ms=timeout_ms)
        except UniosError as error:
            raise Unavailable(f"{name} does not say which keys of etcd it has ({error}): nothing was changed; try again") from error
        if not found.cluster or not node.store_way.keeps(name):
            return None
        with contextlib.suppress(*UNDECODABLE):
            return msgspec.json.decode(found.cluster, type=Cluster)
        return None

    def notes(self) -> Iterator[str]:
        """Return that a change is under way: it may have been broken off."""
        with contextlib.suppress(Unavailable):
            kept = self._kept()
            if kept is not None and not kept.is_settled:
                yield "the keys of the system's etcd are being changed, the former count still: if that was broken off `unios store rekey` goes on with it"

    def has_keys(self) -> bool:
        """Whether this machine has keys of an etcd of the system's own. Raises Unavailable."""
        return self._kept() is not None

    def _kept(self) -> Cluster | None:
        node = self._node
        kept = cluster.read(node.home) if node.system.engine == ETCD and node.system.gateway else None
        return kept if kept is not None and kept.managed else None

    # taking them

    async def keys(self, caller: Caller, call: Call) -> object:
        """Serve store.keys. Raises Denied, CallerError, Unavailable: not yet taken."""
        node = self._node
        if not caller.users or not covers(caller.users, node.identity.users):
            raise Denied("keys of etcd are taken from kernels that speak for all for whom this one does")
        try:
            told = msgspec.json.decode(call.decode(Keys).cluster, type=Cluster)
        except UNDECODABLE as error:
            raise CallerError(f"these are no keys of an etcd: {error}") from error
        if not told.managed or self._kept() is None:
            raise CallerError(f"{node.name} has no gateway to an etcd of the system's own")
        await self.take_in(told)
        return Empty()

    async def take_in(self, told: Cluster, *, wait: bool = True) -> None:
        """Keep these keys if they are newer, and use what is kept: the gateway of this machine, and the member of this node. Idempotent. `wait`: until the member
        answers. Raises Unavailable, OSError."""
        node = self._node
        async with self._taking:
            kept = await asyncio.to_thread(cluster.change, node.home, lambda kept: newer(kept, told))
            if kept is None:
                raise Unavailable(f"{node.name} has no gateway to etcd any more")
            await asyncio.to_thread(cluster.address_of, node.home, kept)
            await self._gateway_anew()
            await self._member_anew(kept, wait=wait)

    async def _gateway_anew(self) -> None:
        client = StoreClient(self._node.store_way.peer)
        try:
            await client.reconnect()
        finally:
            await client.close()

    async def _member_anew(self, kept: Cluster, *, wait: bool) -> None:
        node = self._node
        mine = quorum_member.read(node.folder)
        if mine is None or quorum_member.shows(node.folder, kept):
            return
        if kept.shows_anew and quorum_member.trusts(node.folder, kept):
            # it trusts both already, unless it was away for the step before, and looks at what it shows each time that it shows it
            await asyncio.to_thread(quorum_member.show, node.folder, mine, kept)
            return
        quorum_member.start_anew(node.folder)
        try:
            async with asyncio.timeout(MEMBER_S):
                while wait and not (quorum_member.shows(node.folder, kept) and await self._answers(mine.peer)):
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise Unavailable(f"the store's member of {node.name} does not come back: see {node.folder.log}/member.log") from None

    async def _answers(self, peer: str) -> bool:
        try:
            return any(one.peer == peer and one.answers for one in (await self._node.store.health()).members)
        except UniosError:
            return False

    async def catch_up(self) -> None:
        """Ask the others for what lets this machine's gateway in, if the keys were changed while it was away, or what it had is damaged. Raises UniosError,
        OSError."""
        node = self._node
        if node.system.engine != ETCD or not node.system.gateway:
            return
        try:
            mine = cluster.read(node.home)
        except Unavailable as error:
            await self._mend(str(error))
            return
        if mine is not None and mine.managed:
            found = [mine, *(one for one in await self._of_others() if one.managed)]
            if newest(found).rotation > mine.rotation:
                runfiles.complain("the keys of the system's etcd were changed while this machine was away: it has the new ones now")
                await self.take_in(newest(found), wait=False)

    async def _mend(self, why: str) -> None:
        """Have another machine's copy of what is damaged here: it is the same on all."""
        node, found = self._node, await self._of_others()
        if found:
            await asyncio.to_thread(cluster.write, node.home, newest(found))
            runfiles.complain(f"{why}; it has been copied from another machine")

    async def _of_others(self) -> list[Cluster]:
        return list((await self._told(self._node.links.names())).values())

    async def _told(self, names: Iterable[str]) -> dict[str, Cluster]:
        """Ask all at once; return what those have who say it soon, and have something."""

        async def ask(name: str) -> tuple[str, Cluster | None]:
            with contextlib.suppress(Unavailable):
                return name, await self._keys_of(name, timeout_ms=SOON_MS)
            return name, None

        return {name: keys for name, keys in await asyncio.gather(*map(ask, names)) if keys is not None}


async def _sure(asking: Awaitable[T]) -> T:
    """Return what was asked for of the mark; what may not have been done is known to hang nothing on it. Raises Unavailable."""
    try:
        return await asking
    except OutcomeUnknown as error:  # a member is started anew by another change, say
        raise Unavailable(f"nothing was changed, the store was lost for a moment ({error}): try again") from error


def newest(found: Iterable[Cluster]) -> Cluster:
    """Return the one of which most steps have been taken."""
    return max(found, key=lambda one: one.rotation)


def newer(kept: Cluster, told: Cluster) -> Cluster:
    """Return what is kept with the keys that are told, if these are newer."""
    if told.rotation <= kept.rotation:
        return kept
    return msgspec.structs.replace(kept, ca=told.ca, ca_key=told.ca_key, also=told.also, also_key=told.also_key, rotation=told.rotation)
