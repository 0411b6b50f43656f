"""Checkers that try every order: too slow for anything but a handful of operations, and too simple to be wrong in the way that a clever one is."""

from collections.abc import Hashable, Sequence

from tests.histories.history import Operation
from tests.histories.linear import Model
from tests.histories.transactions import Transaction


def is_linearizable(model: Model, operations: Sequence[Operation]) -> bool:
    """Say whether some order of the operations, some of those that need not have happened left out, gives these answers."""

    def place(state: Hashable, left: tuple[Operation, ...]) -> bool:
        if not any(one.must for one in left):
            return True
        for one in left:
            rest = tuple(other for other in left if other is not one)
            if any(other.must and other.ended_ns is not None and other.ended_ns < one.began_ns for other in rest):
                continue
            late = tuple(other for other in rest if other.must or other.ended_ns is None or other.ended_ns >= one.began_ns)
            if any(place(found, late) for found in model.step(state, one)):
                return True
            if not one.must and place(state, rest):
                return True
        return False

    return place(model.initial(), tuple(operations))


def is_serializable(history: Sequence[Transaction]) -> bool:
    """The same of transactions: one that need not have happened may be left out, and one that was aborted is."""

    def place(lists: dict[str, tuple[Hashable, ...]], left: tuple[Transaction, ...]) -> bool:
        if not any(one.must for one in left):
            return True
        for one in left:
            rest = tuple(other for other in left if other is not one)
            if any(other.ended_ns is not None and other.ended_ns < one.began_ns for other in rest):
                continue
            if not one.must and place(lists, rest):
                return True
            if all(lists.get(key, ()) == items for key, items in one.reads.items()):
                after = lists | {key: (*lists.get(key, ()), item) for key, item in one.appends.items()}
                if place(after, rest):
                    return True
        return False

    return place({}, tuple(one for one in history if not one.aborted))
