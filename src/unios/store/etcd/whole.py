"""All records of a system in etcd, read at one revision; and many of them changed together, with which a new generation begins.

One transaction of etcd has up to 1,024 operations, but an operation may be a transaction of as many: all that fits into a request is changed at once, or
nothing is. What does not fit is changed in several, and the generation with the last: broken off in between it is a part of both, and is to be done again.
"""

import os
from collections.abc import AsyncIterator, Sequence
from typing import Final

from unios.errors import OutcomeUnknown, Unavailable
from unios.ids import Generation
from unios.store.etcd import messages, translation
from unios.store.etcd.channel import Channel
from unios.store.etcd.keys import Keys
from unios.store.model import Delete, Put, Range, Revision
from unios.store.requests import Dumped

PAGE: Final = 500
TOGETHER: Final = 400
"""Operations of one inner transaction, and inner ones of an outer: together no more than etcd takes in a branch."""
TOGETHER_BYTES: Final = 7 * 1024 * 1024
TIMEOUT_S: Final = 20.0


async def dump(channel: Channel, keys: Keys, generation: Generation) -> AsyncIterator[Dumped]:
    """Yield the records, page by page; at least one page. Raises Unavailable, Compacted."""
    after, number = "", 0
    while True:
        request = translation.range_request(keys, Range("", True, after), limit=PAGE, revision=number)
        page = messages.read_range(await channel.call("KV/Range", request))
        number = number or page.revision
        records = tuple(translation.record(keys, one) for one in page.found)
        yield Dumped(Revision(generation, number), records)
        if not page.more or not records:
            return
        after = records[-1].key


async def restore(channel: Channel, keys: Keys, operations: Sequence[Put | Delete]) -> None:
    """Make the changes, the new generation with the last of them. Raises Unavailable, OutcomeUnknown."""
    again = messages.as_put(messages.put(keys.generation, os.urandom(8).hex().encode()))
    requests = list(_requests(keys, operations))
    for at, inner in enumerate(requests):
        last = at == len(requests) - 1
        try:
            await channel.call("KV/Txn", messages.transaction([], [*inner, again] if last else inner, []), timeout_s=TIMEOUT_S)
        except (Unavailable, OutcomeUnknown) as error:
            if at:
                raise OutcomeUnknown(f"part of the restore has been done, the rest perhaps not: restore again ({error})") from error
            raise


def _requests(keys: Keys, operations: Sequence[Put | Delete]) -> "list[list[bytes]]":
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

    for operation in operations:
        one = translation.operation(keys, operation)
        if len(part) >= TOGETHER or (part and part_size + len(one) > TOGETHER_BYTES // 8):
            close()
        part.append(one)
        part_size += len(one)
    close()
    return found
