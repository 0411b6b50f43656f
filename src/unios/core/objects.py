"""Objects: who refers to what a node's holder keeps, what goes to disk under pressure, and what nobody needs any more. Decides only.

A **party** refers to objects: a process of this node, the holder of another node (for all processes there together), or an object that has a reference inside.
A **loan** keeps an object for a reference that is under way: whoever sends it makes one before he sends, and may let go at once. Without it the receiver's word
("I have it") would race with the sender's ("I have it no more") over two connections. It ends soon after the receiver has registered, else after its time.

- An object is dropped when it has neither party nor loan, and never before.
- What is being read is not spilled: that would free nothing.
- An object of another node is *acquired* there once for this node, and released when nobody here refers to it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from unios.errors import Unavailable
from unios.object_limits import (
    OBJECT_AWAY_FAR_MS,
    OBJECT_AWAY_MS,
    OBJECT_LOAN_MS,
    OBJECT_LOAN_STEP_MS,
    OBJECT_LOANS_MAX,
    OBJECT_RECEIVED_MS,
    OBJECT_SPILL_BYTES_MIN,
)

Where = Literal["away", "memory", "disk"]


@dataclass(frozen=True, slots=True)
class Drop:
    """Order: forget the data of an object."""

    id: str


@dataclass(frozen=True, slots=True)
class Acquire:
    """Order: tell the holder of `node` that this node refers to its object; `token` of the loan with which the reference came."""

    id: str
    node: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """Order: tell the holder of `node` that this node no longer refers to its object."""

    id: str
    node: str


Order = Drop | Acquire | Release


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a ledger counts; bytes."""

    objects: int
    parties: int
    memory_bytes: int
    disk_bytes: int
    read: int
    """Objects that somebody reads in place."""
    loans: int


@dataclass(slots=True)
class _Object:
    origin: str
    """The node that keeps it for this one; "" for this node itself."""
    size: int
    where: Where = "away"
    files: int = 0
    parties: set[str] = field(default_factory=set)
    loans: dict[str, int] = field(default_factory=dict)
    """By token: until when, ms."""
    readers: Counter[str] = field(default_factory=Counter)
    used: int = 0
    inside: tuple[str, ...] = ()


class Ledger:
    """Of one holder. Times are any monotonic milliseconds."""

    def __init__(self, *, memory_bytes_max: int, disk_bytes_max: int, objects_max: int, files_max: int) -> None:
        self.memory_bytes_max, self.disk_bytes_max = memory_bytes_max, disk_bytes_max
        self._objects_max, self._files_max = objects_max, files_max
        self._objects: dict[str, _Object] = {}
        self._of: dict[str, set[str]] = {}
        self._reads: dict[str, set[str]] = {}
        self._far: set[str] = set()
        self._lent: dict[str, int] = {}
        """Objects with loans: when to look at them, at the latest when the next loan ends."""
        self._early: dict[str, int] = {}
        """Tokens whose receiver was heard before their sender: until when they are remembered."""
        self._due: int | None = None
        """Not later than the first of all those."""
        self._memory = self._disk = self._reserved = self._files = self._turn = 0

    # parties

    def joined(self, party: str, *, far: bool = False) -> None:
        """A party can refer to objects from now on. Idempotent."""
        self._of.setdefault(party, set())
        if far:
            self._far.add(party)

    def held(self, id_: str, party: str, now: int, *, origin: str = "", size: int = 0, token: str = "") -> list[Order]:
        """A party refers to an object; `token` of the loan that brought it. One of this node that is not known is not made known. Idempotent."""
        found = self._objects.get(id_)
        orders: list[Order] = []
        if found is None:
            if not origin or len(self._objects) >= self._objects_max:
                return []
            found = self._objects[id_] = _Object(origin, max(0, size))
            orders.append(Acquire(id_, origin, token))
        elif token and found.origin:
            orders.append(Acquire(id_, found.origin, token))  # said again for the loan, which that holder made
        if party in self._of:
            found.parties.add(party)
            self._of[party].add(id_)
        else:  # its connection has ended meanwhile: it will say it again if it lives
            self._lend(id_, found, f"gone {party}", now + OBJECT_AWAY_MS)
        if token:
            self._received(id_, found, token, now)
        return orders

    def dropped(self, id_: str, party: str, now: int) -> list[Order]:
        """A party no longer refers to an object. Idempotent."""
        found = self._objects.get(id_)
        if party in self._of:
            self._of[party].discard(id_)
        if found is None:
            return []
        found.parties.discard(party)
        return self._settle((id_,), now)

    def left(self, party: str, now: int) -> list[Order]:
        """A party's connection has ended. It has a moment to come back: a kernel that is restarted, or a link that breaks, is not its death."""
        away = OBJECT_AWAY_FAR_MS if party in self._far else OBJECT_AWAY_MS
        for id_ in self._of.get(party, ()):
            self._lend(id_, self._objects[id_], f"left {party}", now + away)
        return self.ended(party, now)

    def ended(self, party: str, now: int) -> list[Order]:
        """A party refers to nothing any more, and reads nothing. Idempotent."""
        self._far.discard(party)
        for id_ in self._reads.pop(party, ()):
            found = self._objects.get(id_)
            if found is not None:
                found.readers.pop(party, None)
        left = self._of.pop(party, set())
        for id_ in left:
            self._objects[id_].parties.discard(party)
        return self._settle(left, now)

    # loans

    def lent(self, id_: str, token: str, now: int) -> list[Order]:
        """A reference is being sent. Nothing if its receiver has been heard already."""
        found = self._objects.get(id_)
        if found is not None:
            early = self._early.pop(token, None)
            self._lend(id_, found, token, now + (OBJECT_LOAN_MS if early is None else OBJECT_RECEIVED_MS))
        return []

    def loans(self, id_: str) -> int:
        """Return how many loans keep that object; 0 if there is none."""
        found = self._objects.get(id_)
        return 0 if found is None else len(found.loans)

    def expired(self, now: int) -> list[Order]:
        """End the loans whose time is over."""
        ended = [id_ for id_, due in self._lent.items() if due <= now]
        for id_ in ended:
            found = self._objects[id_]
            found.loans = {token: until for token, until in found.loans.items() if until > now}
            if found.loans:
                self._lent[id_] = min(found.loans.values())
            else:
                del self._lent[id_]
        orders = self._settle(ended, now)
        self._early = {token: until for token, until in self._early.items() if until > now}
        self._due = min((*self._lent.values(), *self._early.values()), default=None)
        return orders

    def due(self) -> int | None:
        """Return when to call `expired`, None if never: it may find that what was due by then is gone already."""
        return self._due

    def _call_by(self, due: int) -> None:
        if self._due is None or due < self._due:
            self._due = due

    def _lend(self, id_: str, found: _Object, token: str, until: int) -> None:
        if len(found.loans) >= OBJECT_LOANS_MAX and token not in found.loans:
            token = ""  # one for all that are over the bound: it lasts for its whole time
        until = -(-until // OBJECT_LOAN_STEP_MS) * OBJECT_LOAN_STEP_MS
        found.loans[token] = max(until, found.loans.get(token, until))
        self._lent[id_] = min(until, self._lent.get(id_, until))
        self._call_by(until)

    def _received(self, id_: str, found: _Object, token: str, now: int) -> None:
        if token in found.loans:
            until = -(-(now + OBJECT_RECEIVED_MS) // OBJECT_LOAN_STEP_MS) * OBJECT_LOAN_STEP_MS
            found.loans[token] = min(found.loans[token], until)
            self._lent[id_] = min(self._lent[id_], until)
            self._call_by(until)
        elif not found.origin and len(self._early) < self._objects_max:
            self._early[token] = now + OBJECT_LOAN_MS
            self._call_by(now + OBJECT_LOAN_MS)

    # data

    def reserve(self, size: int, *, files: int = 1) -> list[str]:
        """Set memory aside: return [] if that is done, else the objects that must be spilled before it is asked again. Unavailable if there is no room."""
        if len(self._objects) >= self._objects_max:
            raise Unavailable(self.full())
        if files and self._files + files > self._files_max:
            raise Unavailable(f"{self._files} large objects are kept here, as many as this process may have files open: let go of some references")
        if size > self.memory_bytes_max:
            raise Unavailable(
                f"an object of {size} bytes is larger than the memory for objects here, {self.memory_bytes_max} bytes (UNIOS_OBJECTS_MEMORY)"
            )
        short = self._memory + self._reserved + size - self.memory_bytes_max
        if short <= 0:
            self._reserved += size
            return []
        victims: list[str] = []
        disk = self.disk_bytes_max - self._disk
        idle = (one for one in self._objects.items() if one[1].where == "memory" and not one[1].readers.total())
        for id_, found in sorted(idle, key=lambda one: (bool(one[1].parties), one[1].used)):  # first what is only lent, then the longest unused
            if short <= 0:
                break
            if found.size >= OBJECT_SPILL_BYTES_MIN and found.size <= disk:
                victims.append(id_)
                short -= found.size
                disk -= found.size
        if short > 0:
            raise Unavailable(
                f"no room for an object of {size} bytes: {self._memory + self._reserved} of {self.memory_bytes_max} bytes of memory (UNIOS_OBJECTS_MEMORY) "
                f"and {self._disk} of {self.disk_bytes_max} bytes on disk (UNIOS_OBJECTS_DISK) are in use, and what is being read cannot be spilled"
            )
        return victims

    def full(self) -> str:
        """Return what is said where no object can be taken in because there are as many as may be."""
        return f"{len(self._objects)} objects are kept here, which is the limit: let go of some references"

    def unreserve(self, size: int) -> None:
        """Give back what `reserve` has set aside."""
        self._reserved -= size

    def kept(self, id_: str, party: str, size: int, now: int, *, files: int = 1, inside: Iterable[str] = ()) -> list[Order]:
        """An object has been put here, in memory that was reserved. `inside`: those that its data refer to. One that is known is kept here from now on."""
        self._reserved -= size
        found = self._objects.get(id_)
        orders: list[Order] = []
        if found is None:
            found = self._objects[id_] = _Object("", size)
        elif found.origin:
            orders.append(Release(id_, found.origin))
            found.origin = ""
        if found.where == "away":
            self._arrive(found, size, files)
            found.inside = tuple(inside)
            if found.inside:
                self.joined(f"in {id_}")
            for one in found.inside:
                orders += self.held(one, f"in {id_}", now)
        return orders + self.held(id_, party, now)

    def came(self, id_: str, size: int, *, files: int = 1) -> bool:
        """The data of another node's object are in memory that was reserved; False if nobody wants them any more."""
        self._reserved -= size
        found = self._objects.get(id_)
        if found is None or found.where != "away":
            return False
        self._arrive(found, size, files)
        return True

    def _arrive(self, found: _Object, size: int, files: int) -> None:
        found.where, found.size, found.files = "memory", size, files
        self._memory += size
        self._files += files
        self._turn += 1
        found.used = self._turn

    def spilled(self, id_: str) -> bool:
        """The data of an object are on disk; False if they are not wanted there any more: it is gone, or being read."""
        found = self._objects.get(id_)
        if found is None or found.where != "memory" or found.readers.total():
            return False
        found.where = "disk"
        self._memory -= found.size
        self._disk += found.size
        self._files += 1 - found.files
        found.files = 1
        return True

    def damaged(self, id_: str) -> None:
        """The data of an object on disk are not what they were: they are forgotten. An object of another node can be brought again. Idempotent."""
        found = self._objects.get(id_)
        if found is not None and found.where == "disk":
            found.where = "away"
            self._disk -= found.size
            self._files -= found.files
            found.files = 0

    def look(self, id_: str) -> tuple[Where, str, int] | None:
        """Return where an object is, its origin and its size; None if it is not known."""
        found = self._objects.get(id_)
        if found is None:
            return None
        self._turn += 1
        found.used = self._turn
        return found.where, found.origin, found.size

    def reading(self, id_: str, party: str) -> bool:
        """A party reads an object in place; False if it is not in memory, or the party not there."""
        found = self._objects.get(id_)
        if found is None or found.where != "memory" or party not in self._of:
            return False
        found.readers[party] += 1
        self._reads.setdefault(party, set()).add(id_)
        return True

    def read(self, id_: str, party: str) -> None:
        """A party has ended one reading."""
        found = self._objects.get(id_)
        if found is not None and found.readers[party] > 0:
            found.readers[party] -= 1
            if not found.readers[party]:
                del found.readers[party]
                self._reads[party].discard(id_)

    # the end

    def _settle(self, ids: Iterable[str], now: int) -> list[Order]:
        """Drop those of these that nobody needs, and what only they referred to: a chain may be long.

        What is another node's is released a moment later: whoever has just read the reference to it in the data is to be heard there before this node is.
        """
        orders: list[Order] = []
        rest = list(ids)
        while rest:
            id_ = rest.pop()
            found = self._objects.get(id_)
            if found is None or found.parties or found.loans:
                continue
            del self._objects[id_]
            self._files -= found.files
            if found.where == "memory":
                self._memory -= found.size
            elif found.where == "disk":
                self._disk -= found.size
            if found.where != "away":
                orders.append(Drop(id_))
            if found.origin:
                orders.append(Release(id_, found.origin))
            for one in self._of.pop(f"in {id_}", ()):
                inner = self._objects[one]
                inner.parties.discard(f"in {id_}")
                if inner.origin:
                    self._lend(one, inner, f"in {id_}", now + OBJECT_RECEIVED_MS)
                rest.append(one)
        return orders

    @property
    def is_idle(self) -> bool:
        """Nobody of this node is there, and nothing is kept. Other nodes' holders do not count, or two would keep each other for ever."""
        return not self._objects and self._of.keys() <= self._far

    def statistics(self) -> Statistics:
        """Return what is counted now."""
        objects = self._objects.values()
        return Statistics(
            len(objects),
            sum(not party.startswith("in ") for party in self._of),
            self._memory,
            self._disk,
            sum(bool(one.readers.total()) for one in objects),
            sum(len(one.loans) for one in objects),
        )
