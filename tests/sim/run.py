"""One run of the simulation of nodes: processes and bad luck as a schedule has them; then calm, and everything must be running or explained.

Each method under `STEPS` is something that a schedule can do, with its arguments.
"""

from typing import Any, Final

import msgspec

from tests.sim.node import NodeSim
from tests.sim.queueing import CORES
from tests.sim.schedule import Schedule, Steps
from tests.sim.store import StoreSim
from tests.sim.world import World
from unios.core import claims
from unios.core.processes import ENDED, ProcessRecord, ProcessSpec, process_key
from unios.core.queue import waits
from unios.store.model import Compare, Put, TransactionResult
from unios.store.model import Transaction as StoreTransaction

TROUBLE_MS: Final = 12_000.0
CALM_MS: Final = 14_000.0
FIRST_PID: Final = 300


STEPS: Final = Steps()


class Run:
    """A world with the nodes of a schedule, to which its steps are done."""

    def __init__(self, schedule: Schedule) -> None:
        self.world = World(schedule.seed)
        self.store = StoreSim(self.world)
        self.nodes: dict[str, NodeSim] = {}
        for number in range(1, schedule.setup["nodes"] + 1):
            self.nodes[f"n{number}"] = NodeSim(self.world, f"n{number}", self.store, self.nodes)
        self.world.claimed = self.record
        self._submitted = 0
        for step in schedule.steps:
            self.world.after(step.at_ms, lambda step=step: STEPS.do(self, step))  # type: ignore[misc]

    @property
    def count(self) -> int:
        """How many effects were accepted."""
        return self.world.effects

    def record(self, pid: int) -> ProcessRecord | None:
        """Return the record as the store has it now."""
        found = self.store.engine._get(process_key(pid))
        return msgspec.msgpack.decode(found.value, type=ProcessRecord) if found else None

    @STEPS
    def submit(self, pick: float, restart: str = "on-loss", on_partition: str = "replace") -> None:
        """A client submits a process to one of the kernels."""
        kernels = [node.kernel for node in self.nodes.values() if node.kernel is not None and not node.kernel.hung]
        if not kernels:
            return
        kernel = kernels[int(pick * len(kernels))]
        pid = FIRST_PID + self._submitted
        self._submitted += 1
        spec = ProcessSpec((b"x",), restart=restart, on_partition=on_partition)  # type: ignore[arg-type]
        record = claims.submitted(pid, spec, "root", "", "it waits", 0)
        node = kernel.best(record)
        record = claims.placed(record, node, "" if node else "it waits")
        put = Put(process_key(pid), msgspec.msgpack.encode(record))

        def answered(result: Any) -> None:
            if isinstance(result, TransactionResult) and result.succeeded:
                self.world.say(f"client: {pid} is acknowledged")
                if record.node:
                    kernel.ask_spawn(record)

        kernel.ask(StoreTransaction((Compare(put.key, "version", "==", 0),), (put,)), answered)

    # trouble

    @STEPS
    def crash(self, node: str, lasts_ms: float = 500.0) -> None:
        """A machine loses power and comes back."""
        there = self.nodes[node]
        if there.up:
            there.crash()
            self.world.after(lasts_ms, lambda: None if there.up else there.boot())

    @STEPS
    def pause(self, node: str, lasts_ms: float = 500.0) -> None:
        """A machine stands still."""
        self.nodes[node].pause(lasts_ms)

    @STEPS
    def kill_kernel(self, node: str) -> None:
        self.nodes[node].kill_kernel()

    @STEPS
    def hang_kernel(self, node: str) -> None:
        self.nodes[node].hang_kernel()

    @STEPS
    def restart_services(self, node: str) -> None:
        """The services of a node die and begin with nothing in mind."""
        kernel = self.nodes[node].kernel
        if kernel is not None:
            kernel.restart_services()

    @STEPS
    def cut_from_store(self, node: str, lasts_ms: float = 500.0) -> None:
        self.world.cut_off([(node, "store")], lasts_ms)

    @STEPS
    def hears_nothing(self, node: str, lasts_ms: float = 500.0) -> None:
        """A node is heard by the store and hears it not."""
        self.world.cut_off([("store", node)], lasts_ms, one_way=True)

    @STEPS
    def is_not_heard(self, node: str, lasts_ms: float = 500.0) -> None:
        self.world.cut_off([(node, "store")], lasts_ms, one_way=True)

    @STEPS
    def split(self, pick: float, lasts_ms: float = 500.0) -> None:
        """Half of the nodes are cut off from all others."""
        names = sorted(self.nodes)
        first = int(pick * len(names))
        apart = [names[(first + at) % len(names)] for at in range(max(1, len(names) // 2))]
        self.world.cut_off([(a, b) for a in apart for b in [*self.nodes, "store"] if b not in apart], lasts_ms)

    @STEPS
    def crash_store(self, lasts_ms: float = 500.0) -> None:
        """The store dies: what it has not committed is gone."""
        if self.store.up:
            self.store.crash()
            self.world.after(min(lasts_ms, 1_500), lambda: None if self.store.up else self.store.start())

    @STEPS
    def pause_store(self, lasts_ms: float = 500.0) -> None:
        self.store.pause(lasts_ms)

    @STEPS
    def network(self, loss: float = 0.3, slow: float = 1.0, duplicates: float = 0.02, lasts_ms: float = 500.0) -> None:
        """For a while messages are lost, repeated, late and out of order."""
        self.world.trouble(loss, slow, duplicates, lasts_ms)

    def go(self) -> None:
        """Run it. Raises Violation."""
        self.world.run_until(TROUBLE_MS)
        self.world.say("-- the trouble is over")
        self.world.heal()
        if not self.store.up:
            self.store.start()
        for node in self.nodes.values():
            if not node.up:
                node.boot()
        self.world.run_until(TROUBLE_MS + CALM_MS)
        self._check_end()

    def _is_full(self) -> bool:
        """Return whether every node runs as much as it offers: then what waits in the queue waits rightly."""
        return all(sum(tree.state == "running" for tree in node.trees.values()) >= CORES for node in self.nodes.values())

    def _check_end(self) -> None:
        for pid in self.store.ledger.pids:
            record = self.record(pid)
            if record is None or record.state in ENDED:
                continue  # there and explained: the ledger has looked after every event
            if waits(record) and self._is_full():
                continue
            tree = self.nodes[record.node].trees.get((pid, record.incarnation)) if record.node else None
            if tree is None or tree.state != "running" or tree.frozen or record.state != "running":
                what = "no tree" if tree is None else f"{tree.state}{', frozen' if tree.frozen else ''}"
                self.world.fail(f"process {pid} is neither running nor explained: record {record}, tree: {what}")
        for node in self.nodes.values():
            for tree in node.trees.values():
                held = self.record(tree.pid)
                if tree.state == "running" and held is not None and not claims.holds(held, node.name, tree.incarnation):
                    self.world.fail(f"{node.name} still runs {tree.pid}.{tree.incarnation}, which it does not hold: {held}")
