"""One run of the simulation of logs: writers, readers, repairs and bad luck as a schedule has them; then calm, and everything acknowledged must be there.

Each method under `STEPS` is something that a schedule can do, with its arguments.
"""

from typing import Final

from tests.sim.log_clients import ReaderSim, RepairSim, WriterSim
from tests.sim.log_ledger import LogLedger
from tests.sim.log_nodes import LogNode, LogStore
from tests.sim.schedule import Schedule, Steps
from tests.sim.world import World
from unios.core.logs import LogRecord

TROUBLE_MS: Final = 6_000.0
CALM_MS: Final = 6_000.0


STEPS: Final = Steps()


class LogRun:
    """A log on the nodes of a schedule, to which its steps are done."""

    def __init__(self, schedule: Schedule) -> None:
        self.world = World(schedule.seed)
        self.ledger = LogLedger(self.world.fail)
        names = [f"n{number}" for number in range(1, schedule.setup["nodes"] + 1)]
        self.nodes = {name: LogNode(self.world, name, self.ledger) for name in names}
        copies = schedule.setup["copies"]
        self.store = LogStore(self.world, self.ledger, LogRecord("x", "root", copies, copies - schedule.setup["spare"]))
        self.writers: list[WriterSim] = []
        self.readers: list[ReaderSim] = []
        self._readers = 0
        self.new_writer()
        for _ in range(2):
            self.new_reader()
        self.repairs = RepairSim(self.world, "repair", self.nodes, self.store, self.ledger)
        self.spoiled = False
        """A disk is lost, or a frame damaged: once is enough."""
        for step in schedule.steps:
            self.world.after(step.at_ms, lambda step=step: STEPS.do(self, step))  # type: ignore[misc]

    @property
    def count(self) -> int:
        """How many entries were acknowledged."""
        return len(self.ledger.acknowledged)

    def new_writer(self) -> None:
        self.writers.append(WriterSim(self.world, f"w{len(self.writers) + 1}", self.nodes, self.store, self.ledger))

    def new_reader(self) -> None:
        self._readers += 1
        self.readers.append(ReaderSim(self.world, f"r{self._readers}", self.nodes, self.store, self.ledger))

    @STEPS
    def append(self, rounds: int = 1, count: int = 1, apart_ms: float = 40.0) -> None:
        """Every writer that lives appends so many entries, so many times; if none lives there is a new one."""
        alive = [writer for writer in self.writers if writer.alive]
        for writer in alive:
            writer.append(count)
        if not alive:
            self.new_writer()
        if rounds > 1:
            self.world.after(2 * apart_ms * self.world.rng.random(), lambda: self.append(rounds - 1, count, apart_ms))

    @STEPS
    def trim(self, pick: float) -> None:
        """A writer, who may be an old one, forgets some of what is acknowledged."""
        self.writers[int(pick * len(self.writers))].trim()

    @STEPS
    def repair(self) -> None:
        self.repairs.look()

    # trouble

    @STEPS
    def crash(self, node: str, lasts_ms: float = 300.0) -> None:
        """A machine loses power, and what was not synced: all, a tail, or a piece in the middle."""
        there = self.nodes[node]
        if there.replica is not None:
            there.crash()
            self.world.after(lasts_ms, there.boot)

    @STEPS
    def crash_all(self, lasts_ms: float = 300.0) -> None:
        for node in self.nodes:
            self.crash(node, lasts_ms)

    @STEPS
    def cut(self, node: str, lasts_ms: float = 300.0) -> None:
        """Cut a node off from some of the others, who may be those that matter."""
        self.world.cut_off([(node, other) for other in self._some_others(node)], lasts_ms)

    @STEPS
    def is_not_heard(self, node: str, lasts_ms: float = 300.0) -> None:
        """What a node says does not reach some of the others."""
        self.world.cut_off([(node, other) for other in self._some_others(node)], lasts_ms, one_way=True)

    def _some_others(self, name: str) -> list[str]:
        everybody = [*self.nodes, "store", *(client.name for client in (*self.writers, *self.readers)), "repair"]
        return [other for other in everybody if other != name and self.world.rng.random() < 0.7]

    @STEPS
    def kill_writer(self, pick: float) -> None:
        """A writer dies, and another one begins."""
        self.writers[int(pick * len(self.writers))].kill()
        self.new_writer()

    @STEPS
    def second_writer(self) -> None:
        """Somebody takes the log over from a writer that lives."""
        self.new_writer()

    @STEPS
    def store_away(self, lasts_ms: float = 300.0) -> None:
        self.store.up = False
        self.world.say("store: is away")
        self.world.after(lasts_ms, self._store_back)

    def _store_back(self) -> None:
        self.store.up = True

    @STEPS
    def slow_disk(self, node: str, slower: float = 40.0, lasts_ms: float = 300.0) -> None:
        there = self.nodes[node]
        there.slow = slower
        self.world.after(lasts_ms, lambda: setattr(there, "slow", 1.0))

    @STEPS
    def lose_disk(self, node: str) -> None:
        """All that a node had is gone; once in a run."""
        if not self.spoiled:
            self.world.say(f"{node}: loses its disk")
            self.nodes[node].lose_disk()
            self.spoiled = True

    @STEPS
    def damage(self, node: str) -> None:
        """A frame that was durable is spoiled; once in a run."""
        there = self.nodes[node]
        if there.replica is not None and not self.spoiled and there.disk.damage():
            self.world.say(f"{node}: a frame is damaged")
            self.spoiled = True

    @STEPS
    def network(self, loss: float = 0.3, slow: float = 1.0, duplicates: float = 0.02, lasts_ms: float = 300.0) -> None:
        """For a while messages are lost, repeated, late and out of order."""
        self.world.trouble(loss, slow, duplicates, lasts_ms)

    @STEPS
    def read_anew(self) -> None:
        """Readers ask for the beginning again, by the record that they know: much of that may have been trimmed since."""
        for reader in self.readers:
            reader.offset = 0

    # the end

    def go(self) -> None:
        """Run it. Raises Violation."""
        self.world.run_until(TROUBLE_MS)
        self.world.say("-- the trouble is over")
        self.world.heal()
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
