"""What `core.tasks` orders, and what it is told of a loss. Data only."""

from typing import Literal, NamedTuple

Why = Literal["died", "memory", "node", "connection"]


class Loss(NamedTuple):
    """How a worker was lost; `text` a clause for a person."""

    why: Why
    text: str


class Give(NamedTuple):
    """Send the task to the worker. `begun`: it begins at once, else it lies ahead."""

    worker: int
    task: int
    turn: int
    begun: bool


class Begun(NamedTuple):
    """The task that lay ahead has begun."""

    task: int


class Bar(NamedTuple):
    """Ask the worker's crew that the worker shall begin nothing more of what it has been given, up to that turn; the answer is the event `barred`."""

    worker: int
    turn: int


class Waits(NamedTuple):
    """The task is back in the queue."""

    task: int


class Retire(NamedTuple):
    """The worker has had as many tasks as it may: it shall end, and has nothing left to do."""

    worker: int


class Fork(NamedTuple):
    """Start a worker in the crew."""

    worker: int
    crew: int


class Fail(NamedTuple):
    """The task has ended by a loss."""

    task: int
    loss: Loss


class Drop(NamedTuple):
    """The task was cancelled and never began."""

    task: int


class Hire(NamedTuple):
    """Have another crew, of so many workers, in place of one that is gone."""

    crew: int
    seats: int


class Break(NamedTuple):
    """Nothing can go on: every task fails for that reason."""

    text: str


Order = Give | Begun | Bar | Waits | Retire | Fork | Fail | Drop | Hire | Break
