"""One run of the simulation: nodes, processes and a seeded run of bad luck; then calm, and everything must be running or explained."""

from typing import Any, Final

import msgspec

from tests.sim.node import NodeSim
from tests.sim.queueing import CORES
from tests.sim.store import StoreSim
from tests.sim.world import World
from unios.core import claims
from unios.core.processes import ENDED, ProcessRecord, ProcessSpec, process_key
from unios.core.queue import waits
from unios.store.model import Compare, Put, TransactionResult
from unios.store.model import Transaction as StoreTransaction

TROUBLE_MS: Final = 12_000.0
CALM_MS: Final = 14_000.0
PROCESSES: Final = 6


class Run:
    """A world with `count` nodes."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        rng = self.world.rng
        self.store = StoreSim(self.world)
        self.nodes: dict[str, NodeSim] = {}
        for number in range(1, rng.choice((2, 3, 3, 4)) + 1):
            self.nodes[f"n{number}"] = NodeSim(self.world, f"n{number}", self.store, self.nodes)
        self.world.claimed = self.record
        for number in range(PROCESSES):
            self.world.after(rng.uniform(500, TROUBLE_MS / 2), lambda pid=300 + number: self._submit(pid))  # type: ignore[misc]
        for _fault in range(rng.randrange(3, 12)):
            self.world.after(rng.uniform(800, TROUBLE_MS), self._fault)

    def record(self, pid: int) -> ProcessRecord | None:
        """Return the record as the store has it now."""
        found = self.store.engine._get(process_key(pid))
        return msgspec.msgpack.decode(found.value, type=ProcessRecord) if found else None

    def _submit(self, pid: int) -> None:
        rng = self.world.rng
        kernels = [node.kernel for node in self.nodes.values() if node.kernel is not None and not node.kernel.hung]
        if not kernels:
            return
        kernel = rng.choice(kernels)
        spec = ProcessSpec(
            (b"x",),
            restart=rng.choice(("on-loss", "on-loss", "never", "always", "on-failure")),
            on_partition=rng.choice(("replace", "replace", "replace", "stop", "keep")),
        )
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

    def _fault(self) -> None:
        rng, world = self.world.rng, self.world
        node = rng.choice(list(self.nodes.values()))
        lasts = rng.choice((rng.uniform(50, 700), rng.uniform(700, 1_600), rng.uniform(1_600, 4_000)))
        match rng.randrange(10):
            case 0:
                if node.up:
                    node.crash()
                    world.after(lasts, lambda: None if node.up else node.boot())
            case 1 | 2:
                node.pause(lasts)
            case 3:
                node.kill_kernel()
            case 4:
                node.hang_kernel()
            case 5 | 6:
                self._cut({frozenset((node.name, "store"))}, lasts)
            case 7:
                others = rng.sample(sorted(self.nodes), k=max(1, len(self.nodes) // 2))
                self._cut({frozenset((a, b)) for a in others for b in [*self.nodes, "store"] if b not in others}, lasts)
            case 8:
                if self.store.up:
                    self.store.crash()
                    world.after(min(lasts, 1_500), lambda: None if self.store.up else self.store.start())
                else:
                    self.store.pause(lasts)
            case _:
                world.loss, world.slow = rng.choice(((0.3, 1.0), (0.05, 20.0), (0.6, 5.0)))
                world.say(f"network: loses {world.loss:.0%}, {world.slow:.0f} times as slow")
                world.after(lasts, self._fair)

    def _cut(self, pairs: set[frozenset[str]], lasts: float) -> None:
        self.world.say(f"network: cut between {sorted('-'.join(sorted(pair)) for pair in pairs)} for {lasts:.0f} ms")
        self.world.cut |= pairs
        self.world.after(lasts, lambda: self.world.cut.difference_update(pairs))

    def _fair(self) -> None:
        self.world.loss, self.world.slow = 0.0, 1.0

    def go(self) -> None:
        """Run it. Raises Violation."""
        self.world.run_until(TROUBLE_MS)
        self.world.say("-- the trouble is over")
        self.world.cut.clear()
        self._fair()
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


def run(seed: int) -> Run:
    """Run one seed; return the run for its figures. Raises Violation."""
    made = Run(seed)
    made.go()
    return made
