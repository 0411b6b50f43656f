"""An unfinished `up`: what is taken back of one that was broken off. Decides only; kernel/unfinished.py acts.

Invariants: what ran before it runs on; what it may be asked for by somebody by now is not thrown away. So a system is taken away only by the command that
made it, before that has said that it is ready and before anything has run in it, or later if none of its nodes has ever come into it.
"""

from collections.abc import Collection
from typing import NamedTuple

import msgspec


class Unfinished(msgspec.Struct, frozen=True):
    """What was there when an `up` began, kept in UNIOS_HOME/up.json until it has ended. `pid` and `start` name its Linux process."""

    pid: int
    start: int
    nodes: tuple[str, ...]
    running: tuple[str, ...]
    fresh: bool
    """Whether there was no system here."""
    joins: bool = False
    """Whether it was to join one that is elsewhere."""


class Seen(NamedTuple):
    """What is there now."""

    nodes: Collection[str]
    running: Collection[str]
    entered: Collection[str]
    """Nodes that may have been known to the system at some time."""
    used: bool
    """Whether a process has ever been started here, or another machine is known."""


class Undo(NamedTuple):
    """What to do, in this order."""

    leave: tuple[str, ...] = ()
    """New nodes of a system that goes on: one that cannot leave stays, and so does what its machine knows."""
    stop: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    """Nodes whose folders go."""
    system: bool = False
    """Whether what this machine knows of the system goes too."""


def plan_undo(began: Unfinished, seen: Seen, *, at_once: bool) -> Undo:
    """Return what is taken back. `at_once`: by the command itself; else it was killed, at some time in the past, and all nodes are being stopped."""
    made = tuple(name for name in seen.nodes if name not in began.nodes)
    founds = began.fresh and not began.joins
    if founds and not seen.used and (at_once or not seen.entered):
        return Undo(stop=made, remove=made, system=True)
    if not at_once:
        return Undo()
    stop = tuple(name for name in seen.running if name not in (*began.running, *made))
    return Undo(stop=stop + made) if founds else Undo(made, stop, made, began.fresh)
