"""Expulsion: who has to confirm that a node is cut off, and what is said when some have not. Decides only; kernel/expelling.py asks and cuts.

Invariants: a node counts as cut off only when every node whose lease stands has said that it has cut it. One whose lease has ended does not hold up
anything: nothing that it does counts until it has registered anew, and before that it reads the records, which say who is expelled. It is named all the same.
"""

from collections.abc import Iterable

from unios.core.nodes import NodeRecord


def why_not(record: NodeRecord, me: str, keepers: frozenset[str], where: str) -> str:
    """Return why that node cannot be expelled by `me`, "" if it can. `keepers`: the machines that have the authority's key or the only store, in which
    others of the system could not keep anything from it."""
    if record.name == me:
        return f"{me} cannot expel itself: `unios leave --node {me}` makes it leave in order"
    if record.machine in keepers:
        return (
            f"{record.name} is a node of the machine that {where}: nothing can be kept from who has that machine. "
            f"`unios down --node {record.name}` there stops it; if the machine itself is not to be trusted, so is no record of this system"
        )
    return ""


class Expulsion:
    """Who was asked to cut a node off, and what each has said."""

    def __init__(self, asked: Iterable[str]) -> None:
        self._open = dict.fromkeys(asked, "it has not answered")
        self._lost: dict[str, str] = {}
        self.confirmed: list[str] = []

    @property
    def open(self) -> tuple[str, ...]:
        """Return who is waited for."""
        return tuple(self._open)

    def has_cut(self, name: str) -> None:
        """That node has confirmed."""
        if self._open.pop(name, None) is not None or self._lost.pop(name, None) is not None:
            self.confirmed.append(name)

    def failed(self, name: str, why: str, *, stands: bool) -> bool:
        """That node did not answer as it should. `stands`: whether its lease does. Return whether it is to be asked again."""
        if name not in self._open:
            return False
        if stands:
            self._open[name] = why
            return True
        del self._open[name]
        self._lost[name] = "its lease has ended: it cuts it off when it is back, before anything that it does counts"
        return False

    @property
    def is_whole(self) -> bool:
        """Whether every node whose lease stands has confirmed."""
        return not self._open

    def missing(self) -> tuple[tuple[str, str], ...]:
        """Return who has not confirmed, and why, by name."""
        return tuple(sorted({**self._open, **self._lost}.items()))
