"""Engine: the one thread of an executor that talks to parents and workers, and carries out what `core.tasks` decides.

Whoever submits puts what is to be done into the inbox; nothing else is shared. Business with the kernel is the steward's.
"""

import contextlib
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from unios.client.listening import Listener
from unios.client.tasks import proofs
from unios.client.tasks.calls import Call, no_room
from unios.client.tasks.cargo import PARTING_S, bytes_at
from unios.client.tasks.future import TaskFuture
from unios.client.tasks.line import Line
from unios.client.tasks.losses import ExecutorBroken, loss_of, why
from unios.client.tasks.members import Forker, Member
from unios.client.tasks.switchboard import Switchboard
from unios.client.tasks.values import unpack_failure
from unios.client.tasks.withdrawals import Withdrawals
from unios.core import task_orders
from unios.core.crews import Crew
from unios.core.task_orders import Loss
from unios.core.tasks import Tasks
from unios.errors import ProtocolError, Unavailable
from unios.limits import HOSTAGE_MS, TASK_CANCEL_MS, TASKS_UNFINISHED_MAX, TASKS_WAITING_BYTES_MAX, WORKERS_MAX
from unios.wire import parcels
from unios.wire.operations import Accepted
from unios.wire.parcels import Part, sizes_of

_GRACE_S: Final = 1.0
"""So long what a worker has said before it ended may be under way."""


class Engine:
    """That of one executor. `inquire(crew)`: find out how it ended and post `crew_told`; `hire(plan)`: have another; `listen()`: open the port again."""

    def __init__(
        self, *, workers: int | None, user: str, secret: bytes, setup: list[Part], initializer: list[Part], refs: Sequence[Any] = ()
    ) -> None:
        self._user, self._secret, self._setup, self._initializer = user, secret, setup, initializer
        self._refs = refs
        """Those that the initializer has with it: any worker may still come to need them."""
        self.tasks = Tasks(workers_max=workers or WORKERS_MAX, workers_bound=WORKERS_MAX, hostage_ms=HOSTAGE_MS)
        self.inbox: deque[tuple[Callable[..., None], Any]] = deque()
        self._calls: dict[int, Call] = {}
        self._ids = itertools.count(1)
        self._members: dict[int, Member] = {}
        self._parents: dict[int, Forker] = {}
        self._board = Switchboard()
        self._listener: Listener | None = None
        self._asleep = False
        self._now_ms = 0
        self.held_bytes = 0
        self.room = threading.Condition(threading.RLock())
        self._waiters = 0
        self._parting: deque[tuple[float, Sequence[Any]]] = deque()
        """References of calls that have ended, and until when they are kept: the word of a worker that keeps one as well may be under way."""
        self._inner: dict[tuple[int, int], int] = {}
        """Calls that tasks have submitted, by worker and number."""
        self._withdrawals = Withdrawals()
        self.broken: ExecutorBroken | None = None
        self.stopping = self.forked = False
        self.over = False
        self.known = threading.Event()
        """Whether it is known how many workers there are to be."""
        self.told: set[int] = set()
        """Crews that have been told to end."""
        self.thread: threading.Thread | None = None
        self.inquire: Callable[[int], None] = lambda _crew: None
        self.hire: Callable[[Crew], None] = lambda _plan: None
        self.listen: Callable[[], None] = lambda: None
        self.done: Callable[[], None] = lambda: None

    # from any thread

    def post(self, what: Callable[..., None], *about: Any) -> None:
        """Have the thread do something."""
        self.inbox.append((what, about))
        if self._asleep:
            self._asleep = False
            self._board.wake()

    def submit(self, call: Call) -> None:
        """Take a call in; waits while there are too many, but not in the engine's own thread."""
        if self._is_full() and threading.current_thread() is not self.thread:
            with self.room:
                self._waiters += 1
                while self._is_full() and not self.over:
                    self.room.wait(0.1)
                self._waiters -= 1
        id_ = next(self._ids)
        if call.future is not None:
            call.future.bind(id_, self)
        self.post(self._submitted, id_, call)
        if self.over:
            self._abandon()

    def _is_full(self) -> bool:
        return len(self._calls) + len(self.inbox) >= TASKS_UNFINISHED_MAX or self.held_bytes >= TASKS_WAITING_BYTES_MAX

    def withdrawn(self, future: TaskFuture) -> None:
        """That of `Keeper`, as the next two."""
        self.post(self._cancel, future.id)

    def disowned(self, future: TaskFuture) -> None:
        self.post(self._disown, future.id)

    forgone = withdrawn

    def take_back(self, future: TaskFuture) -> None:
        if self.forked or self.over or threading.current_thread() is self.thread:
            return  # it cannot wait for itself: what lies ahead counts as begun here
        decided = self._withdrawals.awaited(future.id)
        self.post(self._cancel, future.id)
        if self.over:
            self._withdrawals.end()
        decided.wait(TASK_CANCEL_MS / 1000)

    # the thread

    def run(self) -> None:
        """Work until the executor is shut down and everything is done."""
        try:
            while not self._is_done():
                self._turn()
        except BaseException as error:
            self.broken = ExecutorBroken(f"a defect of unios ended the executor: {type(error).__name__}: {error}")
            raise
        finally:
            self._close()

    def _is_done(self) -> bool:
        return self.stopping and not self.inbox and (not self.tasks.unfinished or self.broken is not None)

    def _turn(self) -> None:
        self._board.flush()
        self._asleep = True
        patience = -1.0
        if self.inbox:
            patience = 0
        elif self.tasks.hostages or self._withdrawals:
            patience = HOSTAGE_MS / 1000
        elif any(member.gone is not None for member in self._members.values()):
            patience = 0.1
        elif self._parting:
            patience = max(0.0, self._parting[0][0] - time.monotonic())
        ready = self._board.wait(patience)
        self._asleep = False
        self._now_ms = time.monotonic_ns() // 1_000_000
        for descriptor, mask in ready:
            if self._listener is not None and descriptor == self._listener.fileno():
                self._accept(self._listener)
            else:
                self._board.serve(descriptor, mask)
        inbox = self.inbox
        for _ in range(len(inbox)):
            what, about = inbox.popleft()
            what(*about)
        if self.tasks.hostages:
            self._carry_out(self.tasks.passed(self._now_ms))
        self._withdrawals.expire()
        self._bury()
        while self._parting and self._parting[0][0] <= time.monotonic():
            self._parting.popleft()

    # connections

    def listening(self, listener: Listener) -> None:
        """Posted by the steward: the port is open."""
        self._listener = listener
        self._board.watch(listener.fileno())

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                accepted = listener.accept()
            except BlockingIOError:
                return
            if accepted is None:
                self._board.unwatch(listener.fileno())
                listener.close()
                self._listener = None
                self.listen()
                return
            self._greet(*accepted)

    def _greet(self, stamp: Accepted, sock: socket.socket) -> None:
        line = Line(sock)
        if stamp.user != self._user and not stamp.privileged:
            line.end()
            return
        self._board.add(line, lambda head, _parts: self._welcome(line, head), lambda: None)

    def _welcome(self, line: Line, head: parcels.Head) -> None:
        parent = self._parents.get(head.crew) if isinstance(head, parcels.Hello) else None
        if not isinstance(head, parcels.Hello) or parent is None:
            self._board.drop(line)
            return
        member = self._members.get(head.worker) if head.worker else None
        known = proofs.same(head.proof, proofs.of_worker(self._secret, head.nonce, head.crew, head.worker))
        if not known or (head.worker and (member is None or member.crew != head.crew or member.line)) or (not head.worker and parent.line):
            self._board.drop(line)
            return
        proof, crew = proofs.of_caller(self._secret, head.nonce), head.crew
        if member is None:
            parent.line, parent.node = line, head.node
            self._board.add(line, lambda head, _parts: self._on_parent(crew, head), lambda: self._parent_over(crew))
            self._board.say(line, parcels.Welcome(sizes_of(self._setup), proof), self._setup)
        else:
            member.line = line
            self._board.add(line, lambda head, parts: self._on_worker(member, head, parts), lambda: self._worker_over(member))
            self._board.say(line, parcels.Welcome(sizes_of(self._initializer), proof), self._initializer)

    def sized(self, workers: int) -> None:
        """Posted by the steward: so many may be at work."""
        self.tasks.workers_max = min(workers, WORKERS_MAX)
        self.known.set()

    # crews

    def hired(self, crew: int, plan: Crew) -> None:
        """Posted by the steward: a crew is being started."""
        self._parents[crew] = Forker(plan)
        self.tasks.crew_hired(crew, plan.seats)

    def dismissed(self, crew: int) -> None:
        """Posted by the steward: it is not started after all."""
        self._parents.pop(crew, None)
        self.tasks.crew_dismissed(crew)

    def _on_parent(self, crew: int, head: parcels.Head) -> None:
        if isinstance(head, parcels.Ready):
            self._carry_out(self.tasks.crew_ready(crew, self._parents[crew].node))
        elif isinstance(head, parcels.Barred):
            self._carry_out(self.tasks.barred(head.worker, head.turn, head.begun, self._now_ms))
        elif isinstance(head, parcels.Gone):
            member = self._members.get(head.worker)
            if member is not None:
                member.gone, member.gone_at = head, time.monotonic()

    def _parent_over(self, crew: int) -> None:
        parent = self._parents.get(crew)
        if parent is not None and not parent.lost:
            parent.lost, parent.line = True, None
            self.inquire(crew)

    def crew_told(self, crew: int, loss: Loss) -> None:
        """Posted by the steward: that crew has ended, and how."""
        parent = self._parents.get(crew)
        if parent is None:
            return
        self.tasks.crew_ends(crew)
        for member in [member for member in self._members.values() if member.crew == crew]:
            self._hear_out(member)  # and what follows from it may concern any of them, and the crew
        if parent.line is not None:
            self._board.drop(parent.line)
        del self._parents[crew]
        self._members = {id_: member for id_, member in self._members.items() if member.crew != crew}
        orders = self.tasks.crew_gone(crew, loss, now_ms=self._now_ms)
        self._carry_out(orders, plan=parent.plan)

    # workers

    def _on_worker(self, member: Member, head: parcels.Head, parts: list[Part]) -> None:
        if isinstance(head, parcels.Answer):
            task, orders = self.tasks.finished(member.id, head.turn, self._now_ms)
            if task:
                self._end(task).heard(head, parts)
            self._carry_out(orders)
        elif isinstance(head, parcels.Submit):
            id_ = next(self._ids)
            body, answer = bytes(parts[0]) if parts else b"", lambda head, parts: self._board.say(member.line, head, parts)
            call = Call(None, head.function, body, parts[1:], head.many, head.retries, owner=(answer, head.number), own_bytes=len(body))
            call.parent, call.worker = self.tasks.running(member.id), member.id
            if not parts:
                call.failed(no_room("the function and its arguments", head))
            elif self._is_full():
                call.failed(Unavailable(f"{TASKS_UNFINISHED_MAX} tasks of this executor, or too many bytes of arguments, have not ended"))
            else:
                self._inner[member.id, head.number] = id_
                self._submitted(id_, call)
        elif isinstance(head, parcels.Withdraw):
            self._withdraw(self._inner.get((member.id, head.number), 0))
        elif isinstance(head, parcels.Refused):
            self._carry_out(self.tasks.refused(member.id, head.turn, self._now_ms))
        elif isinstance(head, parcels.Ready):
            if head.sizes:
                failure = unpack_failure(parts)
                self.fail(f"the initializer failed in a worker: {type(failure).__name__}: {failure}", failure)
            else:
                self._carry_out(self.tasks.worker_ready(member.id, self._now_ms))

    def _worker_over(self, member: Member) -> None:
        member.line = None
        parent = self._parents.get(member.crew)
        if parent is not None and not parent.lost and member.gone is None:
            self._board.say(parent.line, parcels.Kill((), member.id))  # it cannot be reached: it shall not go on

    def _hear_out(self, member: Member) -> None:
        """Take in what a worker that has ended said before."""
        line = member.line
        if line is None:
            return
        try:
            while not line.over and (heard := line.receive()):
                for head, parts in heard:
                    self._on_worker(member, head, parts)
        except ProtocolError:
            pass
        if member.line is not None:
            self._board.drop(line)
            member.line = None

    def _bury(self) -> None:
        """See to the workers that have ended and of which nothing more is to come."""
        dead = [member for member in self._members.values() if member.gone is not None]
        for member in dead:
            if member.line is not None and time.monotonic() - member.gone_at < _GRACE_S:
                continue
            self._hear_out(member)
            assert member.gone is not None
            parent = self._parents.get(member.crew)
            del self._members[member.id]
            loss = loss_of(member.gone, parent.node if parent else "")
            self._carry_out(self.tasks.worker_gone(member.id, loss, begun=member.gone.begun, now_ms=self._now_ms))

    # tasks

    def _submitted(self, id_: int, call: Call) -> None:
        if self.broken is not None:
            call.failed(why(self.broken))
            return
        self._calls[id_] = call
        self.held_bytes += call.size
        self._carry_out(self.tasks.submitted(id_, retries=call.retries, parent=call.parent, now_ms=self._now_ms, bytes_at=bytes_at(call.refs)))

    def _cancel(self, task: int) -> None:
        if task in self._calls:
            self._carry_out(self.tasks.cancelled(task))
        if task not in self._calls or not self.tasks.ahead(task):
            self._withdrawals.decided(task)

    def _withdraw(self, task: int) -> None:
        """The task that has submitted one wants it cancelled."""
        call = self._calls.get(task)
        if call is None:
            return  # its answer is on the way
        self._withdrawals.asked(task, call)
        self._disown(task)
        self._cancel(task)

    def _disown(self, task: int) -> None:
        """Nobody waits for a task any more, if it has begun."""
        worker, turn = self.tasks.at_work_on(task)
        parent = self._parents.get(self._members[worker].crew) if worker in self._members else None
        self._board.say(parent.line if parent else None, parcels.Unwanted((), worker, turn))

    def clear(self) -> None:
        """Posted: cancel what waits."""
        for call in self._calls.values():
            call.let_go()
        self._carry_out(self.tasks.cleared())

    def _end(self, task: int, *, cancelled: bool = False) -> Call:
        call = self._calls.pop(task)
        if call.owner is not None:
            self._inner.pop((call.worker, call.owner[1]), None)
        self.held_bytes -= call.size
        if call.refs:
            self._parting.append((time.monotonic() + PARTING_S, call.refs))
        if self._waiters:
            with self.room:
                self.room.notify_all()
        if self._withdrawals:
            self._withdrawals.decided(task, cancelled=cancelled)
        return call

    def _drop(self, task: int) -> None:
        """End a task that was cancelled and has not begun; one that goes on after all is given again."""
        call = self._calls[task]
        if call.may_go():
            self._end(task, cancelled=True).dropped()
        else:
            again = self.tasks.submitted(
                task, retries=call.retries, parent=call.parent, now_ms=self._now_ms, bytes_at=bytes_at(call.refs), first=True
            )
            self._carry_out(again)

    def _carry_out(self, orders: list[task_orders.Order], plan: Crew | None = None) -> None:
        at = 0
        while at < len(orders):
            order = orders[at]
            at += 1
            if isinstance(order, task_orders.Give):
                if not self._give(order):
                    orders += self.tasks.unsent(order.worker, order.turn, self._now_ms)
            elif isinstance(order, task_orders.Begun):
                if order.task in self._calls:  # else it was cancelled before it was sent
                    self._calls[order.task].begun()
                    self._withdrawals.decided(order.task)
            elif isinstance(order, task_orders.Retire):
                self._board.say(self._members[order.worker].line, parcels.Stop())
            elif isinstance(order, task_orders.Waits):
                self._calls[order.task].waits()
            elif isinstance(order, task_orders.Bar):
                parent = self._parents.get(self._members[order.worker].crew)
                self._board.say(parent.line if parent else None, parcels.Bar((), order.worker, order.turn))
            elif isinstance(order, task_orders.Fork):
                self._members[order.worker] = Member(order.worker, order.crew)
                self._board.say(self._parents[order.crew].line, parcels.Fork((), order.worker))
            elif isinstance(order, task_orders.Drop):
                self._drop(order.task)
            elif isinstance(order, task_orders.Fail):
                call = self._end(order.task)
                call.failed(why(self.broken) if self.broken is not None else call.lost(order.loss))
            elif isinstance(order, task_orders.Hire):
                if plan is not None and not self.stopping:
                    self.hire(plan)
            elif isinstance(order, task_orders.Break):
                self.broken = self.broken or ExecutorBroken(order.text)
                self.stopping = True  # what is left of the workers ends

    def _give(self, order: task_orders.Give) -> bool:
        """Send a call to a worker; False if it was cancelled before."""
        call, member = self._calls[order.task], self._members[order.worker]
        if not (call.begun() if order.begun else call.lies_ahead()):
            return False
        fresh = call.function not in member.shipped
        parts = call.parts
        if fresh:
            member.shipped.put(call.function, None)
            parts = [call.body, *parts]
        line = member.line
        if line is not None:
            self._board.say(line, parcels.Give(tuple(map(len, parts)), order.turn, call.function, fresh, call.many), parts)
        return True

    # the end

    def fail(self, text: str, cause: BaseException | None = None) -> None:
        """Posted, or called here: nothing can go on. Idempotent."""
        if self.broken is None:
            self.broken = ExecutorBroken(text)
            self.broken.__cause__ = cause
            self._carry_out(self.tasks.broke(text))

    def kill(self) -> None:
        """Posted, after `clear`: end now. What runs fails."""
        self.fail("its workers were killed, since the program asked for that")
        for member in self._members.values():
            self._board.say(self._parents[member.crew].line, parcels.Kill((), member.id))

    def stop(self) -> None:
        """Posted: end when everything is done."""
        self.stopping = True

    def _close(self) -> None:
        self.over = True
        for member in self._members.values():
            self._board.say(member.line, parcels.Stop())
            if member.line is None:  # it is being started
                self._board.say(self._parents[member.crew].line, parcels.Kill((), member.id))
        for crew, parent in self._parents.items():
            if parent.line is not None:
                self._board.say(parent.line, parcels.Stop())
                self.told.add(crew)
        for call in self._calls.values():
            with contextlib.suppress(RuntimeError):  # it was cancelled
                call.failed(why(self.broken))
        self._calls.clear()
        self._withdrawals.end()
        self._parting.clear()
        self._refs = ()
        self._abandon()
        with self.room:
            self.room.notify_all()
        self._board.flush_now()
        self.done()

    def _abandon(self) -> None:
        """Fail what came too late; from any thread."""
        with self.room:
            while self.inbox:
                what, about = self.inbox.popleft()
                if what == self._submitted:
                    about[1].failed(why(self.broken))

    def release(self, *, end: bool = True) -> None:
        """Close every descriptor; with `end` the connections end for the others too (not in a fork of the process, which holds copies)."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._board.close(end=end)
