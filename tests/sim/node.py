"""A node in the simulation: a kernel that may die and come back, a supervisor, trees. The deciders are the shipped ones; what carries them out is here."""

from collections.abc import Callable
from typing import Any

import msgspec

from tests.sim.queueing import CORES, QueueSim
from tests.sim.store import StoreSim
from tests.sim.tree import TreeSim
from tests.sim.world import Clock, World
from unios.core import claims, holding, membership, reconcile, recovery, supervision
from unios.core.nodes import Alive, NodeRecord, alive_key, node_key
from unios.core.processes import LIVE, ProcessRecord, process_key
from unios.errors import NotFound
from unios.limits import BEAT_MS, LEASE_HOLD_MS, LEASE_TTL_MS, SPAWN_GRACE_MS
from unios.store.model import Compare, Put, Range, RangeResult, Transaction, TransactionResult
from unios.store.sqlite import Grant

TICK_MS = 50.0
POLL_MS = 120.0
RECONCILE_MS = 1_000.0
Answer = Callable[[Any], None]


class NodeSim:
    """One machine with one node. `page` and `lease_file` are its disk and outlive everything but nothing else does."""

    def __init__(self, world: World, name: str, store: StoreSim, peers: dict[str, "NodeSim"]) -> None:
        self.world, self.name, self.store, self.peers = world, name, store, peers
        self.clock = Clock(world.rng)
        self.life = 0
        self.up = False
        self.paused_until = 0.0
        self.page = (0, 0)
        self.lease_file = (0, 0)
        self.trees: dict[tuple[int, int], TreeSim] = {}
        self.kernel: KernelSim | None = None
        self.boot()

    def now_ms(self) -> int:
        return self.clock.local_ms(self.world.now)

    def now_ns(self) -> int:
        return self.now_ms() * 1_000_000

    def later(self, delay_ms: float, work: Callable[[], None]) -> None:
        """Do it in this life of the node, when it is not paused."""
        life = self.life

        def due() -> None:
            if life != self.life:
                return
            if self.world.now < self.paused_until:
                self.world.after(self.paused_until - self.world.now + 2 * self.world.rng.random(), due)
            else:
                work()

        self.world.after(delay_ms, due)

    def boot(self) -> None:
        self.life += 1
        self.up = True
        self.page = (0, 0)  # CLOCK_BOOTTIME began anew
        self.decider = supervision.Supervision(["kernel"])
        self.beats = {"kernel": 0}
        self._supervise()

    def crash(self) -> None:
        self.world.say(f"{self.name}: crashes")
        self.life += 1
        self.up = False
        self.kernel = None
        self.trees.clear()

    def pause(self, ms: float) -> None:
        self.world.say(f"{self.name}: pauses for {ms:.0f} ms")
        self.paused_until = self.world.now + ms

    # supervision

    def _supervise(self) -> None:
        self._carry_out(self.decider.on(supervision.Tick(self.now_ms(), dict(self.beats))))
        self.later(BEAT_MS, self._supervise)

    def _carry_out(self, orders: list[supervision.Order]) -> None:
        for order in orders:
            match order:
                case supervision.Start():
                    if self.kernel is not None:
                        self.world.fail(f"{self.name}: a second kernel was started")
                    self.kernel = KernelSim(self)
                    self._carry_out(self.decider.on(supervision.Started("kernel", self.kernel.pid, self.now_ms())))
                case supervision.Kill():
                    self.kill_kernel()

    def kill_kernel(self) -> None:
        if self.kernel is not None:
            self.world.say(f"{self.name}: the kernel dies")
            pid = self.kernel.pid
            self.kernel.dead = True
            self.kernel = None
            self._carry_out(self.decider.on(supervision.Died("kernel", pid, -1, 9, self.now_ms())))

    def hang_kernel(self) -> None:
        if self.kernel is not None:
            self.world.say(f"{self.name}: the kernel hangs")
            self.kernel.hung = True

    # trees

    def tree_started(self, tree: TreeSim) -> None:
        if self.kernel is not None:
            self.kernel.started(tree.pid, tree.incarnation)

    def tree_ended(self, tree: TreeSim) -> None:
        if self.kernel is not None:
            self.kernel.report(tree.pid, tree.incarnation)


class KernelSim:
    """One life of a kernel, with its services."""

    _pids = 0

    def __init__(self, node: NodeSim) -> None:
        KernelSim._pids += 1
        self.pid = KernelSim._pids
        self.node, self.world, self.name = node, node.world, node.name
        self.dead = self.hung = False
        self.holder = holding.Holder()
        self.members = membership.Membership(node.name)
        self.records: dict[int, tuple[ProcessRecord, int]] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.lease = 0
        self._first = True
        self._pending: dict[tuple[int, int], int] = {}
        self._claiming: set[tuple[int, int]] = set()
        self.queueing = QueueSim(self)
        self._tick()
        self._poll()
        self.later(RECONCILE_MS, self._reconcile)

    def restart_services(self) -> None:
        """They die with what they had seen and planned; what the kernel has set aside stays."""
        self.world.say(f"{self.name}: the services begin anew")
        self.records, self.nodes, self._claiming = {}, {}, set()
        self.members = membership.Membership(self.name)
        self.queueing = QueueSim(self, self.queueing.room)

    def later(self, delay_ms: float, work: Callable[[], None]) -> None:
        self.node.later(delay_ms, lambda: None if self.dead or self.hung else work())

    def ask(self, request: Any, answer: Answer, timeout_ms: float = LEASE_HOLD_MS) -> None:
        """Ask the store; `answer` gets the result, or None when there was none in time."""
        done = False

        def once(result: Any) -> None:
            nonlocal done
            if not done and not self.dead and not self.hung:
                done = True
                answer(result)

        def replied(result: Any) -> None:
            self.world.send("store", self.name, lambda: self.node.later(0, lambda: once(result)))

        self.later(timeout_ms, lambda: once(None))
        self.world.send(self.name, "store", lambda: self.node.store.request(request, replied))

    # the lease

    def _tick(self) -> None:
        self.node.beats["kernel"] = self.node.now_ms()
        self._tell(holding.Tick(self.node.now_ms()))
        self.later(TICK_MS, self._tick)

    def _tell(self, event: holding.Event) -> None:
        for order in self.holder.on(event):
            match order:
                case holding.Renew():
                    self._renew()
                case holding.Register():
                    self._register()
                case holding.MoveDeadline(until_ms, incarnation):
                    self.node.page = (until_ms * 1_000_000, incarnation)
                    for tree in list(self.node.trees.values()):
                        self.node.later(0, tree.look)
                case holding.CheckClaims(incarnation):
                    self._check(incarnation)

    def _renew(self) -> None:
        sent = self.node.now_ms()

        def answered(result: Any) -> None:
            if result is None:
                self._tell(holding.Failed())
            elif isinstance(result, NotFound):
                self._tell(holding.Ended())
            else:
                self._tell(holding.Renewed(sent, self.node.now_ms()))

        self.ask(("renew", self.lease), answered)

    def _register(self) -> None:
        sent = self.node.now_ms()
        kept, incarnation = self.node.lease_file
        if self._first and kept:
            self._first = False
            self.ask(("renew", kept), lambda result: self._took_up(result, kept, incarnation, sent))
        else:
            self.ask(Grant(LEASE_TTL_MS), lambda result: self._granted(result, sent))

    def _took_up(self, result: Any, lease: int, incarnation: int, sent: int) -> None:
        if isinstance(result, int) and result:
            self.lease = lease
            self._tell(holding.Registered(incarnation, sent))
        else:
            self._tell(holding.Failed())

    def _granted(self, result: Any, sent: int) -> None:
        if not isinstance(result, int):
            self._tell(holding.Failed())
            return
        self.ask(Transaction(then=(Range(node_key(self.name)),)), lambda read: self._enter(read, result, sent))

    def _enter(self, read: Any, lease: int, sent: int) -> None:
        if not isinstance(read, TransactionResult):
            self._tell(holding.Failed())
            return
        found = read.results[0]
        assert isinstance(found, RangeResult)
        old = found.records[0] if found.records else None
        incarnation = (msgspec.msgpack.decode(old.value, type=NodeRecord).incarnation if old else 0) + 1
        record = NodeRecord(self.name, self.name, incarnation, users=("*", "root"), cores=CORES)
        transaction = Transaction(
            (Compare(node_key(self.name), "modified", "==", old.modified if old else 0),),
            (Put(node_key(self.name), msgspec.msgpack.encode(record)), Put(alive_key(self.name), msgspec.msgpack.encode(Alive(incarnation)), lease)),
        )

        def entered(result: Any) -> None:
            if isinstance(result, TransactionResult) and result.succeeded:
                self.lease, self._first = lease, False
                self.node.lease_file = (lease, incarnation)
                self._tell(holding.Registered(incarnation, sent))
            else:
                self._tell(holding.Failed())

        self.ask(transaction, entered)

    def _check(self, incarnation: int) -> None:
        def compared(done: bool) -> None:
            if done:
                self._tell(holding.ClaimsChecked(incarnation, self.node.now_ms()))
            else:
                self.later(50, lambda: self._check(incarnation))

        self._compare(confirm=True, then=compared)

    # trees and records

    def _trees(self) -> list[reconcile.Tree]:
        trees = self.node.trees.items()
        begun = {key for key, tree in trees if not tree.started and tree.state == "running"}
        return reconcile.present([reconcile.Tree(*key, tree.state) for key, tree in trees if key not in begun], begun)  # type: ignore[arg-type]

    def _compare(self, *, confirm: bool, then: Callable[[bool], None] = lambda _done: None) -> None:
        """As Reconciling._compare does: the trees first, then the records of the store, then the orders."""
        trees = self._trees()

        def read(result: Any) -> None:
            if not isinstance(result, TransactionResult):
                then(False)
                return
            found = result.results[0]
            assert isinstance(found, RangeResult)
            decoded = [msgspec.msgpack.decode(record.value, type=ProcessRecord) for record in found.records]
            self._carry_out(trees, {record.pid: record for record in decoded}, confirm=confirm)
            then(True)

        self.ask(Transaction(then=(Range("/processes/", prefix=True),)), read)

    def _plan(self, trees: list[reconcile.Tree], records: dict[int, ProcessRecord]) -> list[reconcile.Order]:
        here = {tree.pid for tree in trees}
        mine = {pid: record for pid, record in records.items() if record.node == self.name or pid in here}
        now = self.node.now_ms()
        waiting = {(r.pid, r.incarnation) for r in mine.values() if r.node == self.name and r.state == "pending"}
        self._pending = {key: self._pending.get(key, now) for key in waiting}
        ripe = frozenset(pid for (pid, _inc), since in self._pending.items() if now - since >= SPAWN_GRACE_MS)
        return reconcile.plan(self.name, trees, mine, ripe)

    def _carry_out(self, trees: list[reconcile.Tree], records: dict[int, ProcessRecord], *, confirm: bool) -> None:
        for order in self._plan(trees, records):
            tree = self.node.trees.get((order.pid, order.incarnation))
            match order:
                case reconcile.Confirm() if tree is not None and confirm:
                    tree.confirm()
                case reconcile.Supersede(_pid, _incarnation, by) if tree is not None:
                    tree.supersede(by)
                case reconcile.Report(pid, incarnation):
                    self.report(pid, incarnation)
                case reconcile.Adopt(pid, incarnation):
                    self._change(pid, incarnation, lambda record: claims.started(record, 0) if record.state == "pending" else None)
                case reconcile.Gone(pid, incarnation) if tree is None:
                    self._change(pid, incarnation, lambda record: _gone(record, claims.on_gone))
                case reconcile.StartNow(pid, incarnation):
                    self.spawn(pid, incarnation)
                case reconcile.Drop():
                    self.node.trees.pop((order.pid, order.incarnation), None)

    def _reconcile(self) -> None:
        if self.holder.registered and self.node.page[0] > self.node.now_ns():
            orders = self._plan(self._trees(), {pid: record for pid, (record, _modified) in self.records.items()})
            if reconcile.doubtful(orders):
                self._compare(confirm=False)
        self.later(RECONCILE_MS, self._reconcile)

    def report(self, pid: int, incarnation: int) -> None:
        tree = self.node.trees.get((pid, incarnation))
        if tree is not None and tree.fenced:
            self._change(pid, incarnation, lambda record: _gone(record, claims.on_loss))
        elif tree is not None:
            self._change(pid, incarnation, lambda record: claims.ended(record, 0, None, "", 0) if record.state in LIVE else None)

    def _change(self, pid: int, incarnation: int, change: Callable[[ProcessRecord], ProcessRecord | None]) -> None:
        """Change a record of this node's, as Records.change_own does."""

        def read(result: Any) -> None:
            found = _record(result)
            if result is None:
                self.later(50, lambda: self._change(pid, incarnation, change))
            elif found is not None and claims.holds(found[0], self.name, incarnation) and (wanted := change(found[0])):
                self.replace(wanted, found[1], written)

        def written(result: Any) -> None:
            if not (isinstance(result, TransactionResult) and result.succeeded):
                self.later(50, lambda: self._change(pid, incarnation, change))

        self.ask(Transaction(then=(Range(process_key(pid)),)), read)

    def replace(self, record: ProcessRecord, modified: int, answer: Answer, *, lost: str = "") -> None:
        put = Put(process_key(record.pid), msgspec.msgpack.encode(record))
        compare = Compare(put.key, "modified", "==", modified)
        compares = (compare, Compare(alive_key(lost), "version", "==", 0)) if lost else (compare,)
        self.ask(Transaction(compares, (put,)), answer)

    def spawn(self, pid: int, incarnation: int) -> None:
        """As spawning.start does: the lease, the record, the tree under that very lease, and then the record again."""
        lease = self.holder.incarnation

        def read(result: Any) -> None:
            found = _record(result)
            if found is None or not claims.holds(found[0], self.name, incarnation) or found[0].wanted == "stopped":
                return
            if self.node.page[0] <= self.node.now_ns() or self.node.page[1] != lease or (pid, incarnation) in self.node.trees:
                return
            older = [tree for tree in self.node.trees.values() if tree.pid == pid and tree.state == "running"]
            for tree in older:
                if tree.incarnation > incarnation:
                    return
                tree.supersede(incarnation)
            ends = self.world.rng.choice((1e9, 1e9, self.world.rng.uniform(500, 6_000)))
            full = self.queueing.admit(found[0])
            if full:
                self.world.say(f"{self.name}: refuses {pid}.{incarnation}: {full}")
                self._change(pid, incarnation, lambda record: claims.placed(record, "", full) if record.state == "pending" else None)
                return
            tree = TreeSim(self.node, pid, incarnation, found[0].on_partition, ends)
            if tree.leash.frozen or tree.leash.killed:
                tree.state = "ended"
                return
            self.node.trees[pid, incarnation] = tree
            if sum(each.state == "running" for each in self.node.trees.values()) > CORES:
                self.world.fail(f"{self.name} is overcommitted: it runs more than {CORES} processes of one core each")
            self.world.say(f"{self.name}: starts {pid}.{incarnation}")

        self.ask(Transaction(then=(Range(process_key(pid)),)), read)

    def started(self, pid: int, incarnation: int) -> None:
        """The guard says that the program runs."""
        self._change(pid, incarnation, lambda record: claims.started(record, 0) if record.state == "pending" else None)

    # what is seen, and recovery

    def _poll(self) -> None:
        ranges = (Range("/nodes/", prefix=True), Range("/alive/", prefix=True), Range("/processes/", prefix=True))
        self.ask(Transaction(then=ranges), self._seen)
        self.later(POLL_MS * self.world.rng.uniform(0.8, 1.2), self._poll)

    def _seen(self, result: Any) -> None:
        if not isinstance(result, TransactionResult):
            return
        nodes, alive, processes = result.results
        assert isinstance(nodes, RangeResult) and isinstance(alive, RangeResult) and isinstance(processes, RangeResult)
        living = {r.key.removeprefix("/alive/"): msgspec.msgpack.decode(r.value, type=Alive).incarnation for r in alive.records}
        for raw in nodes.records:
            record = msgspec.msgpack.decode(raw.value, type=NodeRecord)
            self.nodes[record.name] = record
            self.queueing.books.offer(record)
            self.members.on(membership.NodeChanged(record.name, record.incarnation, record.state == "left"))
            self.members.on(membership.AliveChanged(record.name, living.get(record.name, 0)))
        for raw in processes.records:
            process = msgspec.msgpack.decode(raw.value, type=ProcessRecord)
            if self.records.get(process.pid, (None, 0))[1] < raw.modified:
                self.records[process.pid] = (process, raw.modified)
                self.queueing.take_in(process)
        self._recover()
        self.queueing.run()

    def _recover(self) -> None:
        survivors = self.members.names("ready")
        if self.name not in survivors:
            return
        records = [record for record, _modified in self.records.values()]
        orders: list[tuple[str, recovery.Claim]] = []
        for node in sorted({record.node for record in records if record.node and record.state in LIVE}):
            if self.members.view(node)[0] in ("lost", "left"):
                orders += [(node, order) for order in recovery.plan(node, records, self.name, survivors)]
        orders += [("restart", order) for order in recovery.restarts(records, self.name, survivors)]
        for kind, order in orders:
            key = (order.pid, order.incarnation)
            if key not in self._claiming:
                self._claiming.add(key)
                self.later(order.delay_ms, lambda kind=kind, order=order: self._claim(kind, order))  # type: ignore[misc]
                self.later(order.delay_ms + 700, lambda key=key: self._claiming.discard(key))  # type: ignore[misc]

    def _claim(self, kind: str, order: recovery.Claim) -> None:
        """`kind`: the lost node, or "restart": what must still be so when it is done."""

        def read(result: Any) -> None:
            found = _record(result)
            if found is None or found[0].incarnation != order.incarnation:
                return
            wanted = self._wanted(kind, found[0])
            if wanted is not None:
                lost = kind if kind in self.node.peers else ""
                self.replace(wanted, found[1], lambda result: self.won(result, wanted), lost=lost)

        self.ask(Transaction(then=(Range(process_key(order.pid)),)), read)

    def _wanted(self, kind: str, record: ProcessRecord) -> ProcessRecord | None:
        best = self.queueing.best(record)
        if kind == "restart":
            return claims.restarted(record, best) if claims.wants_restart(record) else None
        if record.node != kind or record.state not in LIVE:
            return None
        outcome = claims.on_loss(record)
        if outcome == "again":
            return claims.claimed(record, best, f"{record.node} was lost")
        if outcome == "lost":
            return claims.lost(record, f"{record.node} was lost", 0)
        return None if record.reason else claims.kept(record, f"{record.node} was lost")

    def best(self, record: ProcessRecord) -> str:
        """Return a node with room for it now, "" for none: then it waits in the queue."""
        return self.queueing.best(record)

    def won(self, result: Any, record: ProcessRecord) -> None:
        if isinstance(result, TransactionResult) and result.succeeded and record.node and record.state == "pending":
            self.ask_spawn(record)

    def ask_spawn(self, record: ProcessRecord) -> None:
        target = self.node.peers[record.node]

        def arrived() -> None:
            if target.kernel is not None:
                target.kernel.later(0, lambda: target.kernel.spawn(record.pid, record.incarnation) if target.kernel else None)

        self.world.send(self.name, target.name, arrived)


def _gone(record: ProcessRecord, judge: Callable[[ProcessRecord], claims.Loss]) -> ProcessRecord | None:
    if record.state not in LIVE:
        return None
    if judge(record) == "again":
        return claims.claimed(record, "", "it was gone")
    return claims.lost(record, "it was gone", 0)


def _record(result: Any) -> tuple[ProcessRecord, int] | None:
    if not isinstance(result, TransactionResult):
        return None
    found = result.results[0]
    if not isinstance(found, RangeResult) or not found.records:
        return None
    return msgspec.msgpack.decode(found.records[0].value, type=ProcessRecord), found.records[0].modified
