"""Tasks: which worker gets which task, and what a loss means for it. Decides only: an event goes in, orders come out.

A crew is what one process of the system has of workers; it forks them. A task is given to a worker that has nothing to do, else it lies ahead of what
a worker has begun, so that no round trip is waited for; it can be taken back (barred) until it has begun.

Invariants: a task ends once, by `finished`, `Fail` or a successful `cancelled`. A task that may have begun is given again only while it has retries left,
one that has not begun always, unless it is what ends the workers. No worker is without work while a task waits and fewer than `workers_max` are at work. A
worker has a task ahead only if all that may work do. A worker whose task waits for tasks that it has submitted does not count as at work: others go on in its
stead, so nothing waits in a ring. Tasks begin in the order in which they came, but for those that refer to objects: they go where these are, if they can.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from unios.core.task_orders import Bar, Begun, Break, Drop, Fail, Fork, Give, Hire, Loss, Order, Retire, Waits
from unios.core.task_states import CrewState, TaskState, WorkerState

FRUITLESS_MAX: Final = 5
"""So many workers, or crews, in a row that ended before they were ready: then it is no accident. A crew is ready when one of its workers has been."""
LOOK_MAX: Final = 16
"""So far from the front of the queue a task is looked for whose data are where a worker is free, when those of the first are not."""
OVERTAKEN_MAX: Final = 64
"""So often the first may be overtaken by such a one."""
UNBEGUN_MAX: Final = 3
"""So many workers that ended before they began the first task that they had: then it is the task, which is too much for them to take in."""


class Tasks:
    """Those of one executor."""

    def __init__(self, *, workers_max: int, workers_bound: int, hostage_ms: int) -> None:
        """`workers_max`: at work at a time. `workers_bound`: all, with those whose tasks wait for others. `hostage_ms`: so long a task lies ahead of one that
        goes on while another worker has nothing to do."""
        self.workers_max, self._workers_bound, self._hostage_ms = workers_max, workers_bound, hostage_ms
        self.each_max: int | None = None
        """So many tasks a worker has in its life; None: as many as come."""
        self._tasks: dict[int, TaskState] = {}
        self._queue: deque[TaskState] = deque()
        self._workers: dict[int, WorkerState] = {}
        self._crews: dict[int, CrewState] = {}
        self._idle: dict[int, WorkerState] = {}
        self._roomy: dict[int, WorkerState] = {}
        """Those at work with nothing ahead."""
        self._working = self._blocked = self._starting = 0
        """Workers with a task that does not wait for its own; with one that does; not ready yet."""
        self._seats = 0
        """Of the crews that are ready."""
        self._left_out = 0
        """Tasks in the queue that were cancelled."""
        self._turn = self._worker_id = 0
        self._fruitless_workers = self._fruitless_crews = 0
        self.broken = ""

    # what there is

    @property
    def unfinished(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        return len(self._queue) - self._left_out

    @property
    def hostages(self) -> bool:
        """Whether a task lies ahead while some worker has nothing to do, so that `passed` is to be told."""
        return bool(self._idle) and any(len(worker.slots) > 1 for worker in self._workers.values())

    def ahead(self, task: int) -> bool:
        """Whether a task lies ahead of another."""
        found = self._tasks.get(task)
        return found is not None and found.worker != 0 and self._workers[found.worker].slots[0] is not found

    def running(self, worker: int) -> int:
        """Return the task that a worker has begun; 0 for none."""
        held = self._workers.get(worker)
        return held.slots[0].id if held is not None and held.slots else 0

    def at_work_on(self, task: int) -> tuple[int, int]:
        """Return the worker that has begun a task, and the turn; 0 and 0 if none has."""
        found = self._tasks.get(task)
        return (found.worker, found.turn) if found is not None and found.worker and found.begun else (0, 0)

    # tasks

    def submitted(
        self, task: int, *, retries: int = 0, parent: int = 0, now_ms: int = 0, bytes_at: Mapping[str, int] | None = None, first: bool = False
    ) -> list[Order]:
        """A task has come; `parent`: the running one that submitted it, 0 for none. `bytes_at`: how much of the objects that it refers to is on which node;
        `first`: it was dropped just now, and goes on after all."""
        orders: list[Order] = []
        if self.broken:
            return [Fail(task, Loss("died", self.broken))]
        mine = self._tasks[task] = TaskState(task, retries, parent, bytes_at)
        above = self._tasks.get(parent) if parent else None
        if above is not None:
            self._queue.appendleft(mine)  # depth first: fewer wait for each other
            above.children += 1
            if above.children == 1:
                self._block(above, orders)
        else:
            mine.parent = 0
            (self._queue.appendleft if first else self._queue.append)(mine)
        self._fill(orders, now_ms)
        return orders

    def cancelled(self, task: int) -> list[Order]:
        """A task shall not run. If it waits it is dropped; if it lies ahead it is barred and dropped then; if it has begun, even once, nothing happens."""
        found = self._tasks.get(task)
        orders: list[Order] = []
        if found is None or found.lost is not None:
            return orders
        if not found.worker:
            if not found.cancelled:
                found.cancelled = True
                self._left_out += 1  # taken out of the queue in its turn: to find it there would take long
                self._ended(found)
                orders.append(Drop(task))
                self._fill(orders, 0)
            return orders
        worker = self._workers[found.worker]
        if worker.slots[0] is not found:
            found.cancelled = True
            self._bar(worker, orders)
        return orders

    def cleared(self) -> list[Order]:
        """No task that waits, or lies ahead, shall run; one that was lost and waits to run again fails."""
        orders: list[Order] = []
        for found in self._queue:
            if not found.cancelled:
                self._ended(found)
                orders.append(Drop(found.id) if found.lost is None else Fail(found.id, found.lost))
        self._queue.clear()
        self._left_out = 0
        for worker in self._workers.values():
            for task in worker.slots[1:]:
                task.cancelled = task.lost is None
            self._bar(worker, orders)
        return orders

    def finished(self, worker: int, turn: int, now_ms: int) -> tuple[int, list[Order]]:
        """A worker has answered; return the task that has ended, 0 for an answer to nothing, and what to do next."""
        orders: list[Order] = []
        held = self._workers.get(worker)
        if held is None or not held.slots or held.slots[0].turn != turn:
            return 0, orders
        done = held.slots.pop(0)
        held.returned, held.done = 0, held.done + 1
        if held.done == self.each_max:
            orders.append(Retire(worker))
        if done.children:  # it has not waited for them
            self._blocked -= 1
            self._working += 1
        self._ended(done)
        if not held.slots:
            self._working -= 1
        elif not held.barring:  # else the crew says whether it begins
            self._begins(held, now_ms, orders)
        self._settle(held)
        self._fill(orders, now_ms)
        return done.id, orders

    def barred(self, worker: int, turn: int, begun: int, now_ms: int) -> list[Order]:
        """The crew has answered a `Bar`: of what the worker was given up to that turn, it will begin nothing that comes after `begun`."""
        orders: list[Order] = []
        held = self._workers.get(worker)
        if held is None or held.barring != turn:
            return orders
        held.barring = 0
        back = [task for task in held.slots if begun < task.turn <= turn]
        held.returned += len(back)
        if back:
            held.slots = [task for task in held.slots if task not in back]
            if not held.slots:  # what was before it has ended meanwhile
                self._working -= 1
        for task in held.slots:
            task.cancelled = False  # too late
        if held.slots and not held.slots[0].begun:
            self._begins(held, now_ms, orders)
        for task in reversed(back):
            self._back(task, orders)
        self._settle(held)
        self._fill(orders, now_ms)
        return orders

    def refused(self, worker: int, turn: int, now_ms: int) -> list[Order]:
        """A worker has not begun a turn, since it is barred. Its crew says the same, or, having looked at the same moment, that it has begun."""
        orders: list[Order] = []
        held = self._workers.get(worker)
        if held is None or not held.slots or held.slots[0].turn != turn:
            return orders
        back = held.slots.pop(0)
        if not held.slots:
            self._working -= 1
        elif not held.barring:
            self._begins(held, now_ms, orders)
        self._back(back, orders)
        self._settle(held)
        self._fill(orders, now_ms)
        return orders

    def unsent(self, worker: int, turn: int, now_ms: int) -> list[Order]:
        """What was just given has not been sent, since it was cancelled before."""
        orders: list[Order] = []
        held = self._workers.get(worker)
        at = next((at for at, task in enumerate(held.slots) if task.turn == turn), None) if held is not None else None
        if held is None or at is None:
            return orders
        task = held.slots.pop(at)
        if not held.slots:
            self._working -= 1
        elif not held.slots[0].begun and not held.barring:
            self._begins(held, now_ms, orders)
        task.cancelled = True
        self._back(task, orders)
        self._settle(held)
        self._fill(orders, now_ms)
        return orders

    def passed(self, now_ms: int) -> list[Order]:
        """Time has passed: what lies ahead of a task that goes on is taken back for those who have nothing to do."""
        orders: list[Order] = []
        free = min(len(self._idle), self.workers_max - self._working)
        for worker in self._workers.values():
            if free <= 0:
                break
            if len(worker.slots) > 1 and not worker.barring and now_ms - worker.begun_ms >= self._hostage_ms:
                self._bar(worker, orders)
                free -= 1
        return orders

    # workers and crews

    def crew_hired(self, crew: int, seats: int) -> None:
        """A crew is being started."""
        self._crews[crew] = CrewState(crew, seats)

    def crew_dismissed(self, crew: int) -> None:
        """A crew that was being started is not to be had after all; others are in its stead."""
        self._crews.pop(crew, None)

    def crew_ready(self, crew: int, node: str = "") -> list[Order]:
        """A crew may fork, on that node."""
        orders: list[Order] = []
        found = self._crews.get(crew)
        if found is not None and not found.ready:
            found.ready, found.node = True, node
            self._seats += found.seats
            self._staff(found, orders)
            self._fill(orders, 0)
        return orders

    def worker_ready(self, worker: int, now_ms: int) -> list[Order]:
        """A worker takes tasks."""
        orders: list[Order] = []
        held = self._workers.get(worker)
        if held is not None and not held.ready:
            held.ready = True
            self._starting -= 1
            self._fruitless_workers = self._fruitless_crews = 0
            if (crew := self._crews.get(held.crew)) is not None:
                crew.fruitful = True
            self._settle(held)
            self._fill(orders, now_ms)
        return orders

    def worker_gone(self, worker: int, loss: Loss, *, begun: int | None, now_ms: int) -> list[Order]:
        """A worker has ended. `begun`: the last turn that it began; None if nobody knows, and then all that it was given may have begun."""
        orders: list[Order] = []
        held = self._workers.pop(worker, None)
        if held is None:
            return orders
        self._remove(held, loss, begun, orders)
        crew = self._crews.get(held.crew)
        if crew is not None:
            crew.members.discard(worker)
            if not held.ready:
                self._fruitless_workers += 1
                if self._fruitless_workers >= FRUITLESS_MAX:
                    return orders + self.broke(f"{FRUITLESS_MAX} workers in a row ended before they were ready; the last one {loss.text}")
            self._staff(crew, orders)
        self._fill(orders, now_ms)
        return orders

    def crew_ends(self, crew: int) -> None:
        """A crew has ended; what its workers said before is still to be told, then `crew_gone`. Nothing more is given to them."""
        found = self._crews.get(crew)
        if found is not None and found.ready:
            found.ready = False
            self._seats -= found.seats
            for id_ in found.members:
                self._idle.pop(id_, None)
                self._roomy.pop(id_, None)

    def crew_gone(self, crew: int, loss: Loss, *, now_ms: int) -> list[Order]:
        """A crew with all its workers is gone; another is had in its stead."""
        orders: list[Order] = []
        found = self._crews.pop(crew, None)
        if found is None:
            return orders
        for id_ in sorted(found.members):
            held = self._workers.pop(id_, None)
            if held is not None:
                self._remove(held, loss, None, orders)
        self._seats -= found.seats if found.ready else 0
        if not found.fruitful:
            self._fruitless_crews += 1
            if self._fruitless_crews >= FRUITLESS_MAX:
                return orders + self.broke(f"no workers can be had: the process that was to have them {loss.text}")
        orders.append(Hire(crew, found.seats))
        self._fill(orders, now_ms)
        return orders

    def broke(self, text: str) -> list[Order]:
        """Nothing can go on. Idempotent."""
        if self.broken:
            return []
        self.broken = text
        orders: list[Order] = [Break(text)]
        orders += [Fail(task, Loss("died", text)) for task in self._tasks]
        self._tasks.clear()
        self._queue.clear()
        self._left_out = 0
        for held in self._workers.values():
            held.slots.clear()
        return orders

    # inside

    def _ended(self, task: TaskState) -> None:
        del self._tasks[task.id]
        above = self._tasks.get(task.parent) if task.parent else None
        if above is not None:
            above.children -= 1
            if not above.children and above.worker:
                self._blocked -= 1
                self._working += 1
                self._settle(self._workers[above.worker])

    def _block(self, task: TaskState, orders: list[Order]) -> None:
        """A running task has submitted its first: its worker counts no more, and what lies ahead there would wait for ever."""
        if not task.worker:
            return
        self._working -= 1
        self._blocked += 1
        worker = self._workers[task.worker]
        self._settle(worker)
        self._bar(worker, orders)

    def _begins(self, worker: WorkerState, now_ms: int, orders: list[Order]) -> None:
        """The first that a worker has begins."""
        worker.begun_ms, worker.slots[0].begun = now_ms, True
        orders.append(Begun(worker.slots[0].id))

    def _bar(self, worker: WorkerState, orders: list[Order]) -> None:
        if not worker.barring and len(worker.slots) > 1:
            worker.barring = worker.slots[-1].turn
            orders.append(Bar(worker.id, worker.barring))

    def _settle(self, worker: WorkerState) -> None:
        """Put a worker where it belongs by what it has."""
        self._idle.pop(worker.id, None)
        self._roomy.pop(worker.id, None)
        crew = self._crews.get(worker.crew)
        if not worker.ready or worker.id not in self._workers or crew is None or not crew.ready or worker.has_all(self.each_max):
            return
        if not worker.slots and not worker.barring:
            self._idle[worker.id] = worker
        elif worker.has_room:
            self._roomy[worker.id] = worker

    def _back(self, task: TaskState, orders: list[Order]) -> None:
        """A task that has not begun goes back to where it was, or was cancelled."""
        task.worker = task.turn = 0
        task.begun = False
        if task.cancelled:
            self._ended(task)
            orders.append(Drop(task.id))
        else:
            self._queue.appendleft(task)
            orders.append(Waits(task.id))

    def _remove(self, held: WorkerState, loss: Loss, begun: int | None, orders: list[Order]) -> None:
        self._idle.pop(held.id, None)
        self._roomy.pop(held.id, None)
        self._starting -= not held.ready
        slots, held.slots = held.slots, []
        if slots and slots[0].children:
            self._blocked -= 1
        elif slots:
            self._working -= 1
        if begun is not None and slots and slots[0].turn > begun:
            slots[0].unbegun += 1
        for task in reversed(slots):
            if begun is not None and task.turn > begun and task.unbegun >= UNBEGUN_MAX and not task.cancelled:
                task.worker = 0
                self._ended(task)
                orders.append(
                    Fail(task.id, Loss(loss.why, f"was never begun: {UNBEGUN_MAX} workers ended while they took it in; the last one {loss.text}"))
                )
            elif begun is not None and task.turn > begun:
                self._back(task, orders)
            elif task.retries > 0 and not task.cancelled:
                task.retries -= 1
                task.lost = loss
                self._orphan(task)
                self._back(task, orders)
            else:
                self._orphan(task)
                task.worker = 0
                self._ended(task)
                orders.append(Fail(task.id, loss))

    def _orphan(self, task: TaskState) -> None:
        """What a lost task has submitted is nobody's any more: its answers go nowhere."""
        if task.children:
            task.children = 0
            for child in self._tasks.values():
                if child.parent == task.id:
                    child.parent = 0

    def _fill(self, orders: list[Order], now_ms: int) -> None:
        """Give what waits to those that may take it."""
        while (queue := self._queue) and not self.broken:
            if queue[0].cancelled:
                queue.popleft()
                self._left_out -= 1
                continue
            begun = bool(self._idle) and self._working < self.workers_max
            if begun:
                worker, task = self._match(self._idle)
                self._working += 1
                worker.begun_ms = now_ms
            elif self._wants_more():
                self._fork(
                    min((crew for crew in self._crews.values() if crew.ready), key=lambda crew: (len(crew.members) - crew.seats, crew.id)), orders
                )
                continue
            elif self._roomy and not self._starting:
                worker, task = self._match(self._roomy)
            else:
                break
            self._turn += 1
            task.worker, task.turn, task.begun = worker.id, self._turn, begun
            worker.slots.append(task)
            if worker.has_room and not worker.has_all(self.each_max):
                self._roomy[worker.id] = worker
            orders.append(Give(worker.id, task.id, self._turn, begun))
        if self._queue and self._blocked >= self._workers_bound:
            self._give_up(orders)

    def _match(self, workers: dict[int, WorkerState]) -> tuple[WorkerState, TaskState]:
        """Take out the first that waits and the worker that is nearest to its data; if none is near, one for whose node another has data before the first."""
        queue, first = self._queue, self._queue[0]
        nodes = {crew.node for crew in self._crews.values() if crew.ready} if first.bytes_at else set()
        node = first.nearest(nodes)
        near = next((worker for worker in workers.values() if self._crews[worker.crew].node == node), None) if node else None
        worker = near or next(iter(workers.values()))
        at = 0
        if node and near is None and first.overtaken < OVERTAKEN_MAX:
            here = self._crews[worker.crew].node
            at = next((at for at in range(1, min(LOOK_MAX, len(queue))) if not queue[at].cancelled and queue[at].nearest(nodes) == here), 0)
            first.overtaken += at > 0
        task = queue[at]
        del queue[at], workers[worker.id]
        return worker, task

    def _wants_more(self) -> bool:
        """Whether another worker is to be had in the stead of one whose task waits for others."""
        if self._working + self._starting >= self.workers_max or self._starting >= self.waiting:
            return False
        return len(self._workers) < min(self._seats + self._blocked, self._workers_bound)

    def _give_up(self, orders: list[Order]) -> None:
        """All workers that there may be wait for tasks that cannot begin."""
        loss = Loss("died", f"was never begun: {self._blocked} workers, the most that there may be, wait for tasks that their tasks have submitted")
        queue, self._queue = self._queue, deque()
        for task in queue:
            if not task.parent or task.cancelled:
                self._queue.append(task)
                continue
            self._ended(task)
            orders.append(Fail(task.id, loss))

    def _staff(self, crew: CrewState, orders: list[Order]) -> None:
        while not self.broken and crew.ready and len(crew.members) < crew.seats and len(self._workers) < self._workers_bound:
            self._fork(crew, orders)

    def _fork(self, crew: CrewState, orders: list[Order]) -> None:
        self._worker_id += 1
        self._workers[self._worker_id] = WorkerState(self._worker_id, crew.id)
        crew.members.add(self._worker_id)
        self._starting += 1
        orders.append(Fork(self._worker_id, crew.id))
