"""Linearizability of a history of one object. Decides only; bounded; says which part of a history is bad.

The search of Wing and Gong (1993) in the form of Lowe (2017), "just in time": events are taken in the order of time, and an operation is given its place only
when one that has to have one by now ends. What is remembered at a time is a set of configurations (state of the object, which of the operations under way
have had their effect); the same one is never looked at twice. Who uses up an operation that need not have happened is no better off than who has not
and is in the same state: only the latter is kept. That holds the set small however many outcomes are unknown.

The verdict is `good`, `bad` with the smallest part that shows it, or `too large`: never a guess.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from tests.histories.history import Operation

CONFIGURATIONS_MAX: Final = 200_000
"""Looked at for one answer; over it the verdict is `too large`."""
SHRINK_CONFIGURATIONS_MAX: Final = 500
SHRINK_CHECKS_MAX: Final = 200
"""So often a bad part is looked at again without one of its operations, to make it small."""


class Model(Protocol):
    """An object that does one thing after the other."""

    def told(self, operations: Sequence[Operation]) -> "Model":
        """Return the object, told of the history that it is compared with: it may leave out states from which that cannot go on."""
        ...

    def initial(self) -> Hashable: ...

    def step(self, state: Hashable, operation: Operation, now_ns: int = 0) -> Iterable[Hashable]:
        """Return the states that the operation may lead to with its result; none if the object never answers so. Where it is not known what the
        answer was (`must` is false), every answer counts. All that began before `now_ns` may have happened."""
        ...

    def is_on_demand(self, operation: Operation) -> bool:
        """Whether it has no place of its own: `step` of others does it with them when only that lets them go on."""
        ...

    def is_read(self, operation: Operation) -> bool:
        """Whether it changes nothing, so that a bad history may be made smaller by leaving it out."""
        ...


class Verdict(NamedTuple):
    """`bad`: the operations that no order explains."""

    word: Literal["good", "bad", "too large"]
    bad: tuple[object, ...] = ()
    why: str = ""

    @property
    def is_good(self) -> bool:
        return self.word == "good"

    def __str__(self) -> str:
        return "\n".join([f"{self.word}: {self.why}" if self.why else self.word, *map(str, self.bad)])


GOOD: Final = Verdict("good")


class _TooLarge(Exception):
    """There is more to look at than is allowed."""


class _Bad(Exception):
    """Nothing explains the operation that ended at this event."""


class _Configurations:
    """A set of configurations without those that others make superfluous. An operation under way is a bit."""

    def __init__(self, found: "dict[tuple[Hashable, int], list[int]] | None" = None) -> None:
        self._free: dict[tuple[Hashable, int], list[int]] = found or {}
        """(state, operations that had to have an effect and have had it) -> of those that need not, which have."""

    def add(self, state: Hashable, must: int, free: int) -> bool:
        """Return whether it says anything new."""
        known = self._free.get((state, must))
        if known is None:
            self._free[state, must] = [free]
            return True
        if any(one & free == one for one in known):
            return False
        known[:] = [one for one in known if one & free != free]
        known.append(free)
        return True

    def __iter__(self) -> Iterator[tuple[Hashable, int, int]]:
        return iter([(state, must, free) for (state, must), frees in self._free.items() for free in frees])

    def __len__(self) -> int:
        return sum(map(len, self._free.values()))


class _Search:
    """One walk through the events of a history."""

    def __init__(self, model: Model, most: int) -> None:
        self._model, self._most = model, most
        self._open: dict[int, Operation] = {}
        """Operations under way, by their bit."""
        self._now = _Configurations()
        self._now.add(model.initial(), 0, 0)
        self._spare: list[int] = []
        self._bits = 0

    def begin(self, operation: Operation) -> int:
        if not self._spare:
            self._spare.append(1 << self._bits)
            self._bits += 1
        bit = heappop(self._spare)
        self._open[bit] = operation
        return bit

    def end(self, bit: int, now_ns: int) -> None:
        """Give the operation its place, if it has to have one, in every way that is possible."""
        operation = self._open[bit]
        after, seen = _Configurations(), _Configurations()
        waiting = []
        for state, must, free in self._now:
            seen.add(state, must, free)
            waiting.append((state, must, free))
        count = len(waiting)
        while waiting:
            state, must, free = waiting.pop()
            if (must | free) & bit:
                after.add(state, must & ~bit, free & ~bit)
                continue
            if not operation.must:
                after.add(state, must, free)
            for other, candidate in self._open.items():
                if (must | free) & other:
                    continue
                for found in self._model.step(state, candidate, now_ns):
                    where = (found, must | other, free) if candidate.must else (found, must, free | other)
                    if seen.add(*where):
                        waiting.append(where)
                        count += 1
                        if count > self._most:
                            raise _TooLarge
        if not len(after):
            raise _Bad
        del self._open[bit]
        heappush(self._spare, bit)
        self._now = after
        self._forget()

    def _forget(self) -> None:
        """Let go of operations that have had their effect whatever happened, and will not end."""
        everywhere = -1
        for _state, must, free in self._now:
            everywhere &= must | free
        if everywhere <= 0:
            return
        gone = sum(bit for bit, operation in self._open.items() if bit & everywhere and operation.ended_ns is None)
        if gone:
            kept = _Configurations()
            for state, must, free in self._now:
                kept.add(state, must & ~gone, free & ~gone)
            self._now = kept
            for bit in [bit for bit in self._open if bit & gone]:
                del self._open[bit]
                heappush(self._spare, bit)


def _walk(model: Model, operations: Sequence[Operation], most: int) -> int:
    """Return -1, or the index of the operation at whose end nothing is left that explains it. Raises _TooLarge."""
    told = model.told(operations)
    events: list[tuple[int, int, int]] = []
    for index, operation in enumerate(operations):
        if told.is_on_demand(operation):
            continue
        events.append((operation.began_ns, 0, index))
        if operation.ended_ns is not None:
            events.append((operation.ended_ns, 1, index))
    search = _Search(told, most)
    bits: dict[int, int] = {}
    for at_ns, is_end, index in sorted(events):  # at the same time: first what begins, since nothing says that it was later
        if not is_end:
            bits[index] = search.begin(operations[index])
            continue
        try:
            search.end(bits[index], at_ns)
        except _Bad:
            return index
    return -1


def check(model: Model, operations: Iterable[Operation], *, configurations_max: int = CONFIGURATIONS_MAX) -> Verdict:
    """Say whether the object of the model could have answered so."""
    history = tuple(operations)
    try:
        bad = _walk(model, history, configurations_max)
    except _TooLarge:
        return Verdict("too large", (), f"more than {configurations_max} configurations for one answer among {len(history)} operations")
    if bad < 0:
        return GOOD
    last = history[bad].ended_ns
    assert last is not None
    part = tuple(operation for operation in history if operation.began_ns <= last)
    small = shrink(model, part, lambda less: _is_bad(model, less, min(configurations_max, SHRINK_CONFIGURATIONS_MAX)))
    return Verdict(
        "bad", small, f"no order of these operations explains the answers, the last of them to {history[bad].client} at {last / 1e6:.3f} ms"
    )


def _is_bad(model: Model, operations: Sequence[Operation], most: int) -> bool:
    try:
        return _walk(model, operations, most) >= 0
    except _TooLarge:
        return False


def shrink(model: Model, operations: Sequence[Operation], is_bad: Callable[[Sequence[Operation]], bool]) -> tuple[Operation, ...]:
    """Return those operations on which it depends that the history is bad, in the order of time.

    An operation is let go of by weakening it, which makes no good history bad: a read is left out, of anything else it is forgotten that it was done, and what
    its answer was. Those that were let go of and that change something stay in the history that is looked at, but are not shown.
    """
    kept = list(range(len(operations)))
    weak: dict[int, Operation] = {}

    def without(gone: Iterable[int]) -> dict[int, Operation]:
        return weak | {
            index: msgspec.structs.replace(operations[index], must=False, ended_ns=None) for index in gone if not model.is_read(operations[index])
        }

    checks, size = 0, max(1, len(kept) // 2)
    while size and checks < SHRINK_CHECKS_MAX:
        start, less = 0, False
        while start < len(kept) and checks < SHRINK_CHECKS_MAX:
            gone = kept[start : start + size]
            rest = kept[:start] + kept[start + size :]
            tried = without(gone)
            checks += 1
            if is_bad([operations[index] for index in rest] + list(tried.values())):
                kept, weak, less = rest, tried, True
            else:
                start += size
        if not less:
            size //= 2
    return tuple(sorted((operations[index] for index in kept), key=lambda operation: operation.began_ns))
