"""A register: `read`, `write`, and `swap`, which writes if the value is still what it is told and says what it found if it is not."""

from collections.abc import Hashable, Iterable, Sequence

import msgspec

from tests.histories.history import Asked, Operation


class Register:
    """One that holds None at first."""

    def told(self, operations: Sequence[Operation]) -> "Register":
        return self

    def initial(self) -> Hashable:
        return None

    def step(self, state: Hashable, operation: Operation, now_ns: int = 0) -> Iterable[Hashable]:
        match operation.action:
            case "read":
                return (state,) if not operation.must or operation.result == state else ()
            case "write":
                return (operation.argument,)
            case "swap":
                expected, new = operation.argument
                if not operation.must:
                    return (new,) if expected == state else (state,)
                done, found = operation.result
                if done:
                    return (new,) if expected == state else ()
                return (state,) if found == state and expected != state else ()
        raise ValueError(operation.action)

    def is_on_demand(self, operation: Operation) -> bool:
        return False

    def is_read(self, operation: Operation) -> bool:
        return operation.action == "read" or (operation.action == "swap" and operation.must and not operation.result[0])


def operations(asked: Sequence[Asked]) -> list[Operation]:
    """Return what a history says to a register to which each value is written once.

    What failed was not done. A write of unknown outcome whose value nobody has seen is left out: nothing tells that it was done. One whose value was seen has
    been done by the first answer that shows it.
    """
    found = [one.operation() for one in asked if one.outcome == "ok"]
    seen: dict[Hashable, int] = {}
    for operation in found:
        assert operation.ended_ns is not None
        for value in shown(operation):
            seen[value] = min(seen.get(value, operation.ended_ns), operation.ended_ns)
    for one in asked:
        if one.outcome == "unknown" and one.began.action != "read":
            operation = one.operation()
            value = operation.argument if operation.action == "write" else operation.argument[1]
            if value in seen:
                found.append(msgspec.structs.replace(operation, ended_ns=max(seen[value], operation.began_ns)))
    return found


def shown(operation: Operation) -> tuple[Hashable, ...]:
    """Return the values that an answer shows to have been there."""
    if operation.action == "read":
        return (operation.result,)
    if operation.action == "swap":
        return (operation.argument[0],) if operation.result[0] else (operation.result[1],)
    return ()
