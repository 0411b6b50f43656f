"""Turns: whose work goes next where only so much can be done at a time. Decides only; the caller does it, and says when it is done.

- At most `most` at a time, and of one user `most_of_one`: whatever one user has wait, another does not wait for all of it.
- Of those who wait the user goes first who has the fewest under way, then who has waited the longest.
"""

from collections import Counter
from typing import NamedTuple


class Turn(NamedTuple):
    """One user's piece of work."""

    user: str
    number: int


class Turns:
    """Those of one node. What waits is as much as its starts and ends are; each says `leave` if it will not come."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._numbers = 0
        self._waiting: dict[Turn, None] = {}
        self._working: dict[Turn, None] = {}
        self._of: Counter[str] = Counter()

    def ask(self, user: str) -> Turn:
        """It waits from now on."""
        self._numbers += 1
        turn = Turn(user, self._numbers)
        self._waiting[turn] = None
        return turn

    def next(self) -> list[Turn]:
        """Return those whose turn has come; they are under way until they leave."""
        found: list[Turn] = []
        while len(self._working) < self._most:
            free = [turn for turn in self._waiting if self._of[turn.user] < self._most_of_one]
            if not free:
                break
            turn = min(free, key=lambda one: (self._of[one.user], one.number))
            del self._waiting[turn]
            self._working[turn] = None
            self._of[turn.user] += 1
            found.append(turn)
        return found

    def leave(self, turn: Turn) -> None:
        """It is done, or does not wait any more. Idempotent."""
        self._waiting.pop(turn, None)
        if turn in self._working:
            del self._working[turn]
            self._of[turn.user] -= 1
            if not self._of[turn.user]:
                del self._of[turn.user]
