"""Replicating: brings what the journal has to the log of the tree, in order, many entries at a time; tells who waits when it is there."""

import asyncio
import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from unios.client.log import LogWriter
from unios.core.files.entry import Entry, encode

BATCH_BYTES: Final = 512 * 1024
AHEAD_BYTES: Final = 8 << 20
"""Of entries that are not in the log yet; over it nothing is changed."""
CALM_S: Final = 0.01
"""So long entries gather that nobody waits for."""
Then = Callable[[OSError | None], None]


class Replicating:
    """That of one tree. `run` in the loop; everything else from any thread."""

    def __init__(self, confirmed: int = 0) -> None:
        self.loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._told = self.confirmed = confirmed
        self._waiting: list[tuple[int, int, Then]] = []
        self._order = itertools.count()
        self._event = asyncio.Event()
        self._urgent = asyncio.Event()
        self._woken = False

    @property
    def is_full(self) -> bool:
        """Whether what waits is much."""
        return self._bytes > AHEAD_BYTES

    def tell(self, entry: Entry) -> None:
        """Take an entry; they come in order."""
        data = encode(entry)
        with self._lock:
            self._queue.append((entry.at, data))
            self._bytes += len(data)
            self._told = entry.at
            wakes, self._woken = not self._woken, True
        if wakes:
            self.loop.call_soon_threadsafe(self._event.set)

    def when(self, at: int, then: Then) -> None:
        """Call `then` when all entries up to that one are in the log; at once if they are."""
        with self._lock:
            at = min(at, self._told)
            waits = at > self.confirmed
            if waits:
                heapq.heappush(self._waiting, (at, next(self._order), then))
        if waits:
            self.loop.call_soon_threadsafe(self._urgent.set)
        else:
            then(None)

    async def run(self, writer: LogWriter, told: Callable[[int, int], None]) -> None:
        """Bring them to the log until cancelled. `told` is given the last entry of each batch, and its place in the log. LeaseLost: another writes it now."""
        while True:
            await self._event.wait()
            if not self._waiting and self._bytes < BATCH_BYTES:
                with_patience = asyncio.get_running_loop().create_task(self._urgent.wait())
                await asyncio.wait((with_patience,), timeout=CALM_S)
                with_patience.cancel()
            self._urgent.clear()
            batch = self._batch()
            if not batch:
                continue
            first = await writer.append(*(data for _at, data in batch))
            self._confirm(batch[-1][0])
            told(batch[-1][0], first + len(batch) - 1)

    def _batch(self) -> list[tuple[int, bytes]]:
        with self._lock:
            batch, size = [], 0
            while self._queue and size < BATCH_BYTES:
                batch.append(self._queue.popleft())
                size += len(batch[-1][1])
            self._bytes -= size
            if not self._queue:
                self._woken = False
                self._event.clear()
            return batch

    def _confirm(self, at: int) -> None:
        ready = []
        with self._lock:
            self.confirmed = at
            while self._waiting and self._waiting[0][0] <= at:
                ready.append(heapq.heappop(self._waiting)[2])
        for then in ready:
            then(None)
