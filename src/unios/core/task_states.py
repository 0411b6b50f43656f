"""What `core.tasks` knows of a task, a worker and a crew. Data only."""

from collections.abc import Iterable, Mapping
from typing import Final

from unios.core.nearness import plan_node
from unios.core.task_orders import Loss

AHEAD: Final = 3
"""Tasks given to a worker beyond the one that it runs: what a round trip, or a thread that gets no processor for a moment, would cost."""
RETURNED_MAX: Final = 3
"""When so many have been taken back from behind one task, nothing lies ahead of it any more."""


class TaskState:
    """`bytes_at`: how much of the objects that it refers to is on which node; None: it refers to none."""

    __slots__ = ("begun", "bytes_at", "cancelled", "children", "id", "lost", "overtaken", "parent", "retries", "turn", "unbegun", "worker")

    def __init__(self, id_: int, retries: int, parent: int, bytes_at: Mapping[str, int] | None) -> None:
        self.id, self.retries, self.parent, self.bytes_at = id_, retries, parent, bytes_at
        self.worker = self.turn = self.children = self.unbegun = self.overtaken = 0
        """`unbegun`: so many workers ended while it was the first that they had and before they began it. `overtaken`: so often others went before it."""
        self.begun = self.cancelled = False
        self.lost: Loss | None = None
        """How the worker was lost that had it before."""

    def nearest(self, nodes: Iterable[str]) -> str:
        """Return the one of these nodes where it is done soonest, "" if that is all the same."""
        return plan_node({node: self.bytes_at.get(node, 0) for node in nodes}) if self.bytes_at else ""


class WorkerState:
    """One that is there or is being started."""

    __slots__ = ("barring", "begun_ms", "crew", "done", "id", "ready", "returned", "slots")

    def __init__(self, id_: int, crew: int) -> None:
        self.id, self.crew = id_, crew
        self.slots: list[TaskState] = []
        """What it runs, and what lies ahead of it."""
        self.ready = False
        self.barring = 0
        """The turn that it is being asked not to begin."""
        self.begun_ms = self.returned = 0
        """When it began what it runs; how many lay ahead of that and were taken back, which it has to read all the same."""
        self.done = 0

    @property
    def has_room(self) -> bool:
        """Whether it runs something and may be given more ahead of that."""
        slots = self.slots
        return 1 <= len(slots) <= AHEAD and not slots[0].children and not self.barring and self.returned < RETURNED_MAX

    def has_all(self, each_max: int | None) -> bool:
        """Say whether it is given no more, since it may have no more than so many."""
        return each_max is not None and self.done + len(self.slots) >= each_max


class CrewState:
    """`fruitful`: whether one of its workers has been ready."""

    __slots__ = ("fruitful", "id", "members", "node", "ready", "seats")

    def __init__(self, id_: int, seats: int) -> None:
        self.id, self.seats = id_, seats
        self.node = ""
        self.members: set[int] = set()
        self.ready = self.fruitful = False
