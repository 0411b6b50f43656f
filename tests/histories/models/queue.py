"""A queue, first in, first out, in somebody's memory: `put`, `get` (None: it was empty), and `told`: who used it hears that it was lost and begun anew.

It may be lost at any time, with all that is in it. Then each process that had used it hears of that at its next use, which is not done; until then no use
of it succeeds. One that does not use it any more hears nothing. Each item is put in once, and none is 0.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from tests.histories.history import Asked, Operation

NOBODYS: Final = 0
"""In place of an item that nobody got, so far as is known."""


class State(NamedTuple):
    """What is in it, how many gets of which nobody knows took something, who used it since it was lost last, and who has to be told of a loss."""

    items: tuple[Hashable, ...] = ()
    unknown: int = 0
    users: frozenset[str] = frozenset()
    owed: frozenset[str] = frozenset()


def process(client: str) -> str:
    """Return the process of a client: all its threads hear of a loss together."""
    return client.partition(".queue")[0]


class Queue:
    """One that is empty at first. Told of the history it takes all items that nobody got for one, has gets of which nobody knows take such an item when it
    stands in somebody's way, and does not go on with what can come to no good end."""

    def __init__(self) -> None:
        self._got: dict[Hashable, Operation] | None = None
        self._unknown_ns: list[int] = []

    def told(self, operations: Sequence[Operation]) -> "Queue":
        gets = [one for one in operations if one.action == "get"]
        found = Queue()
        found._got = {one.result: one for one in gets if one.must and one.result is not None}
        found._unknown_ns = sorted(one.began_ns for one in gets if not one.must)
        return found

    def is_on_demand(self, operation: Operation) -> bool:
        return self._got is not None and operation.action == "get" and not operation.must

    def initial(self) -> Hashable:
        return State()

    def step(self, state: Hashable, operation: Operation, now_ns: int = 0) -> Iterable[Hashable]:
        """It may have been lost just before."""
        assert isinstance(state, State)
        found = list(self._do(state, operation, now_ns))
        if state.items and (self._got is None or not any(state.items)):  # what somebody got was not lost
            found += self._do(State((), state.unknown, frozenset(), state.owed | state.users), operation, now_ns)
        return found

    def _do(self, state: State, operation: Operation, now_ns: int) -> Iterable[State]:
        who = process(operation.client)
        if operation.action == "told":
            return (state._replace(owed=state.owed - {who}),)  # that it was told too often is no matter
        if operation.must and who in state.owed:
            return ()
        if operation.must:
            state = state._replace(users=state.users | {who})
        return self._put(state, operation.argument) if operation.action == "put" else self._get(state, operation, now_ns)

    def _get(self, state: State, operation: Operation, now_ns: int) -> Iterable[State]:
        items = state.items
        if not operation.must:
            return (state._replace(items=items[1:]),)
        ahead = 0
        if self._got is not None:
            ahead = next((index for index, item in enumerate(items) if item != NOBODYS), len(items))
            if ahead and ahead + state.unknown > bisect_right(self._unknown_ns, now_ns):
                return ()
        if (operation.result is None) != (len(items) == ahead) or (operation.result is not None and items[ahead] != operation.result):
            return ()
        return (state._replace(items=items[ahead + 1 :], unknown=state.unknown + ahead),)

    def _put(self, state: State, item: Hashable) -> Iterable[State]:
        if self._got is not None:
            mine = self._got.get(item)
            if mine is None:
                item = NOBODYS
            elif state.items.count(NOBODYS) + state.unknown > len(self._unknown_ns) or any(
                _before(mine, self._got[other]) for other in state.items if other != NOBODYS
            ):
                return ()
        return (state._replace(items=(*state.items, item)),)

    def is_read(self, operation: Operation) -> bool:
        return operation.action == "get" and operation.must and operation.result is None


def _before(one: Operation, other: Operation) -> bool:
    return one.ended_ns is not None and one.ended_ns < other.began_ns


def operations(asked: Sequence[Asked]) -> list[Operation]:
    """Return what a history says to a queue.

    Whose put has no known outcome may have been told of a loss by that. A put of unknown outcome whose item nobody got is left out: nobody can tell. One
    whose item was got has been done by then.
    """
    found = [one.operation() for one in asked if one.outcome == "ok"]
    got = {one.result: one.ended_ns for one in found if one.action == "get" and one.ended_ns is not None}
    for one in asked:
        operation = one.operation()
        end_ns = one.ended.at_ns if one.ended is not None else None
        if one.ended is not None and one.ended.note == "lost":
            found.append(msgspec.structs.replace(operation, action="told", must=True, ended_ns=end_ns))
        elif one.outcome == "unknown":
            if operation.action == "get":
                found.append(operation)
            elif operation.argument in got:
                found.append(msgspec.structs.replace(operation, ended_ns=max(got[operation.argument], operation.began_ns)))
            if end_ns is not None:
                found.append(msgspec.structs.replace(operation, action="told", must=False, ended_ns=end_ns))
    return found
