"""All records of a system in etcd, read at one revision; and many of them changed together, with which a new generation begins.

One transaction of etcd has up to 1,024 operations, but an operation may be a transaction of as many: all that fits into a request is changed at once, or
nothing is. What does not fit is changed in several, and the generation with the last: broken off in between it is a part of both, and is to be done again.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from unios.errors import NotFound, OutcomeUnknown, Unavailable
from unios.ids import Generation
from unios.store.etcd import messages, translation
from unios.store.etcd.channel import Channel
from unios.store.etcd.keys import Keys
from unios.store.etcd.keys import number as of_lease
from unios.store.etcd.leases import FOREVER_S
from unios.store.everything import Everything
from unios.store.model import Delete, Put, Range, Record, Revision
from unios.store.requests import Dumped

PAGE: Final = 500
TOGETHER: Final = 400
"""Operations of one inner transaction, and inner ones of an outer: together no more than etcd takes in a branch."""
TOGETHER_BYTES: Final = 7 * 1024 * 1024
TIMEOUT_S: Final = 20.0
AT_ONCE: Final = 64
KNOWN: Final = "lease already exists"


async def dump(channel: Channel, keys: Keys, generation: Generation) -> AsyncIterator[Dumped]:
    """Yield the records, page by page; at least one page. Raises Unavailable, Compacted."""
    after, number = "", 0
    while True:
        request = translation.range_request(keys, Range("", True, after), limit=PAGE, revision=number)
        page = messages.read_range(await channel.call("KV/Range", request))
        number = number or page.revision
        records = tuple(translation.record(keys, one) for one in page.found)
        yield Dumped(Revision(generation, number + keys.base), records)
        if not page.more or not records:
            return
        after = records[-1].key


async def everything(channel: Channel, keys: Keys) -> Everything:
    """Return all that the system has, at one revision. What hangs on a lease that has ended is going, and is not in it. Raises Unavailable, Compacted."""
    records, number = list[Record](), 0
    async for page in dump(channel, keys, Generation("")):
        number = page.revision.number
        records += page.records
    asked = messages.range_(keys.leases, keys.leases_end, revision=number - keys.base)
    running = {of_lease(one.key): int(one.value) for one in messages.read_range(await channel.call("KV/Range", asked)).found}
    return Everything(number, tuple(one for one in records if one.lease == 0 or one.lease in running), running)


async def forget(channel: Channel, keys: Keys, leases: Iterable[int]) -> None:
    """Take away what a system had there that is elsewhere now; that it is stays. Raises Unavailable, OutcomeUnknown."""
    for lease in leases:
        with contextlib.suppress(NotFound):
            await channel.call("Lease/LeaseRevoke", messages.revoke(lease))
    for first, end in ((keys.root, keys.left), (keys.left + b"\0", messages.after(keys.root))):
        await channel.call("KV/DeleteRange", messages.delete(first, end))


async def adopt(channel: Channel, keys: Keys, moved: Everything) -> None:
    """Have there what another engine had, and nothing else: all of it is there once the generation is. Raises Unavailable, OutcomeUnknown."""
    for first in (keys.data, keys.leases, keys.endings):  # of an attempt that was broken off
        await channel.call("KV/DeleteRange", messages.delete(first, messages.after(first)))
    waiting = list(moved.leases)
    while waiting:
        await asyncio.gather(*(_grant(channel, lease) for lease in waiting[:AT_ONCE]))
        del waiting[:AT_ONCE]
    operations = [translation.operation(keys, Put(record.key, record.value, record.lease)) for record in moved.records]
    operations += [messages.as_put(messages.put(keys.lease(lease), b"%d" % ttl_ms)) for lease, ttl_ms in moved.leases.items()]
    operations.append(messages.as_put(messages.put(keys.base_key, b"%d" % moved.number)))
    await _change(channel, keys, operations)


async def _grant(channel: Channel, lease: int) -> None:
    """Have etcd know the lease that keys hang on. One that it knows is of an attempt that was broken off."""
    try:
        await channel.call("Lease/LeaseGrant", messages.grant(lease, FOREVER_S))
    except Unavailable as error:
        if KNOWN not in str(error):
            raise


async def restore(channel: Channel, keys: Keys, operations: Sequence[Put | Delete]) -> None:
    """Make the changes, the new generation with the last of them. Raises Unavailable, OutcomeUnknown."""
    await _change(channel, keys, [translation.operation(keys, operation) for operation in operations])


async def _change(channel: Channel, keys: Keys, operations: Sequence[bytes]) -> None:
    again = messages.as_put(messages.put(keys.generation, os.urandom(8).hex().encode()))
    requests = requests_of(operations)
    for at, inner in enumerate(requests):
        last = at == len(requests) - 1
        try:
            await channel.call("KV/Txn", messages.transaction([], [*inner, again] if last else inner, []), timeout_s=TIMEOUT_S)
        except (Unavailable, OutcomeUnknown) as error:
            if at:
                raise OutcomeUnknown(f"part of the restore has been done, the rest perhaps not: restore again ({error})") from error
            raise


def requests_of(operations: Sequence[bytes]) -> list[list[bytes]]:
    """Return the inner transactions, by requests; at least one request."""
    found: list[list[bytes]] = [[]]
    size, part, part_size = 0, list[bytes](), 0

    def close() -> None:
        nonlocal size, part, part_size
        if not part:
            return
        if size + part_size > TOGETHER_BYTES or len(found[-1]) >= TOGETHER:
            found.append([])
            size = 0
        found[-1].append(messages.as_transaction(messages.transaction([], part, [])))
        size, part, part_size = size + part_size, [], 0

    for one in operations:
        if len(part) >= TOGETHER or (part and part_size + len(one) > TOGETHER_BYTES // 8):
            close()
        part.append(one)
        part_size += len(one)
    close()
    return found
