"""Gates: what is taken and given back in units: locks, locks of readers and writers, semaphores, elections; and the conditions on a lock. Decides only.

Invariants: what is granted never exceeds the capacity; who waits is served in the order of arrival and nobody overtakes, not even one who would find
room; a waiter costs one message when it asks and one when it is granted, however many wait (Mellor-Crummey and Scott 1991).

A semaphore has units that come back when their holder dies, as many as it began with. What is given beyond that is a signal: whoever takes it has used it up.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Set
from typing import Final

from unios.core.grants import BOUNDED, NO, NOWAIT, YES, Answer, Ask, Held, Notice, Out, Token, Waiter, fault

ALL: Final = 1 << 30
"""The units of a lock of readers and writers: a writer takes all, a reader one."""
CAPACITY: Final = {"lock": 1, "election": 1, "rwlock": ALL}

Number = Callable[[], int]
"""Return the next number of a token."""


class Hold:
    """Units that were granted under a number."""

    __slots__ = ("actor", "ask", "session", "token", "units")

    def __init__(self, session: str, actor: str, units: int, token: Token, ask: int = 0) -> None:
        self.session, self.actor, self.units, self.token, self.ask = session, actor, units, token, ask


class Gate:
    """One lock, semaphore or election. `ledger` counts what each (session, actor) holds, of all gates."""

    def __init__(self, kind: str, name: str, spec: int, ledger: Counter[tuple[str, str]]) -> None:
        self.kind, self.name, self.spec = kind, name, spec
        self._ledger = ledger
        self.free = CAPACITY.get(kind, spec)
        self.signals = 0
        self.holds: dict[Token, Hold] = {}
        self.queue: dict[int, Waiter] = {}
        """In the order in which they are served, by the number of their arrival."""
        self.conditions: dict[str, dict[int, Waiter]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether it is as it was made, so that it can be forgotten."""
        return not (self.holds or self.queue or self.signals or any(self.conditions.values()))

    @property
    def places(self) -> int:
        """How many hold it, wait for it, or wait for one of its conditions."""
        return len(self.holds) + len(self.queue) + sum(map(len, self.conditions.values()))

    def waiters(self) -> Iterable[Waiter]:
        yield from self.queue.values()
        for waiting in self.conditions.values():
            yield from waiting.values()

    # asked

    def take(self, waiter: Waiter, epoch: int, number: Number, out: Out) -> bool:
        """Grant units or let the waiter queue; return whether it waits."""
        ask = waiter.ask
        if not 0 < ask.size <= CAPACITY.get(self.kind, ask.size):
            out.append((waiter.session, fault(ask.id, "usage", f"{ask.size} is no number of units of {self.kind} {self.name}")))
        elif not self.queue and self._fits(ask.size):
            self._grant(waiter, epoch, number, out)
        elif ask.flags & NOWAIT:
            out.append((waiter.session, Answer(ask.id, NO)))
        else:
            self.queue[waiter.number] = waiter
            return True
        return False

    def _fits(self, units: int) -> bool:
        return self.free >= units or (self.kind == "semaphore" and self.free + self.signals >= units)

    def _grant(self, waiter: Waiter, epoch: int, number: Number, out: Out) -> None:
        units = min(waiter.ask.size, self.free)
        self.free -= units
        self.signals -= waiter.ask.size - units
        token = Token(epoch, number())
        if units:
            self._add(Hold(waiter.session, waiter.ask.actor, units, token, waiter.ask.id))
        out.append((waiter.session, Answer(waiter.ask.id, YES, token.number, units if self.kind == "semaphore" else waiter.value)))

    def _add(self, hold: Hold) -> None:
        self.holds[hold.token] = hold
        self._ledger[hold.session, hold.actor] += 1

    def _remove(self, hold: Hold) -> None:
        del self.holds[hold.token]
        actor = hold.session, hold.actor
        self._ledger[actor] -= 1
        if not self._ledger[actor]:
            del self._ledger[actor]

    def pump(self, epoch: int, number: Number, out: Out) -> list[Waiter]:
        """Grant what can be granted now; return whose wait is over."""
        served = []
        while self.queue:
            first = next(iter(self.queue.values()))
            if not self._fits(first.ask.size):
                break
            del self.queue[first.number]
            self._grant(first, epoch, number, out)
            served.append(first)
        return served

    def give(self, session: str, token: Token) -> bool:
        """Take back what was granted under a token; False if the session does not hold it (any more)."""
        hold = self.holds.get(token)
        if hold is None or hold.session != session:
            return False
        self._remove(hold)
        self.free += hold.units
        return True

    def keep_only(self, session: str, held: Set[Token], wanted: Set[int]) -> None:
        """Take back what the session does not say that it holds, and does not wait to hear of either."""
        for hold in [hold for hold in self.holds.values() if hold.session == session]:
            if hold.token not in held and hold.ask not in wanted:
                self.give(session, hold.token)

    def units_of(self, session: str, token: Token) -> int:
        """Return how many of the units that were granted under a token the session still holds."""
        hold = self.holds.get(token)
        return hold.units if hold is not None and hold.session == session else 0

    def granted(self, session: str, ask: Ask) -> Answer | None:
        """Return again what a question was granted, if it was and is held still."""
        for hold in self.holds.values():
            if hold.session == session and hold.ask == ask.id:
                return Answer(ask.id, YES, hold.token.number, hold.units if self.kind == "semaphore" else int(ask.op == "wait"))
        return None

    def give_asked(self, session: str, ask: int) -> bool:
        """Take back what was granted for that question; False if there is nothing."""
        return any(self.give(session, hold.token) for hold in list(self.holds.values()) if hold.ask == ask and hold.session == session)

    def give_units(self, session: str, ask: Ask, out: Out) -> Answer:
        """Take back units of a semaphore: the session's own, else the oldest of anybody's, who is told; what nobody has taken is a signal, or refused if
        it is bounded."""
        if ask.flags & BOUNDED and sum(hold.units for hold in self.holds.values()) < ask.size:
            return fault(ask.id, "value", f"semaphore {self.name} was released more often than it was acquired")
        left = ask.size
        named = (
            ask.text,
            ask.number,
        )  # by the epoch and number of its token: another of the session's may be on its way to somebody who was interrupted
        for hold in sorted(self.holds.values(), key=lambda hold: (hold.session != session, (str(hold.token.epoch), hold.token.number) != named)):
            units = min(left, hold.units)
            hold.units -= units
            self.free += units
            left -= units
            if not hold.units:
                self._remove(hold)
            if hold.session != session:
                out.append((hold.session, Notice(self.kind, self.name, hold.token, hold.units)))
            if not left:
                break
        self.signals += left
        return Answer(ask.id, YES, value=left)

    # conditions

    def wait(self, waiter: Waiter, token: Token) -> Answer | None:
        """Give the lock back and wait to be notified; an answer says why not."""
        if not self.give(waiter.session, token):
            return fault(waiter.ask.id, "lease-lost", f"{self.kind} {self.name} is not held any more")
        self.conditions.setdefault(waiter.ask.text, {})[waiter.number] = waiter
        return None

    def notify(self, condition: str, count: int, next_number: Number) -> list[Waiter]:
        """Let the first `count` who wait take their turn for the lock; return them."""
        waiting = self.conditions.get(condition, {})
        chosen = list(waiting.values())[: max(0, count)]
        for waiter in chosen:
            self._to_queue(waiting.pop(waiter.number), next_number, 1)
        if not waiting:
            self.conditions.pop(condition, None)
        return chosen

    def _to_queue(self, waiter: Waiter, next_number: Number, value: int) -> None:
        waiter.number, waiter.value = next_number(), value
        self.queue[waiter.number] = waiter

    # leaving

    def withdraw(self, waiter: Waiter, next_number: Number) -> Answer | None:
        """End a wait; None if it goes on, as one does for the lock of a condition."""
        for condition, waiting in list(self.conditions.items()):
            if waiting.get(waiter.number) is waiter:
                del waiting[waiter.number]
                if not waiting:
                    del self.conditions[condition]
                self._to_queue(waiter, next_number, 0)
                return None
        if waiter.ask.op == "wait":
            return None  # it has its turn for the lock already
        self.queue.pop(waiter.number, None)
        return Answer(waiter.ask.id, NO)

    def leave(self, session: str) -> list[Waiter]:
        """Forget a session: what it holds is free. Returns its waiters."""
        for hold in list(self.holds.values()):
            if hold.session == session:
                self._remove(hold)
                self.free += hold.units
        gone = [waiter for waiter in self.waiters() if waiter.session == session]
        for waiter in gone:
            self.queue.pop(waiter.number, None)
            for waiting in self.conditions.values():
                waiting.pop(waiter.number, None)
        self.conditions = {name: waiting for name, waiting in self.conditions.items() if waiting}
        return gone

    # after the loss of a manager

    def registered(self, session: str, held: Held) -> bool:
        """Note what was granted in an earlier epoch; False if others hold it."""
        if held.token in self.holds:
            return self.holds[held.token].session == session
        if self.free < held.size:
            return False
        self.free -= held.size
        self._add(Hold(session, held.actor, held.size, held.token))
        return True

    def turn(self, waiter: Waiter) -> None:
        """Let one that waited for a condition take its turn for the lock: what has notified it may have been lost."""
        waiter.value = 1
        self.queue[waiter.number] = waiter

    # deadlocks

    def is_waited_for_by(self, waiter: Waiter) -> bool:
        """Whether a waiter waits for those that hold what it wants, and those before it in the queue; anybody may release a semaphore, and notify a condition."""
        return self.kind != "semaphore" and waiter.number in self.queue

    def has_room(self, waiter: Waiter) -> bool:
        """Whether no holder keeps a waiter from what it wants."""
        return self.free >= waiter.ask.size

    def holder(self) -> Hold | None:
        return next(iter(self.holds.values()), None)
