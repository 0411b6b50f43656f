"""A lock with fencing tokens, held by readers together or by one writer: `acquire` (says the token), `check` (it is held still), `release` and `lose`.

A plain lock, and the office of an election, is one that is only ever acquired to write. The state is (tokens of readers, token of the writer, greatest token).
"""

from collections.abc import Hashable, Iterable, Sequence

from tests.histories.history import Asked, Operation

Token = tuple[int, int]
NONE: Token = (0, 0)


class Lock:
    """One that is free at first. The argument of `acquire` is "read" or "write"; that of all others, and the result of `acquire`, is a token.

    With `once`, and told of the history, it takes from a holder who has asked to release it, or has lost it, only what stands in another's way.
    """

    def __init__(self, *, once: bool = False) -> None:
        """`once`: whoever releases or loses it does that once for each token."""
        self._once = once
        self._over_ns: dict[Token, int] | None = None

    def told(self, operations: Sequence[Operation]) -> "Lock":
        if not self._once:
            return self
        found = Lock()
        found._over_ns = {_token(one.argument): one.began_ns for one in operations if one.action in ("release", "lose")}
        return found

    def is_on_demand(self, operation: Operation) -> bool:
        return self._over_ns is not None and operation.action in ("release", "lose")

    def initial(self) -> Hashable:
        return frozenset(), NONE, NONE

    def step(self, state: Hashable, operation: Operation, now_ns: int = 0) -> Iterable[Hashable]:
        assert isinstance(state, tuple)
        readers, writer, greatest = state
        if operation.action == "acquire":
            token = _token(operation.result)
            in_the_way = {writer} - {NONE} | (readers if operation.argument == "write" else set())
            if token <= greatest or not all(self._is_over(one, now_ns) for one in in_the_way):
                return ()
            return ((readers | {token}, NONE, token),) if operation.argument == "read" else ((frozenset(), token, token),)
        token = _token(operation.argument)
        if token != writer and token not in readers:
            return ()
        if operation.action == "check":
            return (state,)
        return ((readers - {token}, NONE if token == writer else writer, greatest),)

    def _is_over(self, token: Token, now_ns: int) -> bool:
        """Whether whoever held it so does not rely on it any more."""
        return self._over_ns is not None and token in self._over_ns and self._over_ns[token] <= now_ns

    def is_read(self, operation: Operation) -> bool:
        return operation.action == "check"


def _token(value: object) -> Token:
    assert isinstance(value, Sequence)
    return int(value[0]), int(value[1])


def operations(asked: Sequence[Asked]) -> list[Operation]:
    """Return what a history says to a lock.

    - A release waits for nobody: it takes effect at any time after it was asked for; with it the holder has stopped to rely on the lock.
    - Who is told that the lock was lost (`note`: lost) had lost it after the last time that it was told that it held it, and so, perhaps, has one who says no more.
    - An acquisition of which nobody heard is left out: it may have been lost at once.
    """
    found, proof_ns, over = [], {}, set()
    for one in asked:
        operation = one.operation()
        if operation.action == "acquire":
            if one.outcome == "ok" and operation.result is not None:
                found.append(operation)
                proof_ns[operation.client, _token(operation.result)] = operation.began_ns
            continue
        holding = operation.client, _token(operation.argument)
        if one.ended is not None and one.ended.note == "lost":
            over.add(holding)
            found.append(Operation(operation.client, "lose", holding[1], None, proof_ns[holding], None, False, operation.key))
        elif operation.action == "release":
            over.add(holding)
            found.append(Operation(operation.client, "release", holding[1], None, operation.began_ns, None, False, operation.key, operation.note))
        elif one.outcome == "ok":
            found.append(operation)
            proof_ns[holding] = operation.began_ns
    for (client, token), since_ns in proof_ns.items():
        if (client, token) not in over:
            found.append(Operation(client, "lose", token, None, since_ns, None, False, asked[0].began.key))
    return found
