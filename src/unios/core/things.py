"""Things: all that a manager of locks keeps by a name, each made by its first use, forgotten when it is as it was made, and counted for its user.

Decides only, for core/locks.py. Counted are the things themselves, the places in them (who holds, waits, or is told of changes), and the bytes that queues hold.
"""

from collections import Counter
from collections.abc import Container

from unios.core.exchange import Exchange
from unios.core.gates import Gate
from unios.core.gatherings import Barrier, Flag
from unios.core.grants import Answer, Key, fault
from unios.core.shares import Shares
from unios.synchronisation_limits import (
    SYNC_BYTES_MAX,
    SYNC_PLACES_MAX,
    SYNC_THINGS_MAX,
    SYNC_USER_BYTES_MAX,
    SYNC_USER_PLACES_MAX,
    SYNC_USER_THINGS_MAX,
)

Thing = Gate | Flag | Barrier | Exchange
NEITHER = (0, 0)


class Things:
    """Those of one manager."""

    def __init__(self, free: Container[str]) -> None:
        """`free`: see Shares."""
        self.ledger: Counter[tuple[str, str]] = Counter()
        """What each (session, actor) holds, of all gates."""
        self._things: dict[Key, Thing] = {}
        self._counted: dict[Key, tuple[int, int]] = {}
        """The places in each, and the bytes."""
        self.number = Shares(
            "locks, events, queues and so on in use",
            "give back what they hold, empty queues, clear events and reset broken barriers",
            SYNC_THINGS_MAX,
            SYNC_USER_THINGS_MAX,
            free,
        )
        self.places = Shares(
            "places, held or waited for, at locks, queues and so on", "give some back, or to end", SYNC_PLACES_MAX, SYNC_USER_PLACES_MAX, free
        )
        self.bytes = Shares("bytes in queues", "take items out first", SYNC_BYTES_MAX, SYNC_USER_BYTES_MAX, free)

    def __len__(self) -> int:
        return len(self._things)

    def __contains__(self, key: Key) -> bool:
        return key in self._things

    def get(self, key: Key) -> Thing | None:
        return self._things.get(key)

    def values(self) -> list[Thing]:
        return list(self._things.values())

    def no_room(self, key: Key) -> str:
        """Say why a thing that is not there is not made."""
        return "" if key in self._things else self.number.refusal(key[0])

    def no_place(self, user: str, id_: int = 0) -> Answer | None:
        """Return the answer to that question if nobody more of that user may hold or wait."""
        text = self.places.refusal(user)
        return fault(id_, "unavailable", text) if text else None

    def make(self, key: Key, spec: int) -> Thing:
        """Return the thing of that name, made if there is none. Say `settle` when it has been used."""
        thing = self._things.get(key)
        if thing is None:
            user, kind, name = key
            match kind:
                case "event":
                    thing = Flag(name)
                case "barrier":
                    thing = Barrier(name, spec)
                case "queue":
                    thing = Exchange(name, spec)
                case _:
                    thing = Gate(kind, name, spec if kind == "semaphore" else 0, self.ledger)
            self._things[key] = thing
            self.number.add(user, 1)
        return thing

    def settle(self, key: Key) -> None:
        """Count a thing that was used; forget it if it is as it was made."""
        thing = self._things.get(key)
        if thing is None:
            return
        is_idle = thing.is_idle
        places, held = NEITHER if is_idle else (thing.places, thing.held_bytes if isinstance(thing, Exchange) else 0)
        before = self._counted.get(key, NEITHER)
        if before != (places, held):
            self._counted[key] = places, held
            self.places.add(key[0], places - before[0])
            self.bytes.add(key[0], held - before[1])
        if is_idle:
            del self._things[key]
            self._counted.pop(key, None)
            self.number.add(key[0], -1)
