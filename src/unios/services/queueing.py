"""Queueing: runs the queue. Carries out what core/queue.py decides, for the users for whom this node is the one; every placement service has one.

There is no master: of the ready nodes that may act for a user the first runs his queue (View.runner); when it dies the next goes on from the records,
which are all there is to know. Two that both think it is theirs do no harm: the store lets one of two changes of a record win, and the node's kernel
refuses what exceeds it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from functools import lru_cache

from unios.core import claims, outlook
from unios.core.forecast import Lengths
from unios.core.membership import Change
from unios.core.outlook import Wait
from unios.core.processes import ProcessRecord, process_key
from unios.core.queue import Failing, Placement, Queue
from unios.core.rules import PREFIX, Quota, Rule
from unios.core.share import Shares
from unios.errors import UniosError
from unios.limits import QUEUE_STARTS_MAX
from unios.services.starter import Starter
from unios.services.view import CALM_MS, View
from unios.wire.ticks import tick_or

EVERY_S = 1.0
"""How often the queue is looked at, whatever was heard: priorities rise, leases end."""
QUEUE_CALM_MS = 20
"""While something waits: a core that has become free stands still until its end is heard of."""
PACE_S = 1.0
"""After the last one that waited: the next may come at once."""
AGAIN_S = 0.2
"""After something that the store or a node did not take."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Queueing:
    """That of one placement service. `put` is told of each record."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._wake = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.lengths = Lengths()
        self._shares = Shares()
        self._waited = float("-inf")
        """When something waited for room last, by the loop's clock."""
        self.queue: Queue

    def open(self, view: View, starter: Starter) -> None:
        """Begin with these; before the first record is told."""
        self._view, self._starter = view, starter
        self.queue = Queue(view.books, self._shares)

    # what is told

    def put(self, pid: int, before: ProcessRecord | None, now: ProcessRecord | None) -> None:
        """A record has changed."""
        self._shares.put(before, now)
        self.lengths.put(now)
        self.queue.put(pid, now)
        self._wake.set()

    def put_node(self, _change: Change) -> None:
        """A node has come, or gone: what waited for it has its turn at once."""
        self._wake.set()

    def put_rule(self, key: str, now: Rule | None) -> None:
        """A rule has changed."""
        if isinstance(now, Quota):
            self.queue.quotas[now.user] = now
        else:
            self.queue.quotas.pop(key.removeprefix(PREFIX + "quota-"), None)
        self._wake.set()

    def waits_now(self, record: ProcessRecord) -> None:
        """A record without a node was written here: the mirror will tell it, but that takes a moment."""
        self.queue.put(record.pid, record)
        self._wake.set()

    # the runner

    async def run(self) -> None:
        """Carry out; ends only by cancellation."""
        while True:
            self._wake.clear()
            self._look()
            self._set_pace()
            await tick_or(self._wake, EVERY_S)

    def _set_pace(self) -> None:
        """While anything waits for room, hear soon of what ends; else a service is in no hurry."""
        now = asyncio.get_running_loop().time()
        if self.queue.has_ready():
            self._waited = now
        if now - self._waited <= PACE_S:
            self._view.processes.set_calm(QUEUE_CALM_MS)
        else:
            self._view.processes.set_calm(CALM_MS)

    def _look(self) -> None:
        mine = lru_cache(maxsize=None)(lambda user: self._view.runner(user) == self._me)
        for failing in self.queue.failing(mine):
            self._begin(failing.pid, self._fail(failing))
        if self._starter.refused:
            self._give_up_refused(mine)
        free = QUEUE_STARTS_MAX - len(self._tasks)
        if free > 0 and self.queue.has_ready() and self._view.assigns():
            for placement in self.queue.plan(self._starter.ready(), wall_ms(), mine, self._starter.choose, free):
                self._begin(placement.pid, self._place(placement))

    def _give_up_refused(self, mine: Callable[[str], bool]) -> None:
        for pid, incarnation in list(self._starter.refused):
            record = self._view.processes.values.get(process_key(pid))
            if record is None or record.incarnation != incarnation or record.state != "pending":
                self._starter.refused.pop((pid, incarnation))
            elif not record.node and mine(record.user) and not self._starter.able(record):
                self._begin(pid, self._give_up(record))

    def _begin(self, pid: int, work: Coroutine[None, None, None]) -> None:
        if pid in self._tasks:
            work.close()
            return

        async def carry_out() -> None:
            try:
                await work
            except UniosError:
                await asyncio.sleep(AGAIN_S)
            finally:
                work.close()
                self._tasks.pop(pid, None)
                self._resume(pid)

        self._tasks[pid] = asyncio.get_running_loop().create_task(carry_out())

    def _resume(self, pid: int) -> None:
        """What was done, or not, is looked at as the mirror has it: an assignment that did not come about counts no more."""
        now = self._view.processes.values.get(process_key(pid))
        if now is not None and not now.node:
            self._view.books.put(now)
            self.queue.put(pid, now)
        self._wake.set()

    async def _place(self, placement: Placement) -> None:
        found = self._seen(placement.pid, placement.incarnation)
        if found is None:
            return
        record, modified = found
        placed = claims.taken_up(record, placement.node, placement.why)
        number = await self._starter.replace(placed, modified)
        if not number:
            await asyncio.sleep(AGAIN_S / 4)  # somebody else has changed it: the mirror will say how
            return
        await self._starter.start(placed, number)
        await self._wait_seen(placed.pid, number)

    async def _wait_seen(self, pid: int, number: int) -> None:
        """Wait until the mirror has seen what was written: else the process would seem to wait still."""
        key, modified = process_key(pid), self._view.processes.modified
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EVERY_S):
                await self._view.processes.wait_for(key, lambda _record: modified.get(key, number) >= number)

    def _seen(self, pid: int, incarnation: int) -> tuple[ProcessRecord, int] | None:
        key = process_key(pid)
        record = self._view.processes.values.get(key)
        if record is None or record.incarnation != incarnation or record.state != "pending" or record.node:
            return None
        return record, self._view.processes.modified[key]

    async def _fail(self, failing: Failing) -> None:
        found = self._seen(failing.pid, failing.incarnation)
        if found is not None:
            await self._starter.replace(claims.not_started(found[0], claims.NO_START, failing.reason, wall_ms()), found[1])
            await asyncio.sleep(AGAIN_S)

    async def _give_up(self, record: ProcessRecord) -> None:
        found = self._seen(record.pid, record.incarnation)
        if found is not None:
            await self._starter.give_up_refused(*found)
            await asyncio.sleep(AGAIN_S)

    # questions

    def outlook(self) -> list[Wait]:
        """Return all that wait, with why and about until when."""
        return outlook.outlook(self.queue, self._view.books, self.lengths, self._view.ready(), wall_ms())

    def reason(self, record: ProcessRecord) -> str:
        """Return why a process that has only just come waits."""
        why = outlook.blocked(self.queue, self._view.books, self._view.ready(), record)
        if why:
            return why
        short = outlook.shortage(self._view.books, self.queue.hopeful(self._view.ready(), record), record)
        before = len(self.queue)
        return f"{short}; {before} wait already" if before else short
