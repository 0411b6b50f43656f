"""A queue, first in, first out: `put`, `get` (None: it was empty), and `lose`, which empties it: its keeper's memory is gone, and who used it was told so.

Each item is put in once, and none is 0.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

import msgspec

from tests.histories.history import Asked, Operation

NOBODYS: Final = 0
"""In place of an item that nobody got, so far as is known."""


class Queue:
    """One that is empty at first. With `once`, and told of the history, it takes all items that nobody got for one, has gets of which nobody knows take such
    an item when it stands in somebody's way, and does not go on with what can come to no good end. The state is (items, how many gets nobody knows of)."""

    def __init__(self, *, once: bool = False) -> None:
        """`once`: each item is put in once."""
        self._once = once
        self._got: dict[Hashable, Operation] | None = None
        self._unknown_ns: list[int] = []

    def told(self, operations: Sequence[Operation]) -> "Queue":
        if not self._once:
            return self
        gets = [one for one in operations if one.action == "get"]
        found = Queue()
        found._got = {one.result: one for one in gets if one.must and one.result is not None}
        found._unknown_ns = sorted(one.began_ns for one in gets if not one.must)
        return found

    def is_on_demand(self, operation: Operation) -> bool:
        return self._got is not None and operation.action == "get" and not operation.must

    def initial(self) -> Hashable:
        return (), 0

    def step(self, state: Hashable, operation: Operation, now_ns: int = 0) -> Iterable[Hashable]:
        assert isinstance(state, tuple)
        items, used = state
        match operation.action:
            case "put":
                return self._put(items, operation.argument, used)
            case "lose":
                if self._got is None or operation.must:
                    return (((), used),) if self._got is None or not any(items) else ()
                return (((), used),) if items and not any(items) else ()
            case "get":
                if not operation.must:
                    return ((items[1:], used),)
                ahead = next((index for index, item in enumerate(items) if item != NOBODYS), len(items)) if self._got is not None else 0
                if ahead + used > bisect_right(self._unknown_ns, now_ns):
                    return ()
                if operation.result is None:
                    return (((), used + ahead),) if len(items) == ahead else ()
                return ((items[ahead + 1 :], used + ahead),) if items[ahead:] and items[ahead] == operation.result else ()
        raise ValueError(operation.action)

    def _put(self, items: tuple[Hashable, ...], item: Hashable, used: int) -> Iterable[Hashable]:
        if self._got is None:
            return (((*items, item), used),)
        mine = self._got.get(item)
        if mine is None:
            return (((*items, NOBODYS), used),)
        assert mine.ended_ns is not None
        if any(mine.ended_ns < self._got[before].began_ns for before in items if before != NOBODYS):
            return ()
        return (((*items, item), used),) if items.count(NOBODYS) + used <= len(self._unknown_ns) else ()

    def is_read(self, operation: Operation) -> bool:
        return operation.action == "get" and operation.must and operation.result is None


def operations(asked: Sequence[Asked]) -> list[Operation]:
    """Return what a history says to a queue.

    Who is told that the queue was lost (`note`: lost) had it lost between its last good answer of it and now; whose put has no known outcome may have been
    told so by that. A put of unknown outcome whose item nobody got is left out: nobody can tell. One whose item was got has been done by then.
    """
    found = []
    got: dict[Hashable, int] = {}
    last_ns: dict[str, int] = {}
    for one in asked:
        client = one.began.client
        if one.outcome == "ok":
            operation = one.operation()
            assert operation.ended_ns is not None
            found.append(operation)
            last_ns[client] = operation.began_ns
            if operation.action == "get" and operation.result is not None:
                got[operation.result] = operation.ended_ns
        elif one.ended is not None and (one.ended.note == "lost" or (one.outcome == "unknown" and one.began.action == "put")):
            since_ns = last_ns.get(client, one.began.at_ns)
            found.append(Operation(client, "lose", None, None, since_ns, one.ended.at_ns, one.ended.note == "lost", one.began.key))
    for one in asked:
        if one.outcome == "unknown":
            operation = one.operation()
            if operation.action == "get":
                found.append(operation)
            elif operation.argument in got:
                found.append(msgspec.structs.replace(operation, ended_ns=max(got[operation.argument], operation.began_ns)))
    return found
