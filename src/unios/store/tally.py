"""Tally: what a store's process was asked, and what it told its watchers, counted by operation and part of the store. Decides nothing; shown by `unios store
status --json`.

A name is an operation with the first part of the key that it is about ("transact /processes/"). Bounded: names over TALLY_NAMES_MAX are counted together.
"""

from typing import Final

from unios.store.model import Delete, Put, Traffic, Transaction

REST: Final = "others"
TALLY_NAMES_MAX: Final = 64


def part(key: str) -> str:
    """Return the first part of a key: "/processes/" of "/processes/0000001001"."""
    name, slash, _rest = key[1:].partition("/")
    return f"/{name}{slash}"


def about(transaction: Transaction) -> str:
    """Return the part that a transaction is about: of the first key that it writes, else of the first that it reads or compares."""
    operations = (*transaction.then, *transaction.otherwise)
    first = next((one for one in operations if isinstance(one, Put | Delete)), operations[0] if operations else None)
    if first is not None:
        return part(first.key)
    return part(transaction.compares[0].key) if transaction.compares else ""


class Tally:
    """That of one process, since it began."""

    def __init__(self) -> None:
        self._asked: dict[str, list[int]] = {}
        self._told: dict[str, list[int]] = {}

    def asked(self, name: str, size: int) -> None:
        """Count a request whose body has `size` bytes."""
        _add(self._asked, name, 1, size)

    def told(self, name: str, messages: int, size: int, events: int) -> None:
        """Count what watchers of a part were told: so many messages, with so many events and bytes in all."""
        _add(self._told, name, messages, size, events)

    def shown(self) -> tuple[dict[str, Traffic], dict[str, Traffic]]:
        """Return what was asked and what was told, by name."""
        return tuple({name: Traffic(*row) for name, row in sorted(rows.items())} for rows in (self._asked, self._told))  # type: ignore[return-value]


def _add(rows: dict[str, list[int]], name: str, messages: int, size: int, events: int = 0) -> None:
    row = rows.get(name)
    if row is None:
        row = rows.setdefault(name if len(rows) < TALLY_NAMES_MAX else REST, [0, 0, 0])
    row[0] += messages
    row[1] += size
    row[2] += events
