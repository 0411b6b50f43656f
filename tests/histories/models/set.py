"""A set: `add`, `remove`, and `read`, which says all that is in it. Each element is added once and removed once at most."""

from collections.abc import Hashable, Iterable, Sequence

from tests.histories.history import Asked, Operation


class Set:
    """One that is empty at first. With `once`, and told of the history, it has additions and removals of which nobody knows take effect only when a read shows
    it, and takes no way that leads past what is read. The state is (elements, elements that were removed)."""

    def __init__(self, *, once: bool = False) -> None:
        """`once`: each element is added once and removed once at most."""
        self._once = once
        self._told = False
        self._reads: tuple[frozenset[Hashable], ...] = ()
        self._staying: frozenset[Hashable] = frozenset()
        self._fits: dict[Hashable, bool] = {}
        self._may_come_ns: dict[Hashable, int] = {}
        self._may_go_ns: dict[Hashable, int] = {}

    def told(self, operations: Sequence[Operation]) -> "Set":
        if not self._once:
            return self
        found = Set()
        found._told = True
        removed = {one.argument for one in operations if one.action == "remove"}
        found._staying = frozenset(one.argument for one in operations if one.action == "add") - removed
        found._reads = tuple({frozenset(one.result) & found._staying for one in operations if one.action == "read" and one.must})
        found._may_come_ns = {one.argument: one.began_ns for one in operations if one.action == "add" and not one.must}
        found._may_go_ns = {one.argument: one.began_ns for one in operations if one.action == "remove" and not one.must}
        return found

    def is_on_demand(self, operation: Operation) -> bool:
        return self._told and not operation.must

    def initial(self) -> Hashable:
        return frozenset(), frozenset()

    def _is_on_the_way(self, elements: frozenset[Hashable]) -> bool:
        """Whether of each read what stays for ever was there already, or is there still to come."""
        staying = elements & self._staying
        if staying not in self._fits:
            self._fits[staying] = all(staying <= one or one <= staying for one in self._reads)
        return self._fits[staying]

    def step(self, state: Hashable, operation: Operation, now_ns: int = 0) -> Iterable[Hashable]:
        assert isinstance(state, tuple)
        elements, gone = state
        match operation.action:
            case "add":
                after = elements | {operation.argument}
                return ((after, gone),) if self._is_on_the_way(after) else ()
            case "remove":
                found = frozenset({operation.argument}) & elements
                return ((elements - found, gone | found if self._told else gone),)
            case "read":
                return self._read(elements, gone, frozenset(operation.result), now_ns) if operation.must else (state,)
        raise ValueError(operation.action)

    def _read(self, elements: frozenset[Hashable], gone: frozenset[Hashable], shown: frozenset[Hashable], now_ns: int) -> Iterable[Hashable]:
        came, went = shown - elements, elements - shown
        if came & gone or any(self._may_come_ns.get(one, now_ns + 1) > now_ns for one in came):
            return ()
        if any(self._may_go_ns.get(one, now_ns + 1) > now_ns for one in went):
            return ()
        return ((shown, gone | went if self._told else gone),)

    def is_read(self, operation: Operation) -> bool:
        return operation.action == "read"


def operations(asked: Sequence[Asked]) -> list[Operation]:
    """Return what a history says to a set. What failed was not done; additions and removals of unknown outcome may come at any time."""
    return [one.operation() for one in asked if one.outcome == "ok" or (one.outcome == "unknown" and one.began.action != "read")]
