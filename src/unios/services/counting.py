"""Counting: deletes records of processes that have ended, and adds what they had used to their users' sums, in one transaction each.

Two services may tidy at the same time: the transaction holds only while every record is still there and no sum has changed. One that fails is left to
the next round, which looks again; one whose answer is lost has been done whole or not at all.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from unios.core.processes import ProcessRecord
from unios.core.sums import UserSum, added, usage_key
from unios.store.model import UNDECODABLE, Compare, Delete, Put, Store, Transaction

KEYS_AT_ONCE: Final = 120
"""Each may need a condition too; a transaction holds 512."""


async def delete(store: Store, keys: Sequence[str], records: Mapping[str, ProcessRecord], modified: Mapping[str, int]) -> None:
    """Delete the keys; what is a process in `records` is counted, if it is still as it was at that revision. Raises UniosError."""
    for start in range(0, len(keys), KEYS_AT_ONCE):
        part = keys[start : start + KEYS_AT_ONCE]
        await _delete(store, part, {key: records[key] for key in part if key in records}, modified)


async def _delete(store: Store, keys: Sequence[str], gone: Mapping[str, ProcessRecord], modified: Mapping[str, int]) -> None:
    conditions = [Compare(key, "modified", "==", modified[key]) for key in gone]  # its number may be another process's by now
    puts = []
    for user in sorted({record.user for record in gone.values()}):
        result, _revision = await store.range(usage_key(user))
        before = _sum(result.records[0].value, user) if result.records else UserSum(user)
        conditions.append(Compare(usage_key(user), "modified", "==", result.records[0].modified if result.records else 0))
        puts.append(Put(usage_key(user), msgspec.msgpack.encode(added(before, gone.values()))))
    await store.transact(Transaction(tuple(conditions), (*(Delete(key) for key in keys), *puts)))


def _sum(value: bytes, user: str) -> UserSum:
    try:
        return msgspec.msgpack.decode(value, type=UserSum)
    except UNDECODABLE:
        return UserSum(user)
