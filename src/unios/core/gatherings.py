"""Gatherings: events and barriers, where many wait for the same moment. Decides only.

Invariants: nobody who waits when an event is set goes on waiting; nobody leaves a barrier before as many have come as it is for, and none of a
later round is let out with an earlier one. Who dies or gives up at a barrier breaks it, as with `threading.Barrier`.
"""

from collections.abc import Iterable

from unios.core.grants import ACTS, BROKEN, NO, YES, Answer, Ask, Notice, Out, Token, Waiter, fault


class Flag:
    """An event. `version` is the token of the last change; users are told of each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_set = False
        self.version = Token(0, 0)
        self.users: dict[str, None] = {}
        self.waiting: dict[int, Waiter] = {}

    @property
    def is_idle(self) -> bool:
        return not (self.is_set or self.waiting or self.users)

    @property
    def places(self) -> int:
        """How many wait for it, or are told of its changes."""
        return len(self.waiting) + len(self.users)

    def waiters(self) -> Iterable[Waiter]:
        return self.waiting.values()

    def wait(self, waiter: Waiter, out: Out) -> bool:
        """Answer if it is set, else wait; return whether it waits."""
        if self.is_set:
            out.append((waiter.session, Answer(waiter.ask.id, YES)))
            return False
        self.waiting[waiter.number] = waiter
        return True

    def change(self, state: bool, version: Token, out: Out) -> list[Waiter]:
        """Set or clear it; return whose wait is over."""
        if state == self.is_set:
            return []
        self.is_set, self.version = state, version
        out.extend((user, Notice("event", self.name, version, int(state))) for user in self.users)
        return self.release(out) if state else []

    def release(self, out: Out) -> list[Waiter]:
        served = list(self.waiting.values())
        self.waiting.clear()
        out.extend((waiter.session, Answer(waiter.ask.id, YES)) for waiter in served)
        return served

    def known(self, version: Token, state: bool) -> None:
        """Take over what a user remembers, if nobody knows anything later."""
        if version > self.version:
            self.version, self.is_set = version, state

    def withdraw(self, waiter: Waiter) -> Answer:
        self.waiting.pop(waiter.number, None)
        return Answer(waiter.ask.id, NO)

    def leave(self, session: str) -> list[Waiter]:
        self.users.pop(session, None)
        gone = [waiter for waiter in self.waiting.values() if waiter.session == session]
        for waiter in gone:
            del self.waiting[waiter.number]
        return gone


class Barrier:
    """One barrier. While its `actor` does what is done before all go on, nobody else comes in."""

    def __init__(self, name: str, parties: int) -> None:
        self.name, self.parties = name, parties
        self.broken = False
        self.waiting: dict[int, Waiter] = {}
        self.actor: Waiter | None = None
        self.behind: dict[int, Waiter] = {}
        """Of the next round: they have come while the actor was at work."""
        self._deposed: set[tuple[str, str]] = set()
        """Actors at work for a round that has been broken meanwhile; they are told when they are done."""

    @property
    def is_idle(self) -> bool:
        return not (self.broken or self.waiting or self.actor or self.behind or self._deposed)

    @property
    def places(self) -> int:
        """How many are in here."""
        return len(self.waiting) + len(self.behind) + len(self._deposed) + (self.actor is not None)

    @property
    def lets_go(self) -> bool:
        """Whether the next to come does not wait."""
        return self.broken or (self.actor is None and len(self.waiting) + 1 >= self.parties)

    def waiters(self) -> Iterable[Waiter]:
        yield from self.waiting.values()
        yield from self.behind.values()

    def wait(self, waiter: Waiter, out: Out) -> list[Waiter]:
        """Let one come in; return whose wait is over."""
        if self.broken:
            out.append((waiter.session, Answer(waiter.ask.id, BROKEN)))
            return []
        if self.actor is not None:
            self.behind[waiter.number] = waiter
            return []
        self.waiting[waiter.number] = waiter
        if len(self.waiting) < self.parties:
            return []
        if waiter.ask.flags & ACTS:
            self.actor = waiter
            self._deposed.discard(waiter.actor)
            del self.waiting[waiter.number]
            out.append((waiter.session, Answer(waiter.ask.id, YES, value=self.parties - 1, text="act")))
            return [waiter]
        return self._release(out)

    def _release(self, out: Out) -> list[Waiter]:
        served = list(self.waiting.values())
        self.waiting.clear()
        out.extend((waiter.session, Answer(waiter.ask.id, YES, value=index)) for index, waiter in enumerate(served))
        return served

    def acted(self, by: tuple[str, str], out: Out) -> list[Waiter] | None:
        """The actor is done: let all go, and those in that have come meanwhile. None: his round was broken."""
        if self.actor is None or self.actor.actor != by:
            deposed = by in self._deposed
            self._deposed.discard(by)
            return None if deposed else []
        self.actor = None
        served = self._release(out)
        behind, self.behind = list(self.behind.values()), {}
        for waiter in behind:
            served += self.wait(waiter, out)
        return served

    def break_(self, out: Out) -> list[Waiter]:
        """Break it: all who wait are told. Returns them."""
        self.broken = True
        return self._all_broken(out)

    def _all_broken(self, out: Out) -> list[Waiter]:
        if self.actor is not None:
            self._deposed.add(self.actor.actor)
            self.actor = None
        served = list(self.waiters())
        self.waiting.clear()
        self.behind.clear()
        out.extend((waiter.session, Answer(waiter.ask.id, BROKEN)) for waiter in served)
        return served

    def reset(self, out: Out) -> list[Waiter]:
        """Make it whole and empty again: who waits hears that it broke."""
        self.broken = False
        return self._all_broken(out)

    def leave(self, session: str, out: Out) -> list[Waiter]:
        """A session is gone: if it was in here the barrier breaks, for all who wait."""
        mine = [waiter for waiter in self.waiters() if waiter.session == session]
        was_here = bool(mine) or (self.actor is not None and self.actor.session == session)
        served = self.break_(out) if was_here else []
        self._deposed = {actor for actor in self._deposed if actor[0] != session}
        return served

    def check(self, ask: Ask) -> Answer | None:
        """Return the error if the asker thinks of another number of parties."""
        if ask.spec and ask.spec != self.parties:
            return fault(ask.id, "usage", f"barrier {self.name} is for {self.parties}, not for {ask.spec}")
        return None
