"""Kill watch: which trees are told of, that go on though Linux has killed in them for want of memory. Decides only.

A tree is told of when it is still there a look after the kill: of one whose program was killed its end tells. Then at twice as many kills, and so on, so
that a program whose children are killed again and again is no flood.
"""

from collections.abc import Mapping

Key = tuple[int, int]
"""(pid, incarnation)"""


class KillWatch:
    """That of one node, from one kernel on: `before` are the kills that its predecessor may have told of."""

    def __init__(self, before: Mapping[Key, int]) -> None:
        self._told = dict(before)
        self._seen: dict[Key, int] = {}

    def look(self, kills: Mapping[Key, int]) -> dict[Key, int]:
        """Take in how many were killed in each tree that lives; return the number for those to tell of now."""
        news = {key: count for key, count in kills.items() if self._is_new(key, self._seen.get(key, 0))}
        self._told = {key: news.get(key, self._told.get(key, 0)) for key in kills}
        self._seen = {key: count for key, count in kills.items() if self._is_new(key, count)}
        return news

    def _is_new(self, key: Key, count: int) -> bool:
        return count >= max(1, 2 * self._told.get(key, 0))

    @property
    def waits(self) -> bool:
        """Whether there is something to tell at the next look if its tree is still there."""
        return bool(self._seen)
