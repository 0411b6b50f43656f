"""Deferred: what is asked of a manager of locks while it grants nothing yet. Decides only, for core/locks.py.

It counts for its users as if it waited already, and an item that is to be put into a queue as if it were there.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from unios.core.grants import Ask
from unios.core.shares import Shares


class Late(NamedTuple):
    """One question. `again`: it was asked of an earlier manager already, maybe."""

    since_ms: int
    order: int
    session: str
    user: str
    ask: Ask
    again: bool


class Deferred:
    """Those of one manager."""

    def __init__(self, places: Shares, held_bytes: Shares) -> None:
        self._places, self._bytes = places, held_bytes
        self._late: dict[tuple[str, int], Late] = {}

    def __contains__(self, one: tuple[str, int]) -> bool:
        """Whether the question of that session and number is among them."""
        return one in self._late

    def add(self, one: Late) -> None:
        self.drop(one.session, one.ask.id)
        self._late[one.session, one.ask.id] = one
        self._count(one, 1)

    def drop(self, session: str, id_: int) -> bool:
        """Forget one; False if it is not there."""
        one = self._late.pop((session, id_), None)
        if one is not None:
            self._count(one, -1)
        return one is not None

    def keep_only(self, session: str, wanted: Collection[int]) -> None:
        """Forget those of the session that it does not want."""
        for _session, id_ in [key for key in self._late if key[0] == session and key[1] not in wanted]:
            self.drop(session, id_)

    def end(self) -> Iterator[Late]:
        """Return all, who has waited longest first; none is left."""
        for one in sorted(self._late.values(), key=lambda one: (one.since_ms, one.order)):
            self.drop(one.session, one.ask.id)
            yield one

    def _count(self, one: Late, by: int) -> None:
        self._places.add(one.user, by)
        self._bytes.add(one.user, by * len(one.ask.data))
