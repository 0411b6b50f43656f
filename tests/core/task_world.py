"""A world of tasks: workers that begin, answer and die as a decider orders, in memory."""

from collections import Counter

from unios.core.task_orders import Bar, Begun, Break, Drop, Fail, Fork, Give, Hire, Loss, Order, Retire, Waits
from unios.core.task_states import AHEAD, RETURNED_MAX
from unios.core.tasks import Tasks

DIED = Loss("died", "died")
HOSTAGE_MS = 20


class Hand:
    """A worker as it is: what lies before it, what it has begun, what it shall not begin."""

    def __init__(self, crew: int) -> None:
        self.crew = crew
        self.ready = False
        self.lying: list[tuple[int, int]] = []
        """(turn, task) sent and not begun."""
        self.running: tuple[int, int] | None = None
        self.begun = 0
        self.barred = 0


class World:
    """Carries out orders as engine, parents and workers do."""

    def __init__(self, workers_max: int, bound: int = 12) -> None:
        self.tasks = Tasks(workers_max=workers_max, workers_bound=bound, hostage_ms=HOSTAGE_MS)
        self.hands: dict[int, Hand] = {}
        self.ended: Counter[int] = Counter()
        self.runs: Counter[int] = Counter()
        self.retries: dict[int, int] = {}
        self.outcome: dict[int, str] = {}
        self.begun: list[int] = []
        self.cancelled: set[int] = set()
        self.unseen: set[int] = set()
        """Cancelled by who has the future, before the decider was told."""
        self.bars: list[Bar] = []
        self.known_begun: set[int] = set()
        self.retired: set[int] = set()
        self.broken = False
        self.now = 0
        self.crews: dict[int, int] = {}
        self.nodes: dict[int, str] = {}
        self.next_crew = self.next_task = 1

    def hire(self, seats: int, node: str = "") -> int:
        crew = self.next_crew
        self.nodes[crew] = node
        self.next_crew += 1
        self.crews[crew] = seats
        self.tasks.crew_hired(crew, seats)
        return crew

    def submit(self, retries: int = 0, parent: int = 0, bytes_at: dict[str, int] | None = None) -> int:
        task = self.next_task
        self.next_task += 1
        self.retries[task] = retries
        self.do(self.tasks.submitted(task, retries=retries, parent=parent, now_ms=self.now, bytes_at=bytes_at))
        return task

    def end(self, task: int, how: str) -> None:
        self.ended[task] += 1
        self.outcome[task] = how

    def do(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Give) and order.task in self.unseen:
                orders += self.tasks.unsent(order.worker, order.turn, self.now)
            elif isinstance(order, Give):
                self.hands[order.worker].lying.append((order.turn, order.task))
                assert len(self.hands[order.worker].lying) <= AHEAD + RETURNED_MAX + 1
                if order.begun:
                    self.known_begun.add(order.task)
            elif isinstance(order, Begun):
                self.known_begun.add(order.task)
            elif isinstance(order, Bar):
                self.bars.append(order)
            elif isinstance(order, Fork):
                self.hands[order.worker] = Hand(order.crew)
            elif isinstance(order, Fail):
                self.end(order.task, "failed")
            elif isinstance(order, Drop):
                assert order.task in self.cancelled
                self.end(order.task, "dropped")
            elif isinstance(order, Hire):
                self.hire(order.seats)
            elif isinstance(order, Retire):
                assert not self.hands[order.worker].lying and self.hands[order.worker].running is None
                self.retired.add(order.worker)
            elif isinstance(order, Break):
                self.broken = True
            else:
                assert isinstance(order, Waits)

    def begin(self, worker: int) -> None:
        """A worker takes up the next of what lies before it, unless it is barred."""
        hand = self.hands[worker]
        if hand.running is None and hand.lying:
            turn, task = hand.lying.pop(0)
            hand.begun = turn
            if hand.barred >= turn:
                self.do(self.tasks.refused(worker, turn, self.now))
                return
            hand.running = (turn, task)
            self.runs[task] += 1
            self.begun.append(task)

    def answer(self, worker: int) -> None:
        hand = self.hands[worker]
        if hand.running is not None:
            turn, _task = hand.running
            hand.running = None
            ended, orders = self.tasks.finished(worker, turn, self.now)
            if ended:
                self.end(ended, "done")
            self.do(orders)

    def bar(self) -> None:
        """A parent hears of the oldest bar, sets it and says how that went."""
        order = self.bars.pop(0)
        hand = self.hands.get(order.worker)
        if hand is not None:
            hand.barred = max(hand.barred, order.turn)
            self.do(self.tasks.barred(order.worker, order.turn, hand.begun, self.now))

    def kill(self, worker: int, *, known: bool = True) -> None:
        hand = self.hands.pop(worker)
        self.do(self.tasks.worker_gone(worker, DIED, begun=hand.begun if known else None, now_ms=self.now))

    def ready(self, worker: int) -> None:
        self.hands[worker].ready = True
        self.do(self.tasks.worker_ready(worker, self.now))

    def staff(self) -> None:
        """Everybody who starts is there."""
        for crew in list(self.crews):
            self.do(self.tasks.crew_ready(crew, self.nodes[crew]))
        for worker in list(self.hands):
            if not self.hands[worker].ready:
                self.ready(worker)

    def drain(self) -> None:
        """Go on until nothing is left to do."""
        for _ in range(10_000):
            self.now += HOSTAGE_MS
            self.staff()
            while self.bars:
                self.bar()
            self.do(self.tasks.passed(self.now))
            for worker in list(self.hands):
                self.begin(worker)
            for worker in list(self.hands):
                self.answer(worker)
            if not self.tasks.unfinished:
                return
        raise AssertionError("it does not come to an end")
