"""Strangers: which nodes have said that they do not know a user. Remembered for a while, so that a process that waits for its user's machine does not
ask every other node each second. It decides nothing: a node that was asked too early is asked again. In memory only, bounded.
"""

import time
from collections.abc import Callable, Mapping

from unios.core.nodes import NodeRecord
from unios.errors import UniosError, UserUnknown
from unios.limits import STRANGERS_KEPT_MAX, USER_UNKNOWN_S


class Strangers:
    """Those that one service was told of. A node that has registered anew since is asked again."""

    def __init__(self, lease_of: Callable[[str], int]) -> None:
        self._lease_of = lease_of
        self._told: dict[tuple[str, str], tuple[int, float, UserUnknown]] = {}

    def told(self, user: str, tried: Mapping[str, UniosError]) -> None:
        """Remember what the nodes that were tried have said. At the bound the oldest is forgotten."""
        for node, error in tried.items():
            if isinstance(error, UserUnknown):
                self._told.pop((node, user), None)
                self._told[node, user] = (self._lease_of(node), time.monotonic(), error)
        while len(self._told) > STRANGERS_KEPT_MAX:
            del self._told[next(iter(self._told))]

    def of(self, user: str) -> dict[str, UniosError]:
        """Return the nodes that need not be asked for that user now, and what they said."""
        now = time.monotonic()
        found: dict[str, UniosError] = {}
        for (node, who), (lease, at, error) in self._told.items():
            if who == user and lease == self._lease_of(node) and now - at < USER_UNKNOWN_S:
                found[node] = error
        return found


def may_be_elsewhere(incarnation: int, tried: Mapping[str, UniosError], nodes: list[NodeRecord], ready: set[str]) -> bool:
    """Return whether a machine that is away may know the user whom no node that was tried knows: the process then waits instead of failing.

    It ran somewhere before, or there is a node that has not left and could not be asked.
    """
    if not tried or not all(isinstance(error, UserUnknown) for error in tried.values()):
        return False
    return incarnation > 1 or any(record.state == "joined" and record.name not in ready for record in nodes)
