"""The audit log in the store: appended to by compare-and-set of its head, so that kernels and services of all nodes write one chain; and read whole."""

import msgspec

from unios.core.audit import HEAD_KEY, PREFIX, Draft, Entry, Head, follow, key_of
from unios.errors import Unavailable
from unios.security_limits import AUDIT_DROP_AT_A_TIME
from unios.store.model import Compare, Delete, Put, Store, Transaction
from unios.store.pages import every

ATTEMPTS_MAX = 50


async def append(store: Store, said: Draft) -> Head:
    """Write one entry; return the head with it. Not idempotent: what is unknown to have been written and is written again is there twice. Raises
    Unavailable, OutcomeUnknown."""
    for _attempt in range(ATTEMPTS_MAX):
        found, _revision = await store.range(HEAD_KEY)
        old = found.records[0] if found.records else None
        entry, head, gone = follow(msgspec.msgpack.decode(old.value, type=Head) if old else Head(), said, AUDIT_DROP_AT_A_TIME)
        compare = Compare(HEAD_KEY, "modified", "==", old.modified if old else 0)
        puts = (Put(key_of(entry.number), msgspec.msgpack.encode(entry)), Put(HEAD_KEY, msgspec.msgpack.encode(head)))
        if (await store.transact(Transaction((compare,), (*puts, *map(Delete, gone))))).succeeded:
            return head
    raise Unavailable("others write the audit log all the time")


async def read(store: Store) -> tuple[Head, list[Entry]]:
    """Return the head and what is kept, the oldest first, as of one moment or a little later: what is appended meanwhile is left out."""
    found, _revision = await store.range(HEAD_KEY)
    head = msgspec.msgpack.decode(found.records[0].value, type=Head) if found.records else Head()
    records, _revision = await every(store, PREFIX)
    entries = [msgspec.msgpack.decode(record.value, type=Entry) for record in records if record.key != HEAD_KEY]
    known = [entry for entry in sorted(entries, key=lambda entry: entry.number) if entry.number <= head.number]
    if known and known[0].number > head.first:  # the oldest went while this was read
        found, _revision = await store.range(HEAD_KEY)
        later = msgspec.msgpack.decode(found.records[0].value, type=Head)
        head = msgspec.structs.replace(head, first=min(later.first, known[0].number))
    return head, known
