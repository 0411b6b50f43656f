"""Admission: a node takes no process for which it has not enough left to set aside, whoever assigned it. Mechanism: it refuses, and decides nothing else.

Services place by mirrors that may be behind, and two of them may place at the same time; here is the one place that knows. Looking and setting aside
happen in one step of the loop (core/admission.py). What is set aside is given back when the tree has ended. After a restart of the kernel the trees that
the guard tells of are taken stock of first, by their records.
"""

from typing import TYPE_CHECKING

from unios.core.admission import Key, Room
from unios.core.nodes import node_key
from unios.core.processes import ProcessRecord, process_key
from unios.errors import NoRoom

if TYPE_CHECKING:
    from unios.kernel.node import Node


class Admission:
    """That of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._room = Room()
        self._stocked = False

    async def admit(self, record: ProcessRecord) -> None:
        """Set aside what the process asks for. Raises NoRoom. Idempotent."""
        node = self._node
        if not self._stocked:
            await node.trees.wait_up()
            await node.processes.wait_complete()
            if not self._stocked:  # another start may have done it meanwhile
                self._take_stock()
        mine = node.nodes.values.get(node_key(node.name))
        lacks = self._room.take(record, node.cores, mine.memory_bytes if mine is not None else 0, self._lives)
        if lacks:
            raise NoRoom(f"{node.name} has no room: {lacks}")

    def give_back(self, pid: int, incarnation: int) -> None:
        """It was not started; what one that runs has set aside stays. Idempotent."""
        if not self._lives((pid, incarnation)):
            self._room.give_back(pid, incarnation)

    def _take_stock(self) -> None:
        self._stocked = True
        for (pid, incarnation), tree in self._node.trees.trees.items():
            record = self._node.processes.values.get(process_key(pid))
            if tree.state in ("starting", "running") and record is not None and record.incarnation == incarnation:
                self._room.hold(record)

    def _lives(self, key: Key) -> bool:
        tree = self._node.trees.trees.get(key)
        return key in self._node.starts.tasks or (tree is not None and tree.state in ("starting", "running"))
