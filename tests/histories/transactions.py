"""Strict serializability of transactions that append to lists and read them. Decides only; linear in the size of the history.

After Adya (1999) and Kingsbury and Alvaro (2020, "Elle"): what is appended is appended once, so the longest list that anybody read says in which order its
elements came (ww), who read what (wr), and what each reader came before (rw); that one transaction had ended before another began (rt) says the same.
A circle in that is an order that nothing has. Besides: lists that do not agree, elements that nobody appended, or a transaction that was not done.

It is exact where who appends to a list also reads it in the same transaction; else a bad history may pass, and a good one still never fails.
"""

import itertools
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tests.histories.history import Asked
from tests.histories.linear import GOOD, Verdict


class Transaction(msgspec.Struct, frozen=True):
    """One that first reads, then appends. `must`: it was done; else it may have been, and what it read is not known; or, with `aborted`, it was not."""

    client: str
    reads: dict[str, tuple[Hashable, ...]]
    appends: dict[str, Hashable]
    began_ns: int
    ended_ns: int | None
    must: bool = True
    aborted: bool = False

    def __str__(self) -> str:
        end = "..." if self.ended_ns is None else f"{self.ended_ns / 1e6:.3f}"
        word = "  (not done)" if self.aborted else "" if self.must else "  (may or may not have been done)"
        reads = " ".join(f"{key}={_short(value)}" for key, value in self.reads.items())
        appends = " ".join(f"{key}+{value}" for key, value in self.appends.items())
        return f"{self.began_ns / 1e6:14.3f} {end:>14} ms  {self.client:<10} reads {reads or '-'}; appends {appends or '-'}{word}"


def _short(value: Sequence[Hashable]) -> str:
    shown = [*(["..."] if len(value) > 4 else []), *map(str, value[-4:])]
    return f"[{' '.join(shown)}]"


class _Bad(Exception):
    """(what is wrong, the transactions that show it)."""

    def __init__(self, why: str, shown: Iterable[Transaction]) -> None:
        super().__init__(why)
        self.shown = tuple(shown)


class Edge(NamedTuple):
    kind: str
    to: int


def operations(asked: Sequence[Asked]) -> list[Transaction]:
    """Return the transactions of a history: the argument and the result say what is appended and what was read, by key."""
    found = []
    for one in asked:
        ended = one.ended
        reads: dict[str, Any] = {}
        if one.outcome == "ok" and ended is not None:
            reads = {key: tuple(_frozen(item) for item in items) for key, items in ended.result.items()}
        appends = {key: _frozen(item) for key, item in (one.began.argument or {}).items()}
        end_ns = ended.at_ns if ended is not None and one.outcome == "ok" else None
        found.append(Transaction(one.began.client, reads, appends, one.began.at_ns, end_ns, one.outcome == "ok", one.outcome == "fail"))
    return found


def _frozen(value: Any) -> Hashable:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def check(transactions: Iterable[Transaction]) -> Verdict:
    """Say whether some order of the transactions, which keeps that one had ended before another began, explains all that was read."""
    history = tuple(transactions)
    try:
        longest = _lists(history)
        writers = _writers(history, longest)
        _whole(history)
        _acyclic(history, longest, writers)
    except _Bad as bad:
        return Verdict("bad", bad.shown, str(bad))
    return GOOD


def _lists(history: Sequence[Transaction]) -> dict[str, tuple[Hashable, ...]]:
    """Return the longest list of each key that anybody read; every other one must be its beginning."""
    longest: dict[str, tuple[tuple[Hashable, ...], Transaction]] = {}
    for one in history:
        for key, items in one.reads.items():
            if len(set(items)) < len(items):
                raise _Bad(f"an element is twice in {key}", [one])
            known = longest.get(key)
            if known is None or len(items) > len(known[0]):
                longest[key] = items, one
    for one in history:
        for key, items in one.reads.items():
            if longest[key][0][: len(items)] != items:
                raise _Bad(f"two lists of {key} do not agree", [one, longest[key][1]])
    return {key: items for key, (items, _one) in longest.items()}


def _writers(history: Sequence[Transaction], longest: dict[str, tuple[Hashable, ...]]) -> dict[tuple[str, Hashable], int]:
    """Return by whom each element of the lists was appended."""
    writers: dict[tuple[str, Hashable], int] = {}
    for index, one in enumerate(history):
        for key, item in one.appends.items():
            assert (key, item) not in writers, f"{item} is appended twice to {key} by the clients themselves"
            writers[key, item] = index
    for key, items in longest.items():
        for item in items:
            readers = [one for one in history if item in one.reads.get(key, ())][:1]
            if (key, item) not in writers:
                raise _Bad(f"nobody appended {item} to {key}", readers)
            writer = history[writers[key, item]]
            if writer.aborted:
                raise _Bad(f"{item} is in {key}, by a transaction that was said not to have been done", [writer, *readers])
    return writers


def _whole(history: Sequence[Transaction]) -> None:
    """Nobody reads of himself what he has not appended yet."""
    for one in history:
        for key, items in one.reads.items():
            if key in one.appends and one.appends[key] in items:
                raise _Bad(f"a transaction read what it appended to {key} only then", [one])


def _edges(history: Sequence[Transaction], longest: dict[str, tuple[Hashable, ...]], writers: dict[tuple[str, Hashable], int]) -> list[list[Edge]]:
    """Return who must come before whom; nodes after the transactions are moments at which one had ended."""
    edges: list[list[Edge]] = [[] for _ in history]
    unseen: dict[str, list[int]] = {}
    for index, one in enumerate(history):
        done = one.must or any(item in longest.get(key, ()) for key, item in one.appends.items())
        for key, item in one.appends.items():
            if done and item not in longest.get(key, ()):
                unseen.setdefault(key, []).append(index)
    for key, items in longest.items():
        for before, after in itertools.pairwise(items):
            edges[writers[key, before]].append(Edge(f"{after} follows {before} in {key}", writers[key, after]))
        for index in unseen.get(key, ()):
            if items:
                edges[writers[key, items[-1]]].append(Edge(f"nobody has seen what was appended to {key} after {items[-1]}", index))
    for index, one in enumerate(history):
        for key, seen in one.reads.items():
            whole = longest[key]
            if seen:
                edges[writers[key, seen[-1]]].append(Edge(f"{seen[-1]} was read of {key}", index))
            if len(seen) < len(whole):
                edges[index].append(Edge(f"{whole[len(seen)]} was not there yet when {key} was read", writers[key, whole[len(seen)]]))
            else:
                edges[index].extend(Edge(f"what was appended to {key} was not there yet when it was read", other) for other in unseen.get(key, ()))
    _in_time(history, edges)
    return edges


def _in_time(history: Sequence[Transaction], edges: list[list[Edge]]) -> None:
    """Add that who had ended comes before who began later, by a chain of the moments of ending: so they are as many as the transactions."""
    ends = sorted((one.ended_ns, index) for index, one in enumerate(history) if one.ended_ns is not None)
    begins = sorted((one.began_ns, index) for index, one in enumerate(history))
    moment, at = -1, 0
    for began_ns, index in begins:
        while at < len(ends) and ends[at][0] < began_ns:
            edges.append([])
            if moment >= 0:
                edges[moment].append(Edge("", len(edges) - 1))
            moment = len(edges) - 1
            edges[ends[at][1]].append(Edge("it had ended before the next began", moment))
            at += 1
        if moment >= 0:
            edges[moment].append(Edge("", index))


def _acyclic(history: Sequence[Transaction], longest: dict[str, tuple[Hashable, ...]], writers: dict[tuple[str, Hashable], int]) -> None:
    edges = [[edge for edge in own if edge.to != index] for index, own in enumerate(_edges(history, longest, writers))]
    smallest: list[Edge] = []
    for component in components(edges):
        circle = _circle(edges, component, len(history), len(smallest) or len(component) + 1)
        smallest = circle or smallest
    if smallest:
        nodes = [edge.to for edge in smallest if edge.to < len(history)]
        why = "; ".join(edge.kind for edge in smallest if edge.kind)
        raise _Bad(f"each of these comes before the next and the last before the first: {why}", [history[index] for index in nodes])


def components(edges: Sequence[Sequence[Edge]]) -> list[list[int]]:
    """Return the strongly connected components of more than one node (Tarjan 1972, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    inside: set[int] = set()
    found = []
    for root in range(len(edges)):
        if root in order:
            continue
        order[root] = low[root] = len(order)
        stack.append(root)
        inside.add(root)
        path = [(root, iter(edges[root]))]
        while path:
            node, rest = path[-1]
            edge = next(rest, None)
            if edge is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == order[node]:
                    component = [stack.pop()]
                    while component[-1] != node:
                        component.append(stack.pop())
                    inside.difference_update(component)
                    if len(component) > 1:
                        found.append(component)
            elif edge.to not in order:
                order[edge.to] = low[edge.to] = len(order)
                stack.append(edge.to)
                inside.add(edge.to)
                path.append((edge.to, iter(edges[edge.to])))
            elif edge.to in inside:
                low[node] = min(low[node], order[edge.to])
    return found


STARTS_MAX: Final = 200
"""From so many nodes of a component the shortest circle is looked for."""


def _circle(edges: Sequence[Sequence[Edge]], component: Sequence[int], transactions: int, shorter: int) -> list[Edge]:
    """Return a circle of fewer edges than `shorter`, as short as any through one of the first nodes; none if there is none."""
    inside, best = set(component), []
    for start in [node for node in component if node < transactions][:STARTS_MAX]:
        came: dict[int, tuple[int, Edge]] = {}
        waiting = deque([start])
        while waiting and start not in came:
            node = waiting.popleft()
            for edge in edges[node]:
                if edge.to in inside and edge.to not in came:
                    came[edge.to] = node, edge
                    waiting.append(edge.to)
        if start not in came:
            continue
        circle, node = [], start
        while not circle or node != start:
            node, edge = came[node]
            circle.append(edge)
        if len(circle) < (len(best) or shorter):
            best = circle[::-1]
    return best
