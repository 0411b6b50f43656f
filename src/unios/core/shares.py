"""Shares: how much of something bounded each user has, and all together. Decides only; whoever hands it out asks first, and notes it here.

Who may do everything in the system has no bound of his own: only that of all.
"""

from collections import Counter
from collections.abc import Container


class Shares:
    """Those of one thing that is bounded. `free`: the users that have the bound of all and no other."""

    __slots__ = ("_advice", "_free", "_most", "_most_of_one", "_of", "_what", "all")

    def __init__(self, what: str, advice: str, most: int, most_of_one: int, free: Container[str] = ()) -> None:
        """`what`, `advice`: of whom there is too much, and what then has to be done, for the sentence that says so."""
        self._what, self._advice, self._free = what, advice, free
        self._most, self._most_of_one = most, most_of_one
        self._of: Counter[str] = Counter()
        self.all = 0

    def __getitem__(self, user: str) -> int:
        return self._of[user]

    def add(self, user: str, count: int) -> None:
        """Note that the user has so many more; fewer if it is below 0."""
        if count:
            self.all += count
            self._of[user] += count
            if not self._of[user]:
                del self._of[user]

    def has_room(self, user: str, more: int = 0) -> bool:
        return self.all + more <= self._most and (user in self._free or self._of[user] + more <= self._most_of_one)

    def refusal(self, user: str, more: int = 1, *, times: int = 1) -> str:
        """Return the sentence that refuses so many more, and says who has to act; empty if there is room. `times`: so often the bounds hold for this."""
        if user not in self._free and self._of[user] + more > times * self._most_of_one:
            return f"{user} has {self._of[user]} {self._what}, and the limit of one user is {self._most_of_one}: programs of that user have to {self._advice}"
        if self.all + more > times * self._most:
            return f"all users together have {self.all} {self._what}, and the limit is {self._most}: programs of some of them have to {self._advice}"
        return ""
