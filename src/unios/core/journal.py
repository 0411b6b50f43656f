"""Journal: what deciders were told and what they ordered in a real run, line by line; and the replay that compares.

A line is {"decider", "event": [type, fields], "orders": [[type, fields], ...]}. Writing is given by the caller as a function of one line: this module
does no I/O. Replay feeds the events to fresh deciders of the shipped kind and returns the first line whose orders differ.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from unios.core import fencing, holding, membership, supervision


def _encode(thing: Any) -> list[Any]:
    fields = thing._asdict() if hasattr(thing, "_asdict") else msgspec.structs.asdict(thing)
    return [type(thing).__name__, fields]


def _decode(module: Any, encoded: Sequence[Any]) -> Any:
    name, fields = encoded
    return getattr(module, name)(**fields)


class Line(msgspec.Struct, frozen=True):
    """One event and its orders. `made` are the arguments that the decider was made with; the same decider has the same `id`."""

    decider: str
    id: str
    made: list[Any]
    event: list[Any]
    orders: list[list[Any]]


class Journal:
    """Writes the lines of one process."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def write(self, decider: str, event: Any, orders: Sequence[Any], *, id_: str = "", made: Sequence[Any] = ()) -> None:
        """Note that `decider` was told `event` and answered `orders`."""
        line = Line(decider, id_, list(made), _encode(event), [_encode(order) for order in orders])
        self._write(msgspec.json.encode(line) + b"\n")


class Difference(NamedTuple):
    """Where a replay parts from the record."""

    number: int
    line: Line
    orders: list[list[Any]]


DECIDERS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "holding": (holding, holding.Holder),
    "membership": (membership, membership.Membership),
    "supervision": (supervision, supervision.Supervision),
    "fencing": (fencing, fencing.Leash),
}


def replay(lines: Iterable[bytes]) -> tuple[int, Difference | None]:
    """Return how many lines agreed and the first that did not, if any."""
    living: dict[tuple[str, str], Any] = {}
    agreed = 0
    for number, raw in enumerate(lines, 1):
        line = msgspec.json.decode(raw, type=Line)
        module, make = DECIDERS[line.decider]
        decider = living.get((line.decider, line.id))
        if decider is None:
            decider = living[line.decider, line.id] = make(*line.made)
        orders = [_encode(order) for order in decider.on(_decode(module, line.event))]
        if msgspec.json.encode(orders) != msgspec.json.encode(line.orders):
            return agreed, Difference(number, line, orders)
        agreed += 1
    return agreed, None
