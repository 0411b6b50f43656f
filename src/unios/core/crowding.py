"""Crowding: which trees fork against their bounds, found at the price of one number a second while the machine is not crowded. Decides only."""

from collections.abc import Mapping
from typing import Final

from unios.core.throttle import REFUSED_BURST

Key = tuple[int, int]
"""Pid and incarnation."""
RUNNABLE: Final = 64
RUNNABLE_PER_CORE: Final = 2


def is_crowded(runnable: int, cores: int) -> bool:
    """Return whether so many Linux threads want a processor that forks in vain would matter. `runnable`: as /proc/loadavg says it."""
    return runnable > max(RUNNABLE, RUNNABLE_PER_CORE * cores)


class Crowding:
    """What a node has seen of its trees, look after look, about a second apart."""

    def __init__(self) -> None:
        self._seen: dict[Key, int] = {}

    def look(self, refused: Mapping[Key, int]) -> list[Key]:
        """Return the trees in which more forks were refused since the last look than a program that meets its bound has. Those not counted are negative."""
        found = [key for key, count in refused.items() if count - self._seen.get(key, count) > REFUSED_BURST]
        self._seen = dict(refused)
        return found

    def forget(self) -> None:
        """The machine is not crowded: what was seen is of before."""
        self._seen = {}
