"""Upgrading: whether an installation may take the place of another, and the roll over a machine's nodes. Decides only; kernel/upgrading.py acts.

Invariants: one node at a time; the node with the store's process is the last; the first failure ends the roll, and that node is put back.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

Span = tuple[int, int]
"""The first and the last number that is understood."""

PYTHON_MIN: Final = (3, 11)
FREE_BYTES_MIN: Final = 64 * 1024 * 1024
"""Logs, run files and the store's journal need some room; a disk this full is nothing to upgrade on."""


class Facts(msgspec.Struct, frozen=True):
    """What an installation says of itself. `links`: protocol between kernels and with clients; `trees`: between kernel, guard and inits; `store`: formats of
    the embedded store's file that it reads, of which it writes the last."""

    version: str
    package: str
    python: tuple[int, int]
    links: Span
    trees: Span
    store: Span


class Around(msgspec.Struct, frozen=True):
    """What the installation would meet. `nodes`: the protocols of links of the system's other nodes; `trees`: of each running process the protocol of its
    init; `store`: the format of this machine's store, 0 for none; `free_bytes` of the disk with UNIOS_HOME."""

    nodes: Mapping[str, Span]
    trees: Mapping[int, int]
    store: int
    free_bytes: int


def obstacles(new: Facts, around: Around) -> list[str]:
    """Return why the installation cannot take over, as sentences; [] if it can."""
    found = []
    if new.python < PYTHON_MIN:
        found.append(f"its Python is {new.python[0]}.{new.python[1]}, and unios needs {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer")
    apart = [f"{name} ({_span(theirs)})" for name, theirs in sorted(around.nodes.items()) if not meet(theirs, new.links)]
    if apart:
        found.append(f"it speaks protocol {_span(new.links)} on links, which {_some(apart)} would not understand: go by a version in between")
    strange = [str(pid) for pid, protocol in sorted(around.trees.items()) if not meet((protocol, protocol), new.trees)]
    if strange:
        found.append(
            f"it cannot look after what runs under inits of another protocol ({_some(strange)}): wait for it, end it or move it to another node"
        )
    if around.store and not meet((around.store, around.store), new.store):
        found.append(
            f"the store's file has format {around.store}, and it reads {_span(new.store)}: "
            + ("go by a version in between", "use a newer one")[around.store > new.store[1]]
        )
    if around.free_bytes < FREE_BYTES_MIN:
        found.append(f"only {around.free_bytes >> 20} MiB are free on the disk of UNIOS_HOME, {FREE_BYTES_MIN >> 20} are needed")
    return found


def changes_store(new: Facts, around: Around) -> bool:
    """Whether the store's file would be of another format after it, which what runs now does not read: there would be no way back."""
    return bool(around.store) and new.store[1] != around.store


def meet(one: Span, other: Span) -> bool:
    """Whether the two have a number in common."""
    return max(one[0], other[0]) <= min(one[1], other[1])


def _span(span: Span) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]} to {span[1]}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


class Replace(NamedTuple):
    """Order: have the node run the new installation."""

    node: str


class PutBack(NamedTuple):
    """Order: have the node run again what it ran before."""

    node: str
    why: str


class Finish(NamedTuple):
    """Order: the roll is over; `why` it did not get to its end, "" if it did."""

    why: str = ""


class Replaced(NamedTuple):
    """The node runs the new installation and is ready."""

    node: str


class Failed(NamedTuple):
    """It could not be made to."""

    node: str
    why: str


class WasPutBack(NamedTuple):
    """The node runs what it ran before, or with `why` not even that."""

    node: str
    why: str = ""


class BrokenOff(NamedTuple):
    """Whoever asked for it wants it to end with the node that it is at."""


Event = Replaced | Failed | WasPutBack | BrokenOff
Order = Replace | PutBack | Finish


class Roll:
    """That over the nodes of one machine."""

    def __init__(self, nodes: Iterable[str], store: str, *, way_back: bool) -> None:
        """`store`: the node with the store's process, "" if none has it. `way_back`: whether what ran before is still there."""
        self._left = sorted(nodes, key=lambda name: (name == store, len(name), name))
        self._way_back = way_back
        self._why = ""

    def begin(self) -> Order:
        """Return the first order."""
        return self._next()

    def on(self, event: Event) -> Order | None:
        """Take in what has become of the last order; return the next one."""
        match event:
            case BrokenOff():
                self._why = self._why or "it was broken off"
                return None
            case Replaced():
                return self._next()
            case Failed(node, why):
                self._why = f"{node}: {why}"
                if self._way_back:
                    return PutBack(node, why)
                return Finish(f"{self._why}; what it ran before is not there any more, so it was not put back")
            case WasPutBack(node, why):
                return Finish(f"{self._why}; {f'and {node} could not be put back: {why}' if why else f'{node} was put back to what it ran before'}")

    def _next(self) -> Order:
        if self._why:
            return Finish(self._why)
        return Replace(self._left.pop(0)) if self._left else Finish()
