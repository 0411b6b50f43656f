"""One run of the simulation of logs: writers, readers, repairs and a seeded run of bad luck; then calm, and everything acknowledged must be there."""

from typing import Final

from tests.sim.log_clients import ReaderSim, RepairSim, WriterSim
from tests.sim.log_ledger import LogLedger
from tests.sim.log_nodes import LogNode, LogStore
from tests.sim.world import World
from unios.core.logs import LogRecord

TROUBLE_MS: Final = 6_000.0
CALM_MS: Final = 6_000.0


class LogRun:
    """A log on three to five nodes."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.world.command = "python -m tests.sim --logs"
        rng = self.world.rng
        self.ledger = LogLedger(self.world.fail)
        names = [f"n{number}" for number in range(1, rng.choice((3, 3, 4, 5)) + 1)]
        self.nodes = {name: LogNode(self.world, name, self.ledger) for name in names}
        self.disks = rng.random() < 0.15
        """A disk is lost; then that is all that happens to nodes, since with two replicas more would be more than one loss."""
        copies = rng.choice((2, 2, 3))
        least = copies if self.disks or rng.random() < 0.7 else copies - 1
        self.store = LogStore(self.world, self.ledger, LogRecord("x", "root", copies, least))
        self.writers: list[WriterSim] = []
        self.readers: list[ReaderSim] = []
        self._readers = 0
        self.new_writer()
        for _ in range(2):
            self.new_reader()
        self.repairs = RepairSim(self.world, "repair", self.nodes, self.store, self.ledger)
        for _ in range(rng.randrange(60, 150)):
            self.world.after(rng.uniform(50, TROUBLE_MS), self._append)
        self.spoiled = False
        """A disk is lost, or a frame damaged: once is enough."""
        for _fault in range(rng.randrange(3, 14)):
            self.world.after(rng.uniform(200, TROUBLE_MS), self._fault)
        for _ in range(4):
            self.world.after(rng.uniform(200, TROUBLE_MS), lambda: rng.choice(self.writers).trim() if self.writers else None)
            self.world.after(rng.uniform(200, TROUBLE_MS), self.repairs.look)

    def new_writer(self) -> None:
        self.writers.append(WriterSim(self.world, f"w{len(self.writers) + 1}", self.nodes, self.store, self.ledger))

    def new_reader(self) -> None:
        self._readers += 1
        self.readers.append(ReaderSim(self.world, f"r{self._readers}", self.nodes, self.store, self.ledger))

    def _append(self) -> None:
        rng = self.world.rng
        alive = [writer for writer in self.writers if writer.alive]
        for writer in alive:
            writer.append(rng.choice((1, 1, 2, 5)))
        if not alive:
            self.new_writer()

    # trouble

    def _fault(self) -> None:
        rng, world = self.world.rng, self.world
        lasts = rng.choice((rng.uniform(20, 300), rng.uniform(300, 1_500)))
        node = rng.choice(list(self.nodes.values()))
        kind = rng.randrange(12)
        if kind in (0, 1, 2, 3, 4, 10) and self.disks:
            if not self.spoiled:
                world.say(f"{node.name}: loses its disk")
                node.lose_disk()
                self.spoiled = True
            return
        match kind:
            case 0 | 1:
                if node.replica is not None:
                    node.crash()
                    world.after(lasts, node.boot)
            case 2:
                for each in [node for node in self.nodes.values() if node.replica is not None]:
                    each.crash()
                    world.after(lasts, each.boot)
            case 3 | 4:
                self._cut(node.name, lasts)
            case 5 | 6:
                rng.choice(self.writers).kill()
                self.new_writer()
            case 7:
                self.new_writer()
            case 8:
                self.store.up = False
                world.say("store: is away")
                world.after(lasts, self._store_back)
            case 9:
                node.slow = 40.0
                world.after(lasts, lambda: setattr(node, "slow", 1.0))
            case 10:
                if node.replica is not None and not self.spoiled and node.disk.damage():
                    world.say(f"{node.name}: a frame is damaged")
                    self.spoiled = True
            case _:
                world.loss, world.slow = rng.choice(((0.3, 1.0), (0.05, 15.0), (0.6, 3.0)))
                world.after(lasts, self._fair)

    def _store_back(self) -> None:
        self.store.up = True

    def _fair(self) -> None:
        self.world.loss, self.world.slow = 0.0, 1.0

    def _cut(self, name: str, lasts: float) -> None:
        """Cut a node off from some of the others, who may be those that matter."""
        rng = self.world.rng
        others = [*self.nodes, "store", *(client.name for client in (*self.writers, *self.readers)), "repair"]
        pairs = {frozenset((name, other)) for other in others if other != name and rng.random() < 0.7}
        self.world.say(f"network: {name} is cut off from {sorted('-'.join(sorted(pair)) for pair in pairs)}")
        self.world.cut |= pairs
        self.world.after(lasts, lambda: self.world.cut.difference_update(pairs))

    # the end

    def go(self) -> None:
        """Run it. Raises Violation."""
        self.world.run_until(TROUBLE_MS)
        self.world.say("-- the trouble is over")
        self.world.cut.clear()
        self._fair()
        self.store.up = True
        for node in self.nodes.values():
            node.slow = 1.0
            node.boot()
        for writer in self.writers:  # one may have been waiting for the store, and would take over from the last one, rightly
            writer.kill()
        self.new_writer()
        for reader in self.readers:
            reader.offset = 0
        self.world.run_until(TROUBLE_MS + CALM_MS / 3)
        self.writers[-1].append(3)
        self.world.run_until(TROUBLE_MS + 2 * CALM_MS / 3)
        self.new_reader()
        self.world.run_until(TROUBLE_MS + 2 * CALM_MS)
        self._check_end()

    def _check_end(self) -> None:
        writer = self.writers[-1].writer
        if writer is None or writer.state != "open" or writer.end != writer.confirmed:
            recovery = self.writers[-1].recovery
            self.world.fail(f"the last writer does not get on: {writer and writer.state}, {recovery and recovery.state}, {self.store.record}")
            return
        if self.ledger.acknowledged and max(self.ledger.acknowledged) >= writer.end:
            self.world.fail(f"acknowledged is {max(self.ledger.acknowledged)}, and the log ends at {writer.end}")
        for reader in self.readers:
            if reader.offset != writer.end:
                self.world.fail(f"{reader.name} has read up to {reader.offset}, and the log ends at {writer.end}: {self.store.record}")


def run_log(seed: int) -> LogRun:
    """Run one seed; return the run for its figures. Raises Violation."""
    made = LogRun(seed)
    made.go()
    return made
