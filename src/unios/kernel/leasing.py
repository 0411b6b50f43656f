"""The node's own lease: renews it at the store and moves the deadline that every init of the node watches.

Decides with core/holding.py. The deadline counts from the moment a renewal was *sent*. After a lease was lost the node registers as its next
incarnation, and the deadline moves again only when its claims have been checked.
"""

import asyncio
import contextlib
import mmap
import os
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from unios.core import holding
from unios.core.journal import Journal
from unios.core.sequences import LEASE
from unios.errors import NotFound, Unavailable, UniosError
from unios.ids import LeaseId
from unios.kernel.clocks import boot_ms
from unios.limits import LEASE_HOLD_MS, LEASE_TICK_MS, LEASE_TTL_MS
from unios.store.client import StoreClient
from unios.wire.running import context_of
from unios.wire.ticks import at_each_tick

_WORDS: Final = struct.Struct("<QQ")
TICK_S: Final = LEASE_TICK_MS / 1000

Register = Callable[[], Awaitable[tuple[LeaseId, int]]]
"""Get a lease and register the node under it; return it and the incarnation that the node is now."""


class DeadlinePage:
    """The mapped file that the inits watch (kernel/lease_page.py reads it): the deadline in CLOCK_BOOTTIME ns, and the lease's number."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _WORDS.size:
                os.ftruncate(descriptor, _WORDS.size)
            self._words = memoryview(mmap.mmap(descriptor, _WORDS.size)).cast("Q")
        finally:
            os.close(descriptor)

    def move(self, until_ms: int, lease: int) -> None:
        """Set both words; a reader in between sees no deadline at all, never an old lease with a new one."""
        if self._words[1] != lease:
            self._words[0] = 0
            self._words[1] = lease
        self._words[0] = until_ms * 1_000_000

    def extend(self, until_ms: int, lease: int) -> None:
        """Move the deadline on if the page is of that lease: never back, and never one that has passed, whose claims only the kernel can check."""
        if self._words[1] == lease and boot_ms() * 1_000_000 < self._words[0] < until_ms * 1_000_000:
            self._words[0] = until_ms * 1_000_000

    @property
    def lease(self) -> int:
        """Its number: the node's incarnation."""
        return self._words[1]

    def left_ms(self) -> int:
        return self._words[0] // 1_000_000 - boot_ms()


class Leasing:
    """The lease of one node. `run` keeps it."""

    def __init__(
        self, store: StoreClient, page: DeadlinePage, register: Register, check_claims: Callable[[int], Awaitable[None]], journal: Journal | None
    ) -> None:
        self._store = store
        self._page = page
        self._register = register
        self._check_claims = check_claims
        self._journal = journal
        self._holder = holding.Holder()
        self._lease = LeaseId(0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._getting: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._moves = asyncio.Event()
        self._heard_ms = boot_ms()
        """When the last request was sent to which the store has said that this node's lease stands; before the first: when this kernel began."""

    @property
    def incarnation(self) -> int:
        return self._holder.incarnation

    @property
    def lease(self) -> LeaseId:
        """Of the store; records attached to it go when this node is lost."""
        return self._lease

    def left_ms(self) -> int:
        """Return what is left of the deadline; below 0 this node is cut off."""
        return self._page.left_ms()

    def stale_ms(self) -> int:
        """Return how old what this node knows of the store may be: since when it has not acknowledged the lease; 0 while it does so in time."""
        age_ms = boot_ms() - self._heard_ms
        return age_ms if age_ms > LEASE_HOLD_MS else 0

    async def wait_held(self) -> None:
        """Wait until the node is registered and its deadline has been moved once."""
        await self._moved.wait()

    async def wait_standing(self, timeout_ms: int) -> None:
        """Wait until the deadline is that of the lease that the node has, and has not passed, at most so long.

        Others see that a node has come back before it has checked its claims; until then the page may have the deadline of the lease before.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                while self._page.lease != self.incarnation or self.left_ms() <= 0:
                    self._moves.clear()
                    await self._moves.wait()

    async def give_back(self) -> None:
        """Neither renew nor register any more, and wait for a registration that is under way: what is written after this is the last word on the node."""
        self._tell(holding.GivenBack())
        if self._getting is not None:
            await asyncio.wait({self._getting})

    def take_up(self) -> None:
        """The node goes on after all."""
        self._tell(holding.TakenUp())

    async def run(self) -> None:
        """Keep the lease; ends only by cancellation."""
        try:
            await at_each_tick(TICK_S, lambda: self._tell(holding.Tick(boot_ms())))
        finally:
            for task in self._tasks:
                task.cancel()

    def _tell(self, event: holding.Event) -> None:
        orders = self._holder.on(event)
        if self._journal is not None:
            self._journal.write("holding", event, orders)
        for order in orders:
            self._carry_out(order)

    def _carry_out(self, order: holding.Order) -> None:
        match order:
            case holding.Renew():
                self._renew()
            case holding.Register():
                self._getting = self._start(self._get())
            case holding.MoveDeadline(until_ms, incarnation):
                self._page.move(until_ms, incarnation)
                self._moved.set()
                self._moves.set()
            case holding.CheckClaims(incarnation):
                self._start(self._check(incarnation))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, context=context_of(LEASE))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _renew(self) -> None:
        """Four times a second, whatever else happens: no task for it while the store is connected."""
        sent_ms = boot_ms()
        if not self._store.renew_now(self._lease, lambda answer: self._renewed(sent_ms, answer), timeout_ms=LEASE_HOLD_MS):
            self._start(self._connect_and_renew(sent_ms))

    def _renewed(self, sent_ms: int, answer: object) -> None:
        match answer:
            case NotFound():
                self._tell(holding.Ended())
            case UniosError():
                self._tell(holding.Failed())
            case _:
                self._heard_ms = max(self._heard_ms, sent_ms)
                self._tell(holding.Renewed(sent_ms, boot_ms()))

    async def _connect_and_renew(self, sent_ms: int) -> None:
        answer: object
        try:
            async with asyncio.timeout(LEASE_HOLD_MS / 1000):
                answer = await self._store.lease_renew(self._lease)
        except (UniosError, TimeoutError) as error:
            answer = error if isinstance(error, UniosError) else Unavailable("the store did not answer")
        self._renewed(sent_ms, answer)

    async def _get(self) -> None:
        try:
            async with asyncio.timeout(4 * LEASE_TTL_MS / 1000):
                sent_ms = boot_ms()
                self._lease, incarnation = await self._register()
            self._heard_ms = max(self._heard_ms, sent_ms)
            self._tell(holding.Registered(incarnation, sent_ms))
        except (UniosError, TimeoutError):
            self._tell(holding.Failed())

    async def _check(self, incarnation: int) -> None:
        while True:
            try:
                await self._check_claims(incarnation)
                break
            except UniosError:
                await asyncio.sleep(0.05)
        self._tell(holding.ClaimsChecked(incarnation, boot_ms()))
