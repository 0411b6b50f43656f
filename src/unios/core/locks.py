"""Locks: the manager of all that synchronises programs across nodes. Events in, what sessions are told out; decides only, services/locks.py carries it.

- A session lives while it renews; when its lease ends, what it held goes to the next, what it waited for is withdrawn, its barriers break.
- Tokens are (epoch, number). The epoch is won in the store by whoever becomes the manager; numbers count up from there. So tokens only grow.
- A manager that follows another one may not know what that one granted: until `shut_until_ms` it grants nothing. By then each session of its predecessor
  has registered again, with what it holds and what it waits for, or its lease has ended.
- An endless wait that closes a circle of endless waits is a deadlock: the youngest waiter in it is told, with all their names.

Times are ms of one clock, given with each event. Users are apart: a name is one thing for each user, and what one may take of all that is bounded is bounded too.
"""

from collections.abc import Callable
from typing import Final

from unios.core.deadlocks import EndlessWaits
from unios.core.deferred import Deferred, Late
from unios.core.exchange import Exchange
from unios.core.gates import Gate
from unios.core.gatherings import Barrier, Flag
from unios.core.grants import (
    NO,
    NOWAIT,
    YES,
    Answer,
    Ask,
    Held,
    Key,
    Known,
    Notice,
    Open,
    Opened,
    Out,
    Over,
    Renew,
    Renewed,
    Token,
    Waiter,
    Waiting,
    Withdraw,
    fault,
)
from unios.core.refusals import BRINGS, malformed, may_be_held, may_be_known
from unios.core.roster import ENDED, Roster, Session
from unios.core.things import Thing, Things
from unios.synchronisation_limits import SYNC_ITEM_BYTES, SYNC_LOOK_MS, SYNC_TTL_MS, SYNC_WAITING_MAX

PAUSE_MS: Final = 4 * SYNC_LOOK_MS
THINGS_REMEMBERED: Final = 256
"""Of one session; over it those are forgotten that are not there any more."""


class Locks:
    """All of one manager."""

    def __init__(self, epoch: int, now_ms: int, *, grace_ms: int = SYNC_TTL_MS, since: int = 0) -> None:
        """`grace_ms`: 0 if nobody can hold anything of an earlier epoch. `since`: see Opened."""
        self.epoch, self.since = epoch, since or epoch
        self._shut_until_ms = now_ms + grace_ms
        self.is_shut = grace_ms > 0
        self._looked_ms = now_ms
        self._numbers = 0
        self._privileged: set[str] = set()
        """Users who have been here and may do everything in the system."""
        self._roster = Roster(epoch, self._privileged)
        self.sessions = self._roster.sessions
        self._things = Things(self._privileged)
        self._blocked = EndlessWaits(self._things.ledger)
        self._deferred = Deferred(self._things.places, self._things.bytes)
        """Asked while nothing is granted."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody and nothing would be missed."""
        return not (self.sessions or self._things or self.is_shut)

    def thing(self, user: str, kind: str, name: str) -> Thing | None:
        return self._things.get((user, kind, name))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # sessions

    def is_stale(self, user: str, opened: Open) -> bool:
        """Say whether the session has gone on over a later connection already: then nothing that this one says counts."""
        session = self.sessions.get(opened.session)
        return session is not None and session.user == user and session.is_later(opened)

    def open(self, user: str, opened: Open, now_ms: int, *, is_privileged: bool = False) -> Out:
        """A session begins, or goes on over another connection, as its next incarnation or after another manager; over none that is_stale."""
        out: Out = []
        if is_privileged:
            self._privileged.add(user)
        session = self.sessions.get(opened.session)
        if session is not None and session.user != user:
            return [(opened.session, Over("the session is another user's"))]
        if session is not None and session.incarnation < opened.incarnation:
            out += self._end(session, is_missed=True)
            session = None
        if is_new := session is None:
            if (refused := self._roster.refusal(user, opened, is_shut=self.is_shut)) is not None:
                return [*out, (opened.session, refused)]
            session = self._roster.begin(user, opened)
            if not all(self._register(session, held) for held in opened.held):
                out += self._end(session, is_missed=True)
                return [*out, (opened.session, Over("what it held is another's"))]
        session.until_ms = now_ms + SYNC_TTL_MS
        out.append((session.id, Opened(self.epoch, self.since)))
        if not is_new:
            self._reconcile(session, opened, out)
        session.turn = opened.turn
        for known in opened.known:
            self._remember(session, known, out)
        for waiting in opened.waiting:
            self._wait_on(session, waiting, now_ms, out)
        session.unknown = session.unknown | set(opened.later) if not session.is_known else session.unknown & set(opened.later)
        session.is_known = True
        return out

    def waits(self, id_: str, waiting: Waiting, now_ms: int) -> Out:
        """A session that has opened says one more of what it waits for."""
        session = self.sessions.get(id_)
        if session is None:
            return [(id_, Over(ENDED))]
        out: Out = []
        self._wait_on(session, waiting, now_ms, out)
        return out

    def _wait_on(self, session: Session, waiting: Waiting, now_ms: int, out: Out) -> None:
        ask = waiting.ask
        if ask.id in session.waiting or (session.id, ask.id) in self._deferred or self._told_again(session, ask, out):
            return
        if waiting.again and (doubt := session.doubt(ask)) is not None:
            out.append((session.id, doubt))
        else:
            self._ask(session, ask, now_ms - waiting.waited_ms, out, again=waiting.again)

    def _told_again(self, session: Session, ask: Ask, out: Out) -> bool:
        """Tell again what was answered to that question, if it was; and what that brought is there again."""
        thing = self._things.get((session.user, ask.kind, ask.name))
        answer = session.answers.get(ask.id) or (thing.granted(session.id, ask) if isinstance(thing, Gate) else None)
        if answer is None:
            return False
        if ask.id in session.inherited and (ask.op, ask.kind, answer.outcome) == ("get", "queue", YES):
            thing = self._thing(session, ask.kind, ask.name, ask.spec)
            if isinstance(thing, Exchange):
                thing.had(session.id)
        session.inherited.discard(ask.id)
        out.append((session.id, answer))
        return True

    def _reconcile(self, session: Session, opened: Open, out: Out) -> None:
        """Let go of what the session does not know of: it was given back, or withdrawn, by a message that was lost."""
        wanted = {waiting.ask.id for waiting in opened.waiting} | set(opened.later)
        for id_ in [id_ for id_ in session.waiting if id_ not in wanted]:
            self._withdraw(session, id_, out, for_nobody=True)
        self._deferred.keep_only(session.id, wanted)
        held = {one.token for one in opened.held}
        for key in list(session.things):
            gate = self._things.get(key)
            if isinstance(gate, Gate):
                gate.keep_only(session.id, held, wanted)
                self._pump(key, gate, out)
        for one in opened.held:
            gate = self._things.get((session.user, one.kind, one.name))
            units = gate.units_of(session.id, one.token) if isinstance(gate, Gate) else 0
            if one.kind == "semaphore" and units != one.size:
                out.append((session.id, Notice(one.kind, one.name, one.token, units)))

    def _register(self, session: Session, held: Held) -> bool:
        key = (session.user, held.kind, held.name)
        if not may_be_held(held) or self._things.no_room(key) or self._things.no_place(session.user):
            return False
        gate = self._thing(session, held.kind, held.name, held.spec)
        is_registered = isinstance(gate, Gate) and gate.registered(session.id, held)
        self._things.settle(key)
        return is_registered

    def _remember(self, session: Session, known: Known, out: Out) -> None:
        key = (session.user, known.kind, known.name)
        if not may_be_known(known) or self._things.no_room(key):
            return
        flag = self._thing(session, known.kind, known.name, 0)
        if isinstance(flag, Flag):
            self._use(session, flag)
            flag.known(known.token, bool(known.state))
            if flag.is_set:
                self._over(flag.release(out))
            self._things.settle(key)

    def renewed(self, id_: str, renew: Renew, now_ms: int) -> Out:
        """A session lives."""
        session = self.sessions.get(id_)
        if session is None:
            return [(id_, Over(ENDED))]
        session.until_ms = now_ms + SYNC_TTL_MS
        if len(session.things) > THINGS_REMEMBERED:
            session.things = {key: None for key in session.things if key in self._things}
        session.heard(renew.heard)
        return [(id_, Renewed(renew.number))]

    def ended(self, id_: str) -> Out:
        """A session has said good-bye, or its process is known to be gone."""
        session = self.sessions.get(id_)
        return self._end(session) if session is not None else []

    def tick(self, now_ms: int) -> Out:
        """Look at the clock: end sessions that have not renewed, and begin to grant when the time has come."""
        out: Out = []
        gap_ms, self._looked_ms = now_ms - self._looked_ms, now_ms
        if gap_ms > PAUSE_MS:  # the manager itself did not run: nobody could renew
            for session in self.sessions.values():
                session.until_ms += gap_ms
        for session in [session for session in self.sessions.values() if session.until_ms <= now_ms]:
            out += self._end(session, is_missed=True)
            out.append((session.id, Over(ENDED)))
        if self.is_shut and now_ms >= self._shut_until_ms:
            self.is_shut = False
            for one in self._deferred.end():
                if (waiting := self.sessions.get(one.session)) is not None:
                    self._ask(waiting, one.ask, now_ms, out, again=one.again)
        return out

    def _end(self, session: Session, *, is_missed: bool = False) -> Out:
        """End a session. `is_missed`: its process may live, and come back as the next incarnation."""
        out: Out = []
        taken_back: set[int] = set()
        self._roster.end(session)
        self._deferred.keep_only(session.id, ())
        for key in session.things:
            thing = self._things.get(key)
            match thing:
                case Gate():
                    taken_back |= {hold.ask for hold in thing.holds.values() if hold.session == session.id}
                    self._over(thing.leave(session.id))
                case Flag():
                    self._over(thing.leave(session.id))
                case Barrier() | Exchange():
                    before = len(out)
                    self._over(thing.leave(session.id, out))
                    self._roster.keep(out[before:])
            if isinstance(thing, Gate):
                self._pump(key, thing, out)
            self._things.settle(key)
        if is_missed:
            self._roster.gone.add(session, taken_back)
        return [one for one in out if one[0] != session.id]

    # what is asked

    def asked(self, id_: str, ask: Ask, now_ms: int) -> Out:
        """Somebody of a session wants something."""
        session = self.sessions.get(id_)
        if session is None:
            return [(id_, Over(ENDED))]
        out: Out = []
        self._ask(session, ask, now_ms, out)
        return out

    def withdrawn(self, id_: str, said: Withdraw) -> Out:
        """A session does not want any more what it has asked."""
        session = self.sessions.get(id_)
        out: Out = []
        if session is not None:
            self._withdraw(session, said.id, out)
            gate = self._things.get(key := (session.user, said.kind, said.name))
            if isinstance(gate, Gate) and gate.give_asked(session.id, said.id):
                self._pump(key, gate, out)
        return out

    def _ask(self, session: Session, ask: Ask, since_ms: int, out: Out, *, again: bool = False) -> None:
        key = (session.user, ask.kind, ask.name)
        answer = self._refusal(session, ask)
        if answer is None and self.is_shut and ask.op not in ("give", "locked"):
            if ask.flags & NOWAIT:
                answer = Answer(ask.id, NO)
            elif (answer := self._things.no_place(session.user, ask.id)) is None:
                self._deferred.add(Late(since_ms, self._number(), session.id, session.user, ask, again))
                return
        if answer is None:
            thing = self._thing(session, ask.kind, ask.name, ask.spec)
            before = len(out)
            match thing:
                case Gate():
                    self._at_gate(session, key, thing, ask, out, again=again)
                case Flag():
                    self._at_flag(session, key, thing, ask, out)
                case Barrier():
                    self._at_barrier(session, key, thing, ask, out, again=again)
                case Exchange():
                    self._at_exchange(session, key, thing, ask, out)
            if not isinstance(thing, Gate) or thing.kind == "semaphore" or ask.op == "notify":
                self._roster.keep(out[before:])
            self._things.settle(key)
            return
        if ask.id:
            out.append((session.id, answer))
        gate = self._things.get(key)
        if ask.op == "wait" and isinstance(gate, Gate) and gate.give(session.id, Token(ask.spec, ask.number)):
            self._pump(key, gate, out)  # who waits for a condition has given its lock back, whatever comes of the wait

    def _refusal(self, session: Session, ask: Ask) -> Answer | None:
        if (refused := malformed(ask)) is not None:
            return refused
        if ask.id in session.waiting:
            return fault(ask.id, "usage", f"a question {ask.id} is waiting already")
        if len(session.waiting) >= SYNC_WAITING_MAX:
            return fault(ask.id, "unavailable", f"{SYNC_WAITING_MAX} of this process wait already, which is the limit")
        text = self._things.no_room((session.user, ask.kind, ask.name))
        if not text and (ask.kind, ask.op) in BRINGS:
            times = 2 if ask.op == "back" else 1  # one that was handed out already is not lost for lack of room
            text = self._things.bytes.refusal(session.user, len(ask.data) + SYNC_ITEM_BYTES, times=times)
        return fault(ask.id, "unavailable", text) if text else None

    def _thing(self, session: Session, kind: str, name: str, spec: int) -> Thing:
        key = (session.user, kind, name)
        session.things[key] = None
        return self._things.make(key, spec)

    def _over(self, served: list[Waiter] | None) -> None:
        """These wait no more."""
        for waiter in served or ():
            self._blocked.end(waiter.actor)
            session = self.sessions.get(waiter.session)
            if session is not None:
                session.waiting.pop(waiter.ask.id, None)

    def _withdraw(self, session: Session, id_: int, out: Out, *, for_nobody: bool = False) -> None:
        """End a wait. `for_nobody`: also that for the lock of a condition, which else goes on until it has the lock."""
        if self._deferred.drop(session.id, id_):
            out.append((session.id, Answer(id_, NO)))
        if id_ not in session.waiting:
            return  # it has been answered: the answer is on its way
        key, waiter = session.waiting[id_]
        thing = self._things.get(key)
        assert thing is not None
        if isinstance(thing, Barrier):
            before = len(out)
            self._over(thing.break_(out))
            self._roster.keep(out[before:])
            self._things.settle(key)
            return
        answer = thing.withdraw(waiter, self._number) if isinstance(thing, Gate) else thing.withdraw(waiter)
        if answer is None and for_nobody and isinstance(thing, Gate):
            thing.queue.pop(waiter.number)
            self._over([waiter])
        elif answer is None and isinstance(thing, Gate):
            self._block(thing, waiter, out)
        elif answer is not None:
            self._over([waiter])
            out.append((session.id, answer))
        if isinstance(thing, Gate):
            self._pump(key, thing, out)
        elif isinstance(thing, Exchange):
            before = len(out)
            self._over(thing.pump(out))  # the first who waits to put may have had too much for the room that there is
            self._roster.keep(out[before:])
        self._things.settle(key)

    # gates

    def _at_gate(self, session: Session, key: Key, gate: Gate, ask: Ask, out: Out, *, again: bool) -> None:
        if gate.kind == "semaphore" and ask.spec != gate.spec and ask.op != "give":
            out.append((session.id, fault(ask.id, "usage", f"semaphore {gate.name} begins with {gate.spec}, not with {ask.spec}")))
            return
        match ask.op:
            case "take" if (refused := self._things.no_place(session.user, ask.id)) is not None:
                out.append((session.id, refused))
            case "take":
                waiter = Waiter(session.id, ask, self._number())
                if gate.take(waiter, self.epoch, self._number, out):
                    session.waiting[waiter.ask.id] = key, waiter
                    self._block(gate, waiter, out)
            case "give":
                gate.give(session.id, Token(ask.spec, ask.number))
                self._pump(key, gate, out)
            case "release" if gate.kind == "semaphore":
                out.append((session.id, gate.give_units(session.id, ask, out)))
                self._pump(key, gate, out)
            case "back" if gate.kind == "semaphore":
                gate.signals += ask.size  # taken by somebody who was interrupted
                self._pump(key, gate, out)
                out.append((session.id, Answer(ask.id, YES)))
            case "wait":
                self._wait_condition(session, key, gate, ask, out, again=again)
            case "notify":
                for notified in gate.notify(ask.text, ask.size, self._number):
                    self._block(gate, notified, out)
                self._pump(key, gate, out)
                out.append((session.id, Answer(ask.id, YES)))
            case "locked":
                hold = gate.holder()
                label = f"{self.sessions[hold.session].label} ({hold.actor})" if hold and hold.session in self.sessions else ""
                epoch, number = hold.token if hold else Token(0, 0)
                out.append((session.id, Answer(ask.id, YES if hold or self.is_shut else NO, number, gate.free + gate.signals, label, b"%d" % epoch)))
            case _:
                out.append((session.id, fault(ask.id, "usage", f"{gate.kind} has no operation {ask.op[:40]}")))

    def _wait_condition(self, session: Session, key: Key, gate: Gate, ask: Ask, out: Out, *, again: bool) -> None:
        waiter = Waiter(session.id, ask, self._number())
        if again:
            gate.turn(waiter)
            self._block(gate, waiter, out)
        elif (answer := gate.wait(waiter, Token(ask.spec, ask.number))) is not None:
            out.append((session.id, answer))
            return
        session.waiting[waiter.ask.id] = key, waiter
        self._pump(key, gate, out)

    def _pump(self, key: Key, gate: Gate, out: Out) -> None:
        before = len(out)
        self._over(gate.pump(self.epoch, self._number, out))
        if gate.kind == "semaphore":
            self._roster.keep(out[before:])
        self._things.settle(key)

    def _block(self, gate: Gate, waiter: Waiter, out: Out) -> None:
        """Note an endless wait; if it closes a circle, the youngest in that is told."""
        found = self._blocked.begin(gate, waiter, lambda session: self.sessions[session].label)
        if found is not None:
            at, victim, text = found
            at.withdraw(victim, self._number)
            self._over([victim])
            out.append((victim.session, fault(victim.ask.id, "deadlock", text)))
            if at is not gate:
                self._pump((self.sessions[victim.session].user, at.kind, at.name), at, out)  # who came after it may have waited for it alone

    # the others

    def _at_flag(self, session: Session, key: Key, flag: Flag, ask: Ask, out: Out) -> None:
        self._use(session, flag)
        if ask.op == "wait" and not flag.is_set and (refused := self._things.no_place(session.user, ask.id)) is not None:
            out.append((session.id, refused))
            return
        if ask.op == "wait":
            waiter = Waiter(session.id, ask, self._number())
            if flag.wait(waiter, out):
                session.waiting[waiter.ask.id] = key, waiter
            return
        if ask.op in ("set", "clear"):
            self._over(flag.change(ask.op == "set", Token(self.epoch, self._number()), out))
        out.append((session.id, Answer(ask.id, YES if flag.is_set else NO, flag.version.number, flag.version.epoch)))

    def _use(self, session: Session, flag: Flag) -> None:
        """Tell the session of changes from now on, if there is room for that; else it does not know of them when a manager is lost."""
        if session.id not in flag.users and self._things.no_place(session.user) is None:
            flag.users[session.id] = None

    def _at_barrier(self, session: Session, key: Key, barrier: Barrier, ask: Ask, out: Out, *, again: bool) -> None:
        refused = barrier.check(ask)
        if ask.op == "wait" and not barrier.lets_go:
            refused = refused or self._things.no_place(session.user, ask.id)
        if refused is not None:
            out.append((session.id, refused))
            return
        match ask.op:
            case "wait":
                waiter = Waiter(session.id, ask, self._number())
                if again:  # of those who came with it some may have been let go: what is left of that round is broken
                    self._over(barrier.break_(out))
                over = barrier.wait(waiter, out)
                if waiter.number in {one.number for one in barrier.waiters()}:
                    session.waiting[waiter.ask.id] = key, waiter
                self._over(over)
                return
            case "acted":
                served = barrier.acted((session.id, ask.actor), out)
                if served is None:
                    out.append((session.id, Answer(ask.id, NO)))
                    return
                self._over(served)
            case "abort":
                self._over(barrier.break_(out))
            case "reset":
                self._over(barrier.reset(out))
        out.append((session.id, Answer(ask.id, NO if barrier.broken else YES, value=len(barrier.waiting))))

    def _at_exchange(self, session: Session, key: Key, exchange: Exchange, ask: Ask, out: Out) -> None:
        if (refused := exchange.check(ask)) is not None:
            out.append((session.id, refused))
            return
        waits: dict[str, Callable[[Waiter, Out], list[Waiter] | None]] = {"put": exchange.put, "get": exchange.get, "join": exchange.join}
        if ask.op in waits:
            waiter = Waiter(session.id, ask, self._number())
            served = waits[ask.op](waiter, out)
            if served is None and (refused := self._things.no_place(session.user, ask.id)) is not None:
                exchange.withdraw(waiter)
                out.append((session.id, refused))
            elif served is None:
                session.waiting[waiter.ask.id] = key, waiter
            self._over(served)
        elif ask.op == "done":
            self._over(exchange.done(session.id, ask, out))
        elif ask.op == "back":
            self._over(exchange.back(session.id, ask, out))
        else:
            out.append((session.id, Answer(ask.id, YES, value=len(exchange.items))))
