"""Group commit: transactions that are asked while etcd is busy with others go to it as one, if no one of them touches what another writes.

A request costs a gateway and etcd more than what is in it. CALLS_FREE are under way at any time, as they come; of what comes meanwhile those that have
nothing to do with each other wait for the first that returns, GROUP_WAIT_S at most, and are then one request. What touches the same keys goes by itself,
as if there were no groups. Transactions of a group are done in one revision of etcd's: that is why the order between them must be nobody's business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from unios.errors import OutcomeUnknown, Unavailable, UniosError
from unios.store.model import Put, Range, Transaction, TransactionResult

CALLS_FREE: Final = 4
GROUP_MAX: Final = 64
GROUP_WAIT_S: Final = 0.02
"""A disk that takes longer than that, or a member that does not answer, is no reason to hold back what it could be asked."""
GROUP_BYTES_MAX: Final = 512 * 1024
"""Of the keys and values of a group; a foreign etcd takes 1.5 MiB in one request unless it is told otherwise."""
STOPPED: Final = "the gateway to etcd was stopped"
LARGE_BYTES: Final = 64 * 1024
"""What is larger gains nothing by going with others."""
READS_MAX: Final = 16
"""Of a group: how much a read brings is not known before, up to 4 MiB; all of a group wait for all of its answer."""
PART_BYTES: Final = 96
"""What a part of a transaction takes in etcd's request at most, besides its key and its value: lengths, and what goes before each key of a system."""

Ask = Callable[[tuple[Transaction, ...]], Awaitable[list[TransactionResult | UniosError]]]
"""Do these as one; return how each has ended. Raises a UniosError if all of them ended so."""


class Footprint(NamedTuple):
    """What a transaction touches, whichever branch it takes."""

    reads: frozenset[str]
    writes: frozenset[str]
    bytes: int
    """Of the request, at most."""
    ranges: int


def footprint(transaction: Transaction) -> Footprint | None:
    """Return what a transaction touches; None if it goes by itself: it writes nothing, touches whole ranges, is large, or may be an event that is.

    A delete tells watchers what was there, however large; and one revision of many such would be more than they are told at once.
    """
    reads = {compare.key for compare in transaction.compares}
    writes = set[str]()
    size = sum(
        PART_BYTES + _length(compare.key) + (len(compare.operand) if isinstance(compare.operand, bytes) else 0) for compare in transaction.compares
    )
    ranges = 0
    for operation in (*transaction.then, *transaction.otherwise):
        match operation:
            case Put(key, value):
                writes.add(key)
                size += PART_BYTES + _length(key) + len(value)
            case Range(key, prefix=False):
                reads.add(key)
                size += PART_BYTES + _length(key)
                ranges += 1
            case _:
                return None
    # a compare of "value !=" has etcd take both branches once more (translation.py)
    size *= 1 + sum(compare.target == "value" and compare.op == "!=" for compare in transaction.compares)
    return Footprint(frozenset(reads), frozenset(writes), size, ranges) if writes and size <= LARGE_BYTES else None


def _length(key: str) -> int:
    return len(key.encode("utf-8", "surrogatepass"))


class Group:
    """Transactions of which none touches what another writes."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Transaction, asyncio.Future[TransactionResult]]] = []
        self._reads: set[str] = set()
        self._writes: set[str] = set()
        self._bytes = self._ranges = 0

    def takes(self, foot: Footprint) -> bool:
        """Return whether one with that footprint has nothing to do with any that is in it."""
        return self._writes.isdisjoint(foot.writes) and self._writes.isdisjoint(foot.reads) and self._reads.isdisjoint(foot.writes)

    def add(self, transaction: Transaction, foot: Footprint) -> asyncio.Future[TransactionResult]:
        future: asyncio.Future[TransactionResult] = asyncio.get_running_loop().create_future()
        self.waiting.append((transaction, future))
        self._reads |= foot.reads
        self._writes |= foot.writes
        self._bytes += foot.bytes
        self._ranges += foot.ranges
        return future

    @property
    def is_full(self) -> bool:
        return len(self.waiting) >= GROUP_MAX or self._bytes >= GROUP_BYTES_MAX or self._ranges >= READS_MAX

    def still_wanted(self) -> list[tuple[Transaction, asyncio.Future[TransactionResult]]]:
        """Return those for which somebody waits yet."""
        return [(transaction, future) for transaction, future in self.waiting if not future.done()]


class GroupCommit:
    """That of one gateway."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._calls = 0
        self._next = Group()
        self._late: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def do(self, transaction: Transaction) -> TransactionResult:
        """Do one transaction, now or with others. Raises what it came to."""
        if self._closed:
            raise Unavailable(STOPPED)
        foot = footprint(transaction) if self._calls >= CALLS_FREE else None
        if foot is None or not self._next.takes(foot):
            self._calls += 1
            try:
                (result,) = await self._ask((transaction,))
            finally:
                self._calls -= 1
                self._depart()
            if isinstance(result, UniosError):
                raise result
            return result
        if not self._next.waiting:
            self._late = asyncio.get_running_loop().call_later(GROUP_WAIT_S, self._depart)
        future = self._next.add(transaction, foot)
        if self._next.is_full:
            self._depart()
        return await future

    def _depart(self) -> None:
        if not self._next.waiting:
            return
        if self._late is not None:
            self._late.cancel()
        group, self._next = self._next, Group()
        self._late = None
        self._calls += 1
        task = asyncio.get_running_loop().create_task(self._carry(group))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._over(task, group))

    async def _carry(self, group: Group) -> None:
        if wanted := group.still_wanted():
            await self._all(wanted)

    def _over(self, task: asyncio.Task[None], group: Group) -> None:
        self._tasks.discard(task)
        self._calls -= 1
        for _transaction, future in group.still_wanted():  # this was cut off
            future.set_exception(OutcomeUnknown(f"{STOPPED}: whether it was done is not known"))
        if not self._closed:
            self._depart()

    async def _all(self, wanted: list[tuple[Transaction, asyncio.Future[TransactionResult]]]) -> None:
        transactions = tuple(transaction for transaction, _future in wanted)
        try:
            results = await self._ask(transactions)
        except UniosError as error:
            if len(wanted) > 1 and not isinstance(error, (Unavailable, OutcomeUnknown)):
                await asyncio.gather(*(self._all([one]) for one in wanted))  # etcd refuses one of them, and with it all: each by itself
                return
            results = [error] * len(wanted)
        for (_transaction, future), result in zip(wanted, results, strict=True):
            if future.done():
                continue
            if isinstance(result, UniosError):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def close(self) -> None:
        """Give up what is under way, and what waits."""
        self._closed = True
        group, self._next = self._next, Group()
        for _transaction, future in group.still_wanted():
            future.set_exception(Unavailable(STOPPED))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
