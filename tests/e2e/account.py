"""Classes that know nothing of unios."""

import os
from collections.abc import Iterator


class Account:
    def __init__(self, balance: int = 0, *, owner: str = "nobody") -> None:
        if balance < 0:
            raise ValueError("an account begins with something")
        self._balance = balance
        self.owner = owner
        self._entries: list[int] = []

    def deposit(self, amount: int) -> int:
        self._entries.append(amount)
        if amount < 0:
            raise ValueError(f"{amount} is no amount")
        self._balance += amount
        return self._balance

    def withdraw(self, amount: int) -> int:
        if amount > self._balance:
            raise KeyError("not so much")
        self._balance -= amount
        return self._balance

    def balance(self) -> int:
        return self._balance

    def entries(self, last: int = 3) -> list[int]:
        return self._entries if last == 0 else self._entries[-last:]

    def spoil(self) -> None:
        self._lock = __import__("threading").Lock()

    def mend(self) -> None:
        del self._lock

    def __len__(self) -> int:
        return len(self._entries)


class Shelf:
    """Can be looked at in Python's ways, and has a method that ends the process."""

    def __init__(self, *things: str) -> None:
        self.things = list(things)

    def __iter__(self) -> Iterator[str]:
        yield from self.things

    def __getitem__(self, thing: str) -> int:
        return self.things.index(thing)

    def add(self, thing: str) -> int:
        self.things.append(thing)
        return len(self.things)

    def leave(self) -> None:
        os._exit(7)


class Oneway:
    """Can be pickled and not be made again."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return Oneway, (1,)


READS = {"balance", "entries", "__len__"}
