"""Sequences: which of 32 kinds of work goes next. Decides only; kernel/sequencer.py runs what is chosen, wire/outbox.py sends it.

After Lincoln TX-2 (1958): each source of work has one of 32 numbers and raises a flag when there is something to do; of those whose flags are up the
**lowest** number goes next. Work of one number is done in the order in which it came. What has been begun is never broken: a step of a task, or a
frame on a connection, is a protected stretch, and between two of them is a preemption point.

Background is not starved, and the bound is explicit: while several sequences wait, each SEQUENCE_TURNS_MAX-th turn is given to the one whose first
item has waited longest. So an item at the head of its sequence waits at most 32 * SEQUENCE_TURNS_MAX turns.
"""

from collections import deque
from typing import Final, Generic, TypeVar

from unios.limits import SEQUENCE_TURNS_MAX

T = TypeVar("T")
COUNT: Final = 32

# The one table: every source of work in the kernel, the most urgent first. docs/kernel.md says the same in words.
BEAT: Final = 0
LEASE: Final = 1
ARRIVAL: Final = 2
PING: Final = 3
FENCE: Final = 4
SIGNAL: Final = 5
SPAWN: Final = 6
EXIT: Final = 7
LINK: Final = 8
STORE: Final = 9
TERMINAL: Final = 10
RELAY: Final = 12
CALL: Final = 16
BACKGROUND: Final = 20
"""From here on up it is bulk: after each step of it the loop looks whether something more urgent has arrived."""
PORT: Final = 20
FEED: Final = 24
OUTPUT: Final = 25
BLOCK: Final = 28
STORY: Final = 30
HOUSEKEEPING: Final = 31

OPERATIONS: Final = {
    "links.ping": PING,
    "links.relay": RELAY,
    "links.accept": RELAY,
    "node.events": STORY,
    "ports.relay": PORT,
    "processes.attach": TERMINAL,
    "processes.feed": FEED,
    "processes.follow": OUTPUT,
    "processes.freeze": SIGNAL,
    "processes.signal": SIGNAL,
    "processes.spawn": SPAWN,
    "processes.thaw": SIGNAL,
    "store.end": LEASE,
    "store.grant": LEASE,
    "store.renew": LEASE,
}
GROUPS: Final = {"blocks": BLOCK, "store": STORE}
"""Of what is not named above, by its group; all else is CALL."""


def sequence_of(op: str) -> int:
    """Return the sequence in which a request for `op` is served and its messages are sent."""
    found = OPERATIONS.get(op)
    return GROUPS.get(op.partition(".")[0], CALL) if found is None else found


class Sequences(Generic[T]):
    """What waits, in 32 queues. With `prioritised=False` in one: for comparison."""

    __slots__ = ("_fair_in", "_flags", "_heads", "_prioritised", "_queues", "_raised", "count", "urgent")

    def __init__(self, *, prioritised: bool = True) -> None:
        self._prioritised = prioritised
        self._queues: tuple[deque[tuple[int, T]], ...] = tuple(deque() for _ in range(COUNT))
        self._flags = 0
        """Bit n is set while sequence n has work."""
        self._raised = 0
        self._fair_in = SEQUENCE_TURNS_MAX
        self.count = 0
        self.urgent = 0
        """How many of them are no background."""

    def raise_flag(self, sequence: int, work: T) -> None:
        """Add work to a sequence, behind what it has."""
        if not self._prioritised:
            sequence = 0
        self._raised += 1
        self._queues[sequence].append((self._raised, work))
        self._flags |= 1 << sequence
        self.count += 1
        if sequence < BACKGROUND:
            self.urgent += 1

    def take(self) -> T:
        """Remove and return what goes next; IndexError if no flag is up."""
        flags = self._flags
        sequence = (flags & -flags).bit_length() - 1
        if flags & (flags - 1):  # several wait
            self._fair_in -= 1
            if self._fair_in <= 0:
                sequence = self._longest_waiting()
                self._fair_in = SEQUENCE_TURNS_MAX
        elif sequence < 0:
            raise IndexError("nothing waits")
        queue = self._queues[sequence]
        work = queue.popleft()[1]
        if not queue:
            self._flags = flags & ~(1 << sequence)
        self.count -= 1
        if sequence < BACKGROUND:
            self.urgent -= 1
        return work

    def _longest_waiting(self) -> int:
        return min((n for n in range(COUNT) if self._flags >> n & 1), key=lambda n: self._queues[n][0][0])

    def first(self) -> int:
        """Return the most urgent sequence whose flag is up, COUNT if there is none."""
        flags = self._flags
        return (flags & -flags).bit_length() - 1 if flags else COUNT

    def quantum(self) -> int:
        """Return how many may be taken before new arrivals have to be looked for: all that is urgent, else one."""
        return self.urgent or (1 if self.count else 0)

    def clear(self) -> None:
        """Drop everything."""
        for queue in self._queues:
            queue.clear()
        self._flags = self.count = self.urgent = 0
