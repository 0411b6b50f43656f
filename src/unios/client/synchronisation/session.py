"""Session: what one process holds and waits for at the locks' service, under a lease that a thread in the background renews (attendant.py).

- Any thread asks, and hears its answer itself where nobody else listens: that spares a change of threads. The attendant listens while several wait, or
  nobody asks; it renews, and makes the connection again when it breaks: then the session says what it holds and waits for, to the same manager or to its
  successor.
- What is held is trusted for SYNC_HOLD_MS after the last acknowledged renewal was *sent*, by the clock that counts while the machine sleeps. After that
  it is lost, whether or not anybody has said so; each lock that was held says so at its next use (LeaseLost). The session goes on as its next
  incarnation: what was asked is asked again, and the manager does nothing twice that it has answered the former.
- A forked child has a session of its own, which holds nothing. At exit everything is given back.
"""

import math
import secrets
import threading
import time
from typing import Final

from unios.client.connection import Connection
from unios.client.synchronisation import asks, memory
from unios.client.synchronisation.attendant import Attendant
from unios.client.synchronisation.later import Later
from unios.client.synchronisation.lease import Lease
from unios.client.synchronisation.line import Broken, Line
from unios.client.synchronisation.pending import OnToken, Pending, ignore
from unios.errors import CallerError, LeaseLost, OutcomeUnknown, UniosError
from unios.limits import CLIENT_RECONNECT_MS
from unios.wire.synchronising import YES, Answer, Ask, Bye, Held, Known, Notice, Open, Opened, Over, Renew, Renewed, Token, Told

IDLE_S: Final = 30.0
"""A session that holds nothing, waits for nothing and has used no event for so long ends; the next use begins another."""
HEARD_BYTES: Final = 4 * 1024 * 1024
"""The manager keeps an answer until it knows that it was heard, which renewals say; after so much of answers it is said at once."""
WITHDRAWN_S: Final = 0.5
"""Who has waited as long as he wanted waits no longer for a service that does not answer; what it still grants goes back."""


class Session:
    """That of this process with one system."""

    def __init__(self, connection: Connection) -> None:
        self._attendant = Attendant(self, connection)
        self.mutex = threading.Lock()
        self._line: Line | None = None
        self.listens: dict[bool, int] = {}
        """The thread that listens, at True: `setdefault` decides, and no signal's handler raises between that and its being known."""
        self.id = secrets.token_hex(12)
        self.epoch = 0
        self._next = 1
        self._turn = self._incarnation = self._opened = 0
        """`_opened`: under which epoch this incarnation was opened last; 0: not yet."""
        self._pending: dict[int, Pending] = {}
        self._held: dict[Token, Held] = {}
        self._known: dict[tuple[str, str], Known] = {}
        self._volatile = memory.Volatile()
        self.lease = Lease()
        self._used_s = 0.0
        self._later = Later()
        self._unheard_bytes = 0
        """Of answers that have come and are not said to have been heard."""
        self._ended: list[str] = []
        """What was said each time that it was not opened, since it was opened last."""

    @property
    def refused(self) -> str:
        """Why the manager does not let it begin; empty if it does, or has only ended an earlier incarnation."""
        return self._ended[-1] if len(self._ended) > 1 else ""

    @property
    def asked(self) -> int:
        """Counts what is asked."""
        return self._next

    @property
    def waits(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self._pending)

    @property
    def is_idle(self) -> bool:
        """Whether it needs no connection."""
        return not self._is_in_use and (self._line is None or time.monotonic() - self._used_s > IDLE_S)

    @property
    def _is_in_use(self) -> bool:
        """Whether something would be lost with it: also what was got from a queue and is not done with counts as done when the session ends."""
        return bool(self._pending or self._held or self._known or self._volatile.has_items)

    # what threads ask

    def call(self, ask: Ask, timeout_s: float | None = None, on_token: OnToken = ignore) -> Answer | None:
        """Ask and wait for the answer; None at the timeout, and then nothing was done. Raises what the answer says is wrong; OutcomeUnknown if no answer
        tells at the timeout whether it was done."""
        pending = Pending(ask, on_token)
        try:
            self.begin(pending)
            if not self._await(pending, timeout_s):
                self.withdraw(pending)
                if not self._await(pending, None if asks.takes_again(ask) else WITHDRAWN_S):
                    return self.give_up(pending)
            return pending.result()
        except BaseException as error:
            if not pending.ask.id and ask.op in asks.GIVES and not isinstance(error, UniosError):
                self.begin(pending)  # a signal's handler has raised: what is given back is given back all the same
            self.abandon(pending)
            raise

    def _await(self, pending: Pending, timeout_s: float | None) -> bool:
        """Wait for the answer, listening for it if nobody listens; False at the timeout."""
        until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        line, me = self._line, threading.get_ident()
        if True in self.listens and self.listens[True] == me:
            raise CallerError("a lock is waited for in a signal's handler that has interrupted another wait")
        if line is not None:
            try:
                if self.listens.setdefault(True, me) == me:
                    self._listen_for(line, pending, until_s)
            finally:
                if True in self.listens and self.listens[True] == me:  # no call up to here: at a call a signal's handler may raise
                    del self.listens[True]
                    if self._pending or line.is_closed:
                        self._attendant.listen()
        return pending.wait(None if timeout_s is None else until_s - time.monotonic())

    def _listen_for(self, line: Line, pending: Pending, until_s: float) -> None:
        """Hear what comes, for all, until this has its answer; a line that breaks, or whose listener is interrupted, is made again by the session's thread."""
        try:
            while pending.answer is None and time.monotonic() < until_s:
                for message in line.listen(until_s):
                    self.on(line, message)
                if self._later:
                    self.say_later(line)
        except (Broken, UniosError, OSError):
            line.cut()
        except BaseException:
            line.cut()
            raise

    def begin(self, pending: Pending) -> None:
        """Ask, without waiting for the answer. DataLost or LeaseLost if what it is about was lost."""
        ask = pending.ask
        if (line := self._line) is not None:
            line.wait_room()
        with self.mutex:
            self._check_lease()
            if self._unheard_bytes >= HEARD_BYTES and self._line is not None:
                self._say_renewed(self._line)
            self._volatile.check(self._held, ask)
            pending.asked_s, pending.late = time.monotonic(), self.lease.is_over
            self._volatile.used(ask)
            gives = Token(ask.spec, ask.number) if asks.takes_again(ask) else None
            if gives is not None and gives not in self._held:
                raise LeaseLost(f"{ask.kind} {ask.name} was lost: its lease had ended, and another may hold it")
            ask = asks.numbered(memory.naming(self._held, ask, self._pending.values()), self._next)
            self._next += 1  # which also says that somebody asks: then the session's thread does not listen
            pending.ask = ask  # operators only from here to `try`: it is asked with all that goes with it, or not at all
            self._pending[ask.id] = pending
            if gives is not None:
                del self._held[gives]
            try:
                if not self._attendant.runs:
                    self._used_s = time.monotonic()
                    self._attendant.start()
                elif self._line is not None and not self._line.said_bye:
                    pending.said = True
                    self._line.say(ask)
            except BaseException:
                if self._line is not None:
                    self._line.cut()  # whether it has been said nobody knows: the next connection says it
                    self._attendant.listen()
                raise

    def listen(self) -> None:
        """Have the session's thread hear the answers: who has asked does not listen itself."""
        self._attendant.listen()

    def withdraw(self, pending: Pending) -> None:
        """Say that it is wanted no more; it will be answered, one way or the other."""
        with self.mutex:
            if pending.answer is not None:
                return
            pending.withdrawn = True
            if self._line is not None:
                self._later.say_withdrawn(self._line, pending, self._pending, for_nobody=False)
            elif not asks.must_tell(pending):
                self._orphan(pending)

    def give_up(self, pending: Pending) -> Answer | None:
        """No answer has come to what was withdrawn, either: go with nothing, None. OutcomeUnknown if it may have been done all the same."""
        self.abandon(pending)
        if not asks.must_tell(pending):
            return None
        if pending.answer is not None:  # it has come just now
            return pending.result()
        raise OutcomeUnknown(
            f"{pending.ask.op} of {pending.ask.kind} {pending.ask.name}: the service of locks has not answered within the timeout, nor "
            f"{WITHDRAWN_S} s later: it may have been done or not, and whoever asked has to find out before doing it again"
        )

    def abandon(self, pending: Pending) -> None:
        """Who asked was interrupted, or refused before anything was asked: nothing of what it asked for is kept. What takes nothing is done all the same."""
        ask = pending.ask
        if not ask.id or ask.op not in asks.TAKES:
            return
        if asks.takes_again(ask):
            self.withdraw(pending)
            self.listen()
            pending.wait(None)  # as `threading` has it: who leaves the wait holds the lock
            return
        with self.mutex:
            pending.abandoned = True
            if pending.token is not None:
                pending.on_token(None)
                pending.token = memory.given_for(self._held, pending.token, pending, self._pending.values())
                self._held.pop(pending.token, None)
            if pending.answer is not None:
                self._volatile.returned(pending.ask, pending.answer)
                self._put_back(pending, pending.answer)
            elif self._line is not None:
                self._later.say_withdrawn(self._line, pending, self._pending, for_nobody=True)
            elif not asks.brings(ask):
                self._pending.pop(ask.id, None)

    def _orphan(self, pending: Pending) -> None:
        """Let who asked go with nothing; what the question may have brought by now is put back."""
        if asks.brings(pending.ask):
            left = Pending(pending.ask)
            left.asked_s, left.said, left.abandoned = pending.asked_s, pending.said, True
            self._pending[pending.ask.id] = left
        else:
            self._pending.pop(pending.ask.id, None)
        pending.refuse()

    def _put_back(self, pending: Pending, answer: Answer) -> None:
        """Give back what came for somebody who is not there any more."""
        undoing = asks.undoing(pending.ask, answer)
        if undoing is not None:
            self._ask_again(undoing, pending.ask.id)
        elif (
            pending.token is not None and self._line is not None
        ):  # without, what is not said to be held when there is a connection again is free then
            self._line.say(asks.giving(pending.ask, pending.token))
        self._pending.pop(pending.ask.id, None)

    def _ask_again(self, ask: Ask, instead_of: int) -> None:
        """Ask in place of another question, on this connection or the next, whether or not anybody waits for it."""
        pending = Pending(asks.numbered(ask, self._next))
        pending.asked_s, pending.said = time.monotonic(), self._line is not None
        self._next += 1
        self._pending[pending.ask.id] = pending
        if instead_of in self._pending:  # operators only: neither both are asked nor none
            del self._pending[instead_of]
        if self._line is not None:
            self._line.say(pending.ask)
            self._attendant.listen()

    def put_back(self, ask: Ask) -> None:
        """Undo what a question brought whose asker was interrupted when he had its answer already."""
        with self.mutex:
            self._volatile.returned(ask)
            self._ask_again(ask, 0)

    def give(self, kind: str, name: str, token: Token) -> None:
        """Give back what was granted under a token; LeaseLost if it is not held any more. Waits for nobody. Who is interrupted in it says `let_fall`."""
        with self.mutex:
            self._check_lease()
            held = self._held.pop(token, None)
            if held is None:
                raise LeaseLost(f"{kind} {name} was lost: its lease had ended, and another may hold it")
            if self._line is not None:
                self._line.say(Ask(0, "give", kind, name, spec=token.epoch, number=token.number))

    def holds(self, token: Token) -> bool:
        """Say whether what was granted under that token is held still, as far as this process can know."""
        with self.mutex:
            self._check_lease()
            return token in self._held

    def let_fall(self, kind: str, name: str, token: Token) -> None:
        """Give it back if that has not been done. Idempotent."""
        with self.mutex:
            self._held.pop(token, None)
            if self._line is not None:
                self._line.say(Ask(0, "give", kind, name, spec=token.epoch, number=token.number))

    # the lease

    def _check_lease(self) -> None:
        """Forget what is held if the lease has run out: this process may have been stopped for long."""
        if self._held and self.lease.is_over:
            self._lose("its lease had ended")

    def _lose(self, why: str) -> None:
        """Go on as the next incarnation: what was held is lost. Questions that depend on it fail, others are asked again; what was being given back has gone
        back either way."""
        self._incarnation, self._opened = self._incarnation + 1, 0
        self._lose_given_back()
        self._volatile.lapsed(self._held)
        self._held.clear()
        for id_, pending in list(self._pending.items()):
            if pending.ask.op == "wait" and pending.ask.kind in ("lock", "barrier"):
                del self._pending[id_]
                pending.fail("lease-lost", f"{pending.ask.kind} {pending.ask.name} was lost: {why}")
        if self._line is not None:
            self._line.cut()
            self._line = None

    def _lose_given_back(self) -> None:
        """Units whose release is under way, and items that are being said to be done with: they have gone back with the lease if they had not before. An item
        of which that is said only after the lease had ended was lost. Only what was released beyond them is asked again."""
        for id_, pending in [(id_, pending) for id_, pending in self._pending.items() if pending.answer is None]:
            left = self._volatile.without_done(pending.ask)
            if pending.ask.op == "release":
                kept = memory.without_units(self._held, pending.ask)
                left = pending.ask.size - memory.units(self._held) + memory.units(kept)
                self._held = kept
            if left:
                pending.ask = memory.naming_none(pending.ask, left)
            elif pending.late and pending.ask.op == "done":  # what is held is looked at before anything is asked
                del self._pending[id_]
                pending.fail("lease-lost", memory.item_lost(pending.ask.name))
            else:
                del self._pending[id_]
                pending.settle(Answer(id_, YES))

    # the thread

    def not_connected(self, error: Exception, since_s: float, anybody: bool) -> None:
        """Tell those who wait, if there is not `anybody` who could be waited for, or it has taken too long."""
        if anybody and since_s < CLIENT_RECONNECT_MS / 1000:
            return
        with self.mutex:
            for pending in self._pending.values():
                if asks.leaves_trace(pending.ask) and pending.said:
                    text = f"{pending.ask.op} of {pending.ask.kind} {pending.ask.name} may have been done or not: the locks cannot be reached any more: {error}"
                    pending.fail("outcome-unknown", text)
                else:
                    pending.fail("unavailable", f"the locks cannot be reached: {error}")
            self._pending.clear()
            self._known.clear()
            if self._held:
                self._lose(str(error))

    def open(self, line: Line) -> None:
        """Say on a new connection what is held and waited for."""
        now = time.monotonic()
        with self.mutex:
            self._check_lease()
            asked = [pending for pending in self._pending.values() if pending.answer is None]
            waiting = tuple(asks.waiting(pending, now) for pending in self._later.begin(asked))
            held, known = tuple(self._held.values()), tuple(self._known.values())
            self._turn += 1
            self.lease.begin()
            about = (self.id, memory.label(), memory.linux_process())
            line.say(Open(*about, held, waiting, known, self._turn, self._incarnation, self._opened, self._later.ids))
            for pending in asked:
                pending.said = pending.said or pending.ask.id not in self._later
                if pending.abandoned or pending.withdrawn:
                    self._later.say_withdrawn(line, pending, self._pending, for_nobody=pending.abandoned)
            self._line = line

    def say_later(self, line: Line) -> None:
        """Say what else waits, as far as the service takes it in."""
        with self.mutex:
            if self._line is line:
                self._later.say(line, self._pending)

    def line_ended(self, line: Line) -> None:
        with self.mutex:
            if self._line is line:
                self._line = None
                self._later.end()
            for id_, pending in list(self._pending.items()):
                if pending.answer is not None:
                    del self._pending[id_]
                    pending.wake()  # who was to do it may have been interrupted
                elif pending.abandoned and not asks.brings(pending.ask):
                    del self._pending[id_]
                elif pending.withdrawn and not asks.must_tell(pending):
                    self._orphan(pending)

    def renew(self, line: Line) -> bool:
        """Say that it lives, or that it ends; False when the line is not wanted any more."""
        with self.mutex:
            now = time.monotonic()
            if self._is_in_use:
                self._used_s = now
            self._check_lease()
            if self._line is not line or self.lease.is_hung:
                return False
            if now - self._used_s > IDLE_S:
                self._say_bye(line)
                return False
            self._say_renewed(line)
        return True

    def _say_renewed(self, line: Line) -> None:
        self._unheard_bytes = 0
        line.say(Renew(self.lease.renew(), min(self._pending, default=self._next) - 1))

    def _say_bye(self, line: Line) -> None:
        line.said_bye = True  # nothing more is said on it
        line.say(Bye())
        self._incarnation, self._opened = self._incarnation + 1, 0

    def on(self, line: Line, message: Told) -> None:
        with self.mutex:
            if self._line is not line:
                return
            if isinstance(message, Answer):
                self._on_answer(message)
            elif isinstance(message, Renewed):
                self.lease.acknowledged(message.number)
            elif isinstance(message, Opened):
                self._on_opened(message)
            elif isinstance(message, Notice) and message.kind == "semaphore":
                self._held = memory.with_units_left(self._held, message.token, message.state)
            elif isinstance(message, Notice):
                self._known[message.kind, message.name] = Known(message.kind, message.name, message.token, message.state)
            elif isinstance(message, Over):
                self._ended = [*self._ended[-1:], message.text]
                self._lose(message.text)

    def _on_opened(self, message: Opened) -> None:
        self.lease.acknowledged(0)
        self._opened = message.epoch
        self._ended.clear()
        if 0 < self.epoch < (message.since or message.epoch):
            self._volatile.manager_changed()
            for id_, pending in list(self._pending.items()):
                code = self._volatile.fails(pending.ask)
                if code:
                    del self._pending[id_]
                    if self._line is not None:
                        self._later.say_withdrawn(self._line, pending, self._pending, for_nobody=True)
                    pending.fail(code, f"what {pending.ask.kind} {pending.ask.name} held was lost with the service that kept it")
        self.epoch = message.epoch

    def _on_answer(self, answer: Answer) -> None:
        if answer.number and self.lease.is_over:
            self._lose("its lease had ended")  # the grant was too long on its way; what was asked is asked again
            return
        pending = self._pending.get(answer.id)
        if pending is None or pending.answer is not None:
            return
        ask = pending.ask
        if answer.outcome == YES and (ask.op == "take" or asks.takes_again(ask)):
            pending.token = Token(self.epoch, answer.number)
        if pending.abandoned:  # what goes back is held at no moment
            self._put_back(pending, answer)
            return
        self._unheard_bytes += len(answer.data)
        held = self._held
        if pending.token is not None:
            pending.on_token(pending.token)
            if (taken := memory.taken(ask, pending.token, answer.value)) is not None:
                held[pending.token] = taken
        elif answer.outcome == YES and ask.op == "release":
            held = memory.without_units(held, ask)
            if answer.value:
                self._volatile.signalled(ask)
        if ask.kind == "event" and ask.op != "wait":
            self._known[ask.kind, ask.name] = Known(ask.kind, ask.name, Token(answer.value, answer.number), int(answer.outcome == YES))
        self._held = held  # operators only from here to the answer: who listens may be interrupted, and then it is told once more
        pending.answer = answer
        pending.wake()
        self._pending.pop(answer.id, None)
        if answer.outcome == YES and ask.kind == "queue":
            self._volatile.answered(ask)

    # the end

    def close(self) -> None:
        """Give everything back; the next use begins anew. Idempotent."""
        with self.mutex:
            self._attendant.closing = True
            line, self._line = self._line, None
            self._volatile.lapsed(self._held)
            self._held.clear()
            self._known.clear()
            if line is not None:
                self._say_bye(line)
                line.cut()
        self._attendant.wait(1.0)

    def let_go(self) -> None:
        """After a fork, in the child: leave the parent's connection to the parent."""
        if self._line is not None:
            self._line.let_go()
