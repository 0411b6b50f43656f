"""The queue of a node in the simulation, and its admission: the deciders are the shipped ones, what carries them out is here."""

from typing import TYPE_CHECKING, Final

from unios.core import claims, placement
from unios.core.admission import Room
from unios.core.capacity import Books
from unios.core.processes import ProcessRecord
from unios.core.queue import Queue
from unios.core.share import Shares

if TYPE_CHECKING:
    from tests.sim.node import KernelSim

CORES: Final = 2
AGAIN_MS: Final = 700.0


class QueueSim:
    """That of one life of a kernel."""

    def __init__(self, kernel: "KernelSim", room: Room | None = None) -> None:
        self._kernel = kernel
        self.books = Books()
        self.queue = Queue(self.books, Shares())
        self.room = room

    def take_in(self, record: ProcessRecord) -> None:
        self.books.put(record)
        self.queue.put(record.pid, record)

    def run(self) -> None:
        """As Queueing does: the first of those that are ready places what waits, and looks again whether that came about."""
        kernel = self._kernel
        ready = kernel.members.names("ready")
        if ready[:1] != [kernel.name]:
            return
        for placed in self.queue.plan(ready, kernel.node.now_ms(), lambda _user: True, self._choose, 64):
            found = kernel.records[placed.pid]
            wanted = claims.placed(found[0], placed.node, found[0].reason)
            kernel.replace(wanted, found[1], lambda result, wanted=wanted: kernel.won(result, wanted))  # type: ignore[misc]
            kernel.later(AGAIN_MS, lambda pid=placed.pid: self._again(pid))  # type: ignore[misc]

    def _again(self, pid: int) -> None:
        if self._kernel.queueing is self:  # else the service has begun anew, and knows nothing of it
            self.take_in(self._kernel.records[pid][0])

    def _choose(self, record: ProcessRecord, names: list[str]) -> tuple[str, str]:
        ordered, _wrong = placement.order(placement.least_loaded, placement.candidates(self.books, names, record, {}))
        return (ordered[0], "") if ordered else ("", "")

    def best(self, record: ProcessRecord) -> str:
        """Return a node with room for it now, "" for none."""
        able = self.queue.able(self._kernel.members.names("ready"), record)
        return self._choose(record, [name for name in able if self.books.has_room(name, record.resources)])[0]

    def admit(self, record: ProcessRecord) -> str:
        """As Admission does: "" or why there is no room; a kernel that has only just come takes stock of its trees first."""
        trees = self._kernel.node.trees

        def lives(key: tuple[int, int]) -> bool:
            return key in trees and trees[key].state == "running"

        if self.room is None:
            self.room = Room()
            for pid, incarnation in filter(lives, trees):
                self.room.hold(ProcessRecord(pid, incarnation, "running", "root"))
        return self.room.take(record, CORES, 0, lives)
