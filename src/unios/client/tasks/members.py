"""Members: the processes of an executor as its engine sees them. Data only."""

from unios.client.tasks.functions import Shipped
from unios.client.tasks.line import Line
from unios.core.crews import Crew
from unios.wire.parcels import Gone


class Member:
    """A worker."""

    __slots__ = ("crew", "gone", "gone_at", "id", "line", "shipped")

    def __init__(self, id_: int, crew: int) -> None:
        self.id, self.crew = id_, crew
        self.line: Line | None = None
        self.shipped = Shipped()
        self.gone: Gone | None = None
        self.gone_at = 0.0


class Forker:
    """The parent of a crew's workers."""

    __slots__ = ("line", "lost", "node", "plan")

    def __init__(self, plan: Crew) -> None:
        self.plan = plan
        self.line: Line | None = None
        self.node = ""
        self.lost = False
