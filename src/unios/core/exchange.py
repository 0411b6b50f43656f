"""Exchange: queues of items between processes of any nodes. Decides only.

Invariants: items are handed out in the order in which they were put in, each once; who waits, to put or to get, is served in the order of arrival; no
more than `length_max` are in at a time, and over all no more bytes than the bound. One that comes back, because who got it was interrupted, has its old
place again, if there is room or not.
"""

from collections import Counter, deque
from collections.abc import Iterable

from unios.core.grants import NO, NOWAIT, YES, Answer, Ask, Out, Waiter, fault
from unios.synchronisation_limits import SYNC_ITEM_BYTES, SYNC_QUEUE_BYTES_MAX, SYNC_QUEUE_ITEMS_MAX


class Exchange:
    """One queue. `length_max` 0: the bounds alone."""

    def __init__(self, name: str, length_max: int) -> None:
        self.name = name
        self.spec = length_max
        self._length_max = min(length_max or SYNC_QUEUE_ITEMS_MAX, SYNC_QUEUE_ITEMS_MAX)
        self.items: deque[tuple[int, bytes]] = deque()
        """(which it is in the order of putting, item)"""
        self._count = 0
        self._bytes = self._waiting_bytes = 0
        """Of the items that are in, and of those that wait to be put."""
        self.putters: dict[int, Waiter] = {}
        self.getters: dict[int, Waiter] = {}
        self.joiners: dict[int, Waiter] = {}
        self.unfinished = 0
        self._taken: Counter[str] = Counter()
        """Items that a session has got and not said to be done with."""

    @property
    def held_bytes(self) -> int:
        """Held here, also for those who wait to put."""
        return self._bytes + self._waiting_bytes + SYNC_ITEM_BYTES * (len(self.items) + len(self.putters))

    @property
    def places(self) -> int:
        """How many wait, or have something that they got."""
        return len(self.putters) + len(self.getters) + len(self.joiners) + len(self._taken)

    @property
    def is_idle(self) -> bool:
        return not (self.items or self.putters or self.getters or self.joiners or self.unfinished)

    def waiters(self) -> Iterable[Waiter]:
        for waiting in (self.putters, self.getters, self.joiners):
            yield from waiting.values()

    def _has_room(self, data: bytes) -> bool:
        return len(self.items) < self._length_max and (not self.items or self._bytes + len(data) <= SYNC_QUEUE_BYTES_MAX)

    def put(self, waiter: Waiter, out: Out) -> list[Waiter] | None:
        """Take an item in, or None: its putter waits. Returns whose wait is over."""
        if self.putters or not self._has_room(waiter.ask.data):
            served = self._later(waiter, self.putters, out)
            self._waiting_bytes += len(waiter.ask.data) if served is None else 0
            return served
        self._take_in(waiter, out)
        return self.pump(out)

    def _later(self, waiter: Waiter, waiting: dict[int, Waiter], out: Out) -> list[Waiter] | None:
        if waiter.ask.flags & NOWAIT:
            out.append((waiter.session, Answer(waiter.ask.id, NO)))
            return []
        waiting[waiter.number] = waiter
        return None

    def _take_in(self, waiter: Waiter, out: Out) -> None:
        self._count += 1
        self.items.append((self._count, waiter.ask.data))
        self._bytes += len(waiter.ask.data)
        self.unfinished += 1
        out.append((waiter.session, Answer(waiter.ask.id, YES)))

    def get(self, waiter: Waiter, out: Out) -> list[Waiter] | None:
        """Hand an item out, or None: its getter waits. Returns whose wait is over."""
        if self.getters or not self.items:
            return self._later(waiter, self.getters, out)
        self._hand_out(waiter, out)
        return self.pump(out)

    def _hand_out(self, waiter: Waiter, out: Out) -> None:
        number, data = self.items.popleft()
        self._bytes -= len(data)
        self._taken[waiter.session] += 1
        out.append((waiter.session, Answer(waiter.ask.id, YES, value=number, data=data)))

    def had(self, session: str) -> None:
        """The session has got an item whose holder it was in an earlier incarnation: it has still to say that it is done with it."""
        self._taken[session] += 1
        self.unfinished += 1

    def pump(self, out: Out) -> list[Waiter]:
        """Serve who can be served now."""
        served: list[Waiter] = []
        while True:
            if self.getters and self.items:
                waiter = self.getters.pop(next(iter(self.getters)))
                self._hand_out(waiter, out)
            elif self.putters and self._has_room(next(iter(self.putters.values())).ask.data):
                waiter = self.putters.pop(next(iter(self.putters)))
                self._waiting_bytes -= len(waiter.ask.data)
                self._take_in(waiter, out)
            else:
                return served
            served.append(waiter)

    def back(self, session: str, ask: Ask, out: Out) -> list[Waiter]:
        """Take an item in again that was handed out and came to nobody. Returns whose wait is over."""
        if self._taken[session] > 0:
            self._settle(session, 1)
        self.unfinished += 1
        before = 0
        while before < len(self.items) and self.items[before][0] < ask.number:
            before += 1
        self.items.insert(before, (ask.number, ask.data))
        self._bytes += len(ask.data)
        out.append((session, Answer(ask.id, YES)))
        return self.pump(out)

    def done(self, session: str, ask: Ask, out: Out) -> list[Waiter]:
        """One item is dealt with; when none is left who joins goes on."""
        if self.unfinished - len(self.items) <= 0:
            out.append((session, fault(ask.id, "value", "task_done() called too many times")))
            return []
        owner = session if self._taken[session] > 0 else next((s for s, n in self._taken.items() if n > 0), session)
        self._settle(owner, 1)
        out.append((session, Answer(ask.id, YES)))
        return self._joined(out)

    def _settle(self, session: str, count: int) -> None:
        self.unfinished -= count
        self._taken[session] -= count
        if self._taken[session] <= 0:
            del self._taken[session]

    def _joined(self, out: Out) -> list[Waiter]:
        if self.unfinished:
            return []
        served = list(self.joiners.values())
        self.joiners.clear()
        out.extend((waiter.session, Answer(waiter.ask.id, YES)) for waiter in served)
        return served

    def join(self, waiter: Waiter, out: Out) -> list[Waiter] | None:
        """Wait until all that was put in is done."""
        if not self.unfinished:
            out.append((waiter.session, Answer(waiter.ask.id, YES)))
            return []
        self.joiners[waiter.number] = waiter
        return None

    def withdraw(self, waiter: Waiter) -> Answer:
        if self.putters.pop(waiter.number, None) is not None:
            self._waiting_bytes -= len(waiter.ask.data)
        for waiting in (self.getters, self.joiners):
            waiting.pop(waiter.number, None)
        return Answer(waiter.ask.id, NO)

    def leave(self, session: str, out: Out) -> list[Waiter]:
        """A session is gone: what it had taken out counts as done, since nobody else will say so. Returns whose wait is over."""
        gone = [waiter for waiter in self.waiters() if waiter.session == session]
        for waiter in gone:
            self.withdraw(waiter)
        if self._taken[session] > 0:
            self._settle(session, self._taken[session])
        return gone + self.pump(out) + self._joined(out)

    def check(self, ask: Ask) -> Answer | None:
        """Return the error if the asker thinks of another greatest length, or brings too much."""
        if ask.spec != self.spec:
            return fault(ask.id, "usage", f"queue {self.name} holds at most {self.spec or 'any number of'} items, not {ask.spec or 'any number'}")
        if len(ask.data) > SYNC_QUEUE_BYTES_MAX // 4:
            return fault(ask.id, "usage", f"an item of {len(ask.data)} bytes is over the limit of {SYNC_QUEUE_BYTES_MAX // 4}")
        return None
