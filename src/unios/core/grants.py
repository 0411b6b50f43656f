"""Grants: the data types of synchronisation across nodes: what a session asks of the locks' service, and what it hears. Data only.

A *session* is one process that synchronises. It holds what it was granted under a lease of its own, and speaks of it in messages that keep their
order. A *token* is (epoch, number): the epoch counts the services' lives, the number the grants in one; tokens of one system only grow.
"""

from typing import Final, NamedTuple

import msgspec

NOWAIT: Final = 1
"""Flag: what cannot be had at once is not waited for."""
TIMED: Final = 2
"""Flag: the waiter gives up by itself: it is no part of a deadlock."""
BOUNDED: Final = 4
"""Flag of a semaphore: more than was taken cannot be given back."""
ACTS: Final = 8
"""Flag of a barrier: the last to come does something before all go on."""
NO, YES, FAULT, BROKEN = 0, 1, 2, 3
"""What an answer says: not to be had, done, an error (`text` is its code and sentence), a broken barrier."""

KINDS: Final = frozenset({"lock", "rwlock", "semaphore", "event", "barrier", "queue", "election"})


class Token(NamedTuple):
    """A fencing token. Of two holders of a lock the later has the greater one: a resource that has seen it refuses the lesser."""

    epoch: int
    number: int


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Something wanted of `kind` `name`. `id` counts up in a session; 0 wants no answer. What `size`, `spec`, `number`, `text` and `data` are depends on `op`."""

    id: int
    op: str
    kind: str
    name: str
    actor: str = ""
    """Who of the session asks: a thread."""
    size: int = 1
    spec: int = 0
    """What the thing is made with: parties, capacity, greatest length."""
    flags: int = 0
    number: int = 0
    text: str = ""
    data: bytes = b""


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What was asked under `id` is not wanted any more; unless it has been answered it is answered now."""

    id: int
    kind: str = ""
    name: str = ""
    """If these are said nobody waits for the answer: what has been granted for it is free at once, not when its answer has come and it is given back."""


class Renew(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The session lives. Answers up to `heard` have come."""

    number: int
    heard: int


class Bye(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The session ends, and gives back what it holds."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """Something that a session holds: granted under `token`."""

    kind: str
    name: str
    token: Token
    size: int
    spec: int
    actor: str


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What a session knows of an event that it has used: the state (1: set) that it had from `token` on."""

    kind: str
    name: str
    token: Token
    state: int


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """Something asked and not answered yet, for so long."""

    ask: Ask
    waited_ms: int
    again: bool = True
    """It may have been asked before, on another connection; False: never."""


class Open(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A session begins, or goes on after its connection or the service was lost."""

    session: str
    label: str
    linux: tuple[str, int, int, int] = ("", 0, 0, 0)
    """Boot id, pid namespace, pid and start time of its process."""
    held: tuple[Held, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    known: tuple[Known, ...] = ()
    turn: int = 0
    """Which connection of the session it is. What an earlier one still brings is out of date: this one has said what is held and waited for since."""
    incarnation: int = 0
    """Counts how often its lease has ended. The numbers of its questions go on: what one incarnation has asked the next may ask again."""
    epoch: int = 0
    """Under which this incarnation was opened last; 0: not yet."""
    later: tuple[int, ...] = ()
    """Questions that wait as well; what they ask is said after this (More), since a message has a bound."""


class More(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """One of those that were to be said later than what opened the session."""

    waiting: Waiting


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What came of an Ask. `number`: of the token, if something was granted."""

    id: int
    outcome: int
    number: int = 0
    value: int = 0
    text: str = ""
    data: bytes = b""


class Renewed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    number: int


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The session goes on under this epoch."""

    epoch: int
    since: int = 0
    """No epoch since that one, itself included, has ended with anything in a manager's memory; 0: this one."""


class Over(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The session has ended: what it held is another's."""

    text: str


class Notice(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The state of a thing that the session has used has changed. Of a semaphore: somebody else has given back units that were granted under the token."""

    kind: str
    name: str
    token: Token
    state: int
    """Of an event: 1 if it is set; of a semaphore: how many units are left."""


Said = Ask | Withdraw | Renew | Bye | Open | More
"""By a session."""
Told = Answer | Renewed | Opened | Over | Notice
"""To a session."""
Out = list[tuple[str, Told]]
"""Who is told what."""


class Waiter:
    """One Ask that waits. Waiters are themselves: two are never equal."""

    __slots__ = ("ask", "number", "session", "value")

    def __init__(self, session: str, ask: Ask, number: int) -> None:
        self.session, self.ask, self.number, self.value = session, ask, number, 0

    @property
    def actor(self) -> tuple[str, str]:
        return self.session, self.ask.actor


Key = tuple[str, str, str]
"""user, kind, name"""


def fault(id_: int, code: str, text: str) -> Answer:
    return Answer(id_, FAULT, text=f"{code}:{text}")
