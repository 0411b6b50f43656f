"""Sums: what each user's processes have used altogether, also those whose records are long gone. Decides only.

A record is counted when it is deleted, in the transaction that deletes it, and counts by itself until then: never twice, never not at all.
"""

from collections.abc import Iterable, Mapping

import msgspec

from unios.core.processes import ENDED, ProcessRecord

PREFIX = "/usage/"


class UserSum(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a user's processes have used, at /usage/<user> that of those whose records are gone."""

    user: str
    processes: int = 0
    cpu_ms: int = 0
    memory_peak_bytes: int = 0
    """Of the largest one."""


def usage_key(user: str) -> str:
    return PREFIX + user


def added(before: UserSum, records: Iterable[ProcessRecord]) -> UserSum:
    """Return the sum with these records of the user's."""
    found = [record for record in records if record.user == before.user]
    return UserSum(
        before.user,
        before.processes + len(found),
        before.cpu_ms + sum(record.usage.cpu_ms for record in found),
        max([before.memory_peak_bytes, *(record.usage.memory_peak_bytes for record in found)]),
    )


def totals(sums: Mapping[str, UserSum], records: Iterable[ProcessRecord]) -> tuple[UserSum, ...]:
    """Return for each user what all have used that have ended, sorted by name; of those that live what their ended incarnations have."""
    by_user: dict[str, list[ProcessRecord]] = {}
    for record in records:
        if record.state in ENDED or record.usage.cpu_ms:
            by_user.setdefault(record.user, []).append(record)
    return tuple(added(sums.get(user, UserSum(user)), by_user.get(user, ())) for user in sorted({*sums, *by_user}))
