"""Holding: how much a kernel or a service holds in memory of what users have sent and nobody has taken yet: requests under way, and items of them.

Each connection and each request has a bound of its own; this is the one over all of them, at a kernel's door and over its links: of one user, and of all
together. Whoever may do everything on this node has none: he is the one whom the memory belongs to.
"""

import weakref

from unios.limits import HELD_BYTES_MAX, HELD_USER_BYTES_MAX
from unios.wire.allowances import Allowance


class Holding:
    """That of one kernel or service."""

    def __init__(self, owner: str = "") -> None:
        self._free = frozenset({"", "root", owner})
        self._all = Allowance(HELD_BYTES_MAX)
        self._of: weakref.WeakValueDictionary[str, Allowance] = weakref.WeakValueDictionary()
        """While something is held of a user, that knows it."""

    def of(self, user: str) -> Allowance | None:
        """Return that of one user; None: as much as comes."""
        if user in self._free:
            return None
        found = self._of.get(user)
        if found is None:
            found = self._of[user] = Allowance(HELD_USER_BYTES_MAX, self._all)
        return found
