"""Reconcile: compares the trees that run on a node with the records that the store has, and says what to do about each difference. Decides only.

`plan(node, trees, records, ripe)`: a tree lives only while its record says that this node holds it as this incarnation; a record that names this
node has a tree, or is told what became of it.

Trees and records are seen at different moments. `trees` must have been listed before `records` were read from the store, and before an order about a
record without a tree is carried out there must still be none. A mirror may be behind: with it only `doubtful` is asked, and then the store.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Literal, NamedTuple

from unios.core import claims
from unios.core.processes import LIVE, ProcessRecord


class Tree(NamedTuple):
    """A tree of this node, as its guard tells."""

    pid: int
    incarnation: int
    state: Literal["starting", "running", "ended", "failed"]


class Confirm(NamedTuple):
    """Order: its claim stands; it may thaw."""

    pid: int
    incarnation: int


class Supersede(NamedTuple):
    """Order: another incarnation, or nobody, holds the process: kill the tree."""

    pid: int
    incarnation: int
    by: int


class Report(NamedTuple):
    """Order: the tree has ended or could not be started, and the store does not know."""

    pid: int
    incarnation: int


class Gone(NamedTuple):
    """Order: the record says that it runs here, and there is no tree: it was lost with an earlier life of the node."""

    pid: int
    incarnation: int


class StartNow(NamedTuple):
    """Order: it was assigned to this node and nobody has asked for its start since."""

    pid: int
    incarnation: int


class Adopt(NamedTuple):
    """Order: it runs here, and its record is not yet more than pending."""

    pid: int
    incarnation: int


class Drop(NamedTuple):
    """Order: the tree has ended and nothing needs it any more."""

    pid: int
    incarnation: int


Order = Confirm | Supersede | Report | Gone | StartNow | Adopt | Drop


def present(known: Iterable[Tree], begun: Set[tuple[int, int]]) -> list[Tree]:
    """Return the trees that are here: those that are known, and those of which it is not known yet what came of their start. A program that begins just
    before the lease is lost is frozen like any other, and only whoever is compared is told that he may go on."""
    trees = list(known)
    told = {(tree.pid, tree.incarnation) for tree in trees}
    return trees + [Tree(pid, incarnation, "starting") for pid, incarnation in sorted(begun - told)]


def plan(node: str, trees: Iterable[Tree], records: Mapping[int, ProcessRecord], ripe: frozenset[int]) -> list[Order]:
    """Return the orders. `records` by pid: all that this node has trees of or that name it. `ripe`: pending ones whose submitter had its time."""
    orders: list[Order] = []
    here: set[tuple[int, int]] = set()
    for tree in trees:
        here.add((tree.pid, tree.incarnation))
        orders.extend(_judge(node, tree, records.get(tree.pid)))
    for record in records.values():
        if record.node == node and record.state in LIVE and (record.pid, record.incarnation) not in here:
            if record.state != "pending":
                orders.append(Gone(record.pid, record.incarnation))
            elif record.pid in ripe:
                orders.append(StartNow(record.pid, record.incarnation))
    return orders


def doubtful(orders: Iterable[Order], ripe: frozenset[int] = frozenset()) -> frozenset[Order]:
    """Return those for which what a mirror shows is not enough. What runs and is pending still has its record on the way, unless it is `ripe`: then the store
    has gone back to an older state."""
    return frozenset(
        order
        for order in orders
        if isinstance(order, Supersede | Gone | Report | StartNow | Drop) or (isinstance(order, Adopt) and order.pid in ripe)
    )


def _judge(node: str, tree: Tree, record: ProcessRecord | None) -> list[Order]:
    lives = tree.state in ("starting", "running")
    if record is not None and claims.holds(record, node, tree.incarnation):
        if not lives:
            return [Report(tree.pid, tree.incarnation)]
        confirm: list[Order] = [Confirm(tree.pid, tree.incarnation)]
        return [*confirm, Adopt(tree.pid, tree.incarnation)] if record.state == "pending" and tree.state == "running" else confirm
    if lives:
        return [Supersede(tree.pid, tree.incarnation, max(record.incarnation if record else 0, tree.incarnation + 1))]
    if record is None or record.incarnation > tree.incarnation:
        return [Drop(tree.pid, tree.incarnation)]  # else its output is still asked for
    return []
