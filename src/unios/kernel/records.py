"""Process records as this node changes them: every change is a compare-and-set that only the present incarnation's node can win.

The compare on the record's revision is the fence of the store: a node that was cut off and comes back finds its record changed and its update
refused, whatever it believes. A lost answer is resolved by reading again, never guessed.
"""

import asyncio
from collections.abc import Callable

import msgspec

from unios.core import claims
from unios.core.processes import ProcessRecord, ProcessSpec, process_key, spec_key, spec_key_of
from unios.errors import DataLost, DiskFull, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.limits import RECORD_RETRY_MS_MAX
from unios.store.model import Compare, Put, Range, Record, Store, Transaction

Change = Callable[[ProcessRecord], ProcessRecord | None]
"""From the record as it is to what it shall be; None: leave it."""


class Records:
    """Reads and changes process records."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, pid: int) -> tuple[ProcessRecord, int]:
        """Return the latest record and its revision number; NotFound if there is none."""
        result, _revision = await self._store.range(process_key(pid))
        if not result.records:
            raise NotFound(f"there is no process {pid}")
        return decode(result.records[0]), result.records[0].modified

    async def read_both(self, pid: int) -> tuple[ProcessRecord, ProcessSpec]:
        """Return the latest record and what was asked to run; NotFound if there is no such process."""
        result = await self._store.transact(Transaction(then=(Range(process_key(pid)), Range(spec_key(pid)))))
        found, spec = result.results
        if isinstance(found, int) or isinstance(spec, int) or not found.records:
            raise NotFound(f"there is no process {pid}")
        record = decode(found.records[0])
        if record.spec_pid:
            spec, _revision = await self._store.range(spec_key_of(record))
        if not spec.records:
            raise DataLost(f"the specification of process {pid} is gone")
        return record, msgspec.msgpack.decode(spec.records[0].value, type=ProcessSpec)

    async def change(
        self,
        pid: int,
        change: Change,
        *,
        event: Put | None = None,
        known: tuple[ProcessRecord, int] | None = None,
        refused: Callable[[UniosError], None] = lambda _error: None,
    ) -> tuple[ProcessRecord, int] | None:
        """Apply `change` to the latest record until it holds; return the new record and its revision, None if `change` left it.

        Waits out an unavailable store. Idempotent if `change` is: it is asked again about the record as it then is. `known`: the record as it
        probably still is; if it is not, it is read. `refused`: told each time that it has to wait; what it raises ends the waiting.
        """
        wait_ms = RECORD_RETRY_MS_MAX // 32
        while True:
            try:
                record, modified = known or await self.read(pid)
                known = None
                wanted = change(record)
                if wanted is None:
                    return None
                number = await self.replace(wanted, modified, event=event)
                if number:
                    return wanted, number
            except (Unavailable, OutcomeUnknown) as error:
                refused(error)
                await asyncio.sleep(wait_ms / 1000)
                wait_ms = min(2 * wait_ms, RECORD_RETRY_MS_MAX)

    async def replace(self, wanted: ProcessRecord, modified: int, *, event: Put | None = None) -> int:
        """Write `wanted` if the record is still at that revision; return the new revision number, 0 if it has changed."""
        put = Put(process_key(wanted.pid), msgspec.msgpack.encode(wanted))
        compare = Compare(put.key, "modified", "==", modified)
        result = await self._store.transact(Transaction((compare,), (put, *((event,) if event else ()))))
        return result.revision.number if result.succeeded else 0

    async def change_own(
        self,
        node: str,
        pid: int,
        incarnation: int,
        change: Change,
        *,
        event: Put | None = None,
        known: tuple[ProcessRecord, int] | None = None,
        refused: Callable[[UniosError], None] = lambda _error: None,
    ) -> tuple[ProcessRecord, int] | None:
        """Like `change`, but only while the record is this node's and of this incarnation; None: it is somebody else's now."""

        def mine(record: ProcessRecord) -> ProcessRecord | None:
            return change(record) if claims.holds(record, node, incarnation) else None

        return await self.change(pid, mine, event=event, known=known, refused=refused)


def unless_full(error: UniosError) -> None:
    """Raise what only a person can end, who is to be told; a store that is away is waited for."""
    if isinstance(error, DiskFull):
        raise error


def decode(record: Record) -> ProcessRecord:
    return msgspec.msgpack.decode(record.value, type=ProcessRecord)
