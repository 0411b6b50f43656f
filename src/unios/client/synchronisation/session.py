"""Session: what one process holds and waits for at the locks' service, under a lease that a thread in the background renews.

- Any thread asks, and hears its answer itself where nobody else listens: that spares a change of threads. The session's own thread listens while
  several wait, or nobody asks; it renews, and makes the connection again when it breaks: then it says what is held and what is waited for, to the same
  manager or to its successor.
- What is held is trusted for SYNC_HOLD_MS after the last acknowledged renewal was *sent*, by the clock that counts while the machine sleeps. After that
  it is lost, whether or not anybody has said so; each lock that was held says so at its next use (LeaseLost).
- A forked child has a session of its own, which holds nothing. At exit everything is given back.

Never raises in its thread; who waits is told.
"""

import _thread
import contextlib
import math
import secrets
import threading
import time
from typing import Final

from unios.client import ports
from unios.client.connection import Connection
from unios.client.synchronisation import asks, memory
from unios.client.synchronisation.bell import Bell
from unios.client.synchronisation.lease import Lease
from unios.client.synchronisation.line import Broken, Line
from unios.client.synchronisation.pending import OnToken, Pending, ignore
from unios.errors import CallerError, LeaseLost, UniosError
from unios.limits import CLIENT_RECONNECT_MS
from unios.wire.synchronising import (
    PORT,
    YES,
    Answer,
    Ask,
    Bye,
    Held,
    Known,
    Notice,
    Open,
    Opened,
    Over,
    Renew,
    Renewed,
    Token,
    Told,
)

IDLE_S: Final = 30.0
"""A session that holds nothing, waits for nothing and has used no event for so long ends; the next use begins another."""
CONNECT_MS: Final = 5_000
LINGER_S: Final = 0.02
"""So long nobody may have asked anything before the session's thread listens: while threads ask one after the other they do it themselves."""
LINGER_S_MAX: Final = 0.16
"""It looks less and less often while they go on: each look costs a change of threads."""
WITHDRAWN_S: Final = 0.5
"""Who has waited as long as he wanted waits no longer for a service that does not answer; what it still grants goes back."""
RETRY_S: Final = 0.02
"""Before the second attempt to connect; before each further one twice as long, up to the next."""
RETRY_S_MAX: Final = 0.32


class Session:
    """That of this process with one system."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._mutex = threading.Lock()
        self._runs = False
        """The session's thread runs: it says so itself, because who has started it may be interrupted before he knows."""
        self._running = threading.Lock()
        """Held by the session's thread."""
        self._line: Line | None = None
        self._closing = False
        self._listens: dict[bool, int] = {}
        """The thread that listens, at True: `setdefault` decides, and no signal's handler raises between that and its being known."""
        self._wake = Bell()
        """The session's thread is to listen: others wait, or the line has broken."""
        self._asked, self._linger_s = 0, LINGER_S
        self.id = secrets.token_hex(12)
        self.epoch = 0
        self._next = 1
        self._turn = 0
        self._pending: dict[int, Pending] = {}
        self._held: dict[Token, Held] = {}
        self._known: dict[tuple[str, str], Known] = {}
        self._volatile = memory.Volatile()
        self._lease = Lease()
        self._used_s = 0.0

    # what threads ask

    def call(self, ask: Ask, timeout_s: float | None = None, on_token: OnToken = ignore) -> Answer | None:
        """Ask and wait for the answer; None at the timeout, and then nothing was done. Raises what the answer says is wrong."""
        pending = Pending(ask, on_token)
        try:
            self.begin(pending)
            if not self._await(pending, timeout_s):
                self.withdraw(pending)
                if not self._await(pending, None if asks.takes_again(ask) else WITHDRAWN_S):
                    self.abandon(pending)
                    return None
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
        if True in self._listens and self._listens[True] == me:
            raise CallerError("a lock is waited for in a signal's handler that has interrupted another wait")
        if line is not None:
            try:
                if self._listens.setdefault(True, me) == me:
                    self._listen_for(line, pending, until_s)
            finally:
                if True in self._listens and self._listens[True] == me:  # no call up to here: at a call a signal's handler may raise
                    del self._listens[True]
                    if self._pending or line.is_closed:
                        self._wake.ring()
        return pending.wait(None if timeout_s is None else until_s - time.monotonic())

    def _listen_for(self, line: Line, pending: Pending, until_s: float) -> None:
        """Hear what comes, for all, until this has its answer; a line that breaks, or whose listener is interrupted, is made again by the session's thread."""
        try:
            while pending.answer is None and time.monotonic() < until_s:
                for message in line.listen(until_s):
                    self._on(line, message)
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
        with self._mutex:
            self._check_lease()
            self._volatile.check(self._held, ask)
            pending.asked_s = time.monotonic()
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
                if not self._runs:
                    self._start()
                elif self._line is not None:
                    pending.said = True
                    self._line.say(ask)
            except BaseException:
                if self._line is not None:
                    self._line.cut()  # whether it has been said nobody knows: the next connection says it
                    self._wake.ring()
                raise

    def listen(self) -> None:
        """Have the session's thread hear the answers: who has asked does not listen itself."""
        self._wake.ring()

    def withdraw(self, pending: Pending) -> None:
        """Say that it is wanted no more; it will be answered, one way or the other."""
        with self._mutex:
            if pending.answer is not None:
                return
            pending.withdrawn = True
            if self._line is not None:
                self._line.say(asks.withdrawing(pending.ask, for_nobody=False))
            elif not asks.takes_again(pending.ask):
                self._orphan(pending)

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
        with self._mutex:
            pending.abandoned = True
            if pending.token is not None:
                pending.on_token(None)
                pending.token = memory.given_for(self._held, pending.token, pending, self._pending.values())
                self._held.pop(pending.token, None)
            if pending.answer is not None:
                self._put_back(pending, pending.answer)
            elif self._line is not None:
                self._line.say(asks.withdrawing(ask, for_nobody=True))
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
        pending.asked_s, pending.said = time.monotonic(), True
        self._next += 1
        self._pending[pending.ask.id] = pending
        if instead_of in self._pending:  # operators only: neither both are asked nor none
            del self._pending[instead_of]
        if self._line is not None:
            self._line.say(pending.ask)
            self._wake.ring()

    def put_back(self, ask: Ask) -> None:
        """Undo what a question brought whose asker was interrupted when he had its answer already."""
        with self._mutex:
            self._ask_again(ask, 0)

    def give(self, kind: str, name: str, token: Token) -> None:
        """Give back what was granted under a token; LeaseLost if it is not held any more. Waits for nobody. Who is interrupted in it says `let_fall`."""
        with self._mutex:
            self._check_lease()
            held = self._held.pop(token, None)
            if held is None:
                raise LeaseLost(f"{kind} {name} was lost: its lease had ended, and another may hold it")
            if self._line is not None:
                self._line.say(Ask(0, "give", kind, name, spec=token.epoch, number=token.number))

    def holds(self, token: Token) -> bool:
        """Say whether what was granted under that token is held still, as far as this process can know."""
        with self._mutex:
            self._check_lease()
            return token in self._held

    def let_fall(self, kind: str, name: str, token: Token) -> None:
        """Give it back if that has not been done. Idempotent."""
        with self._mutex:
            self._held.pop(token, None)
            if self._line is not None:
                self._line.say(Ask(0, "give", kind, name, spec=token.epoch, number=token.number))

    # the lease

    def _check_lease(self) -> None:
        """Forget what is held if the lease has run out: this process may have been stopped for long."""
        if self._held and self._lease.is_over:
            self._lose("its lease had ended")

    def _lose(self, why: str) -> None:
        """Begin a new session: what was held is lost. Questions that depend on it fail, others are asked again."""
        self.id = secrets.token_hex(12)
        self._volatile.lapsed(self._held)
        self._held.clear()
        for id_, pending in list(self._pending.items()):
            if pending.ask.op == "wait" and pending.ask.kind in ("lock", "barrier"):
                del self._pending[id_]
                pending.fail("lease-lost", f"{pending.ask.kind} {pending.ask.name} was lost: {why}")
        if self._line is not None:
            self._line.cut()
            self._line = None

    # the thread

    def _start(self) -> None:
        """Begin the thread, in one step: a `threading.Thread` whose start is interrupted may never run, or wait for ever for who started it."""
        self._closing = False
        self._used_s = time.monotonic()
        _thread.start_new_thread(self._thread, ())

    def _thread(self) -> None:
        with self._mutex:
            if self._runs or self._closing:
                return
            self._runs = True
        with self._running:
            try:
                self._run()
            except BaseException:
                self._runs = False
                raise

    def _run(self) -> None:
        lost_s, retry_s = time.monotonic(), RETRY_S
        while True:
            try:
                line = self._connect()
            except (UniosError, OSError) as error:
                self._not_connected(error, lost_s)
                if self._ends():
                    return
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
                continue
            self._open(line)
            retry_s = RETRY_S
            with contextlib.suppress(Broken, UniosError, OSError):
                while not self._closing and self._serve(line):
                    pass
            line.close()
            self._line_ended(line)
            lost_s = time.monotonic()
            if (line.said_bye or self._closing) and self._ends():
                return  # else others are told at once, by what is said to be held on the next connection, what has been given back

    def _connect(self) -> Line:
        try:
            return Line(ports.connect_raw(self._connection, PORT, wait_ms=CONNECT_MS))
        finally:
            self._connection.close()

    def _not_connected(self, error: Exception, lost_s: float) -> None:
        """Tell those who wait, if nobody is there who could be waited for, or it has taken too long."""
        if self._connection.anybody() and time.monotonic() - lost_s < CLIENT_RECONNECT_MS / 1000:
            return
        with self._mutex:
            for pending in self._pending.values():
                pending.fail("unavailable", f"the locks cannot be reached: {error}")
            self._pending.clear()
            self._known.clear()
            if self._held:
                self._lose(str(error))

    def _ends(self) -> bool:
        """Whether this thread is needed no more; then it is not the session's any more."""
        with self._mutex:
            idle = not (self._pending or self._held or self._known)
            if self._closing or (idle and (self._line is None or time.monotonic() - self._used_s > IDLE_S)):
                self._runs = False
                return True
        return False

    def _open(self, line: Line) -> None:
        now = time.monotonic()
        with self._mutex:
            self._check_lease()
            asked = [pending for pending in self._pending.values() if pending.answer is None]
            waiting = tuple(asks.waiting(pending, now) for pending in asked)
            held, known = tuple(self._held.values()), tuple(self._known.values())
            self._turn += 1
            self._lease.begin()
            line.say(Open(self.id, memory.label(), memory.linux_process(), held, waiting, known, self._turn))
            for pending in asked:
                pending.said = True
                if pending.abandoned or pending.withdrawn:
                    line.say(asks.withdrawing(pending.ask, for_nobody=pending.abandoned))
            self._line = line

    def _line_ended(self, line: Line) -> None:
        with self._mutex:
            if self._line is line:
                self._line = None
            for id_, pending in list(self._pending.items()):
                if pending.answer is not None:
                    del self._pending[id_]
                    pending.wake()  # who was to do it may have been interrupted
                elif pending.abandoned and not asks.brings(pending.ask):
                    del self._pending[id_]
                elif pending.withdrawn and not asks.takes_again(pending.ask):
                    self._orphan(pending)

    def _serve(self, line: Line) -> bool:
        """Hear what has come if nobody else does, renew when it is time; False when the line is not wanted any more."""
        lingers, self._asked = self._asked != self._next, self._next
        self._linger_s = min(2 * self._linger_s, LINGER_S_MAX) if lingers else LINGER_S
        left_s = self._lease.renew_at_s - time.monotonic()
        me = threading.get_ident()
        woken = self._wake.wait(min(self._linger_s, left_s) if lingers or not self._listens else left_s)
        if (woken or self._next == self._asked) and self._listens.setdefault(True, me) == me:
            try:
                self._listen(line)
            finally:
                del self._listens[True]
        now = time.monotonic()
        if now >= self._lease.renew_at_s:
            with self._mutex:
                if self._held or self._pending or self._known:
                    self._used_s = now
                self._check_lease()
                if self._line is not line or self._lease.is_hung:
                    return False
                if now - self._used_s > IDLE_S:
                    line.said_bye = True
                    line.say(Bye())
                    return False
                line.say(Renew(self._lease.renew(), min(self._pending, default=self._next) - 1))
        return True

    def _listen(self, line: Line) -> None:
        """Hear what comes until it is time to renew, or nobody waits any more who could have come meanwhile."""
        while True:
            heard = False
            for message in line.listen(self._lease.renew_at_s):
                heard = True
                self._on(line, message)
            if (heard and not self._pending) or time.monotonic() >= self._lease.renew_at_s:
                return

    def _on(self, line: Line, message: Told) -> None:
        with self._mutex:
            if self._line is not line:
                return
            if isinstance(message, Answer):
                self._on_answer(message)
            elif isinstance(message, Renewed):
                self._lease.acknowledged(message.number)
            elif isinstance(message, Opened):
                self._on_opened(message)
            elif isinstance(message, Notice):
                self._known[message.kind, message.name] = Known(message.kind, message.name, message.token, message.state)
            elif isinstance(message, Over):
                self._lose(message.text)

    def _on_opened(self, message: Opened) -> None:
        self._lease.acknowledged(0)
        if self.epoch not in (0, message.epoch):
            self._volatile.manager_changed()
            for id_, pending in list(self._pending.items()):
                code = self._volatile.fails(pending.ask)
                if code:
                    del self._pending[id_]
                    if self._line is not None:
                        self._line.say(asks.withdrawing(pending.ask, for_nobody=True))
                    pending.fail(code, f"what {pending.ask.kind} {pending.ask.name} held was lost with the service that kept it")
        self.epoch = message.epoch

    def _on_answer(self, answer: Answer) -> None:
        if answer.number and self._lease.is_over:
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

    # the end

    def close(self) -> None:
        """Give everything back; the next use begins anew. Idempotent."""
        with self._mutex:
            self._closing = True
            line, self._line = self._line, None
            self._held.clear()
            self._known.clear()
            if line is not None:
                line.say(Bye())
                line.cut()
        if self._running.acquire(timeout=1.0):
            self._running.release()

    def let_go(self) -> None:
        """After a fork, in the child: leave the parent's connection to the parent."""
        if self._line is not None:
            self._line.let_go()
