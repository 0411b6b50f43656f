"""Batches: many processes submitted in one transaction, and what their user says of those that wait: hold, release, cancel. Also where pids come from."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from unios.core import claims, device_kinds
from unios.core.processes import ENDED, ProcessRecord, ProcessSpec, process_key, spec_key
from unios.core.queue import waits
from unios.errors import CallerError, Denied, Misused, NodeUnknown, NotFound, OutcomeUnknown, Unavailable
from unios.limits import PID_MAX, PID_MIN, SUBMIT_BATCH_MAX, WAITING_MAX
from unios.services.queueing import Queueing, wall_ms
from unios.services.specifications import check_kinds, check_policy, spec_of, user_of
from unios.services.view import View
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.wire.operations import Accepted, Empty
from unios.wire.queueing import SubmitMany, SubmittedMany

NEXT: Final = "/next/pid"
KNOWN_S: Final = 1.0
"""So long a submission waits until what it depends on has come into the queue, which gathers news for a tenth of that at most."""
TAKEN_AT_A_TIME: Final = 64
ALTERED_AT_A_TIME: Final = 64
CANCELLED: Final = 143
"""Exit code of what was cancelled: as if SIGTERM had ended it."""
_CANCELLED_BY: Final = "cancelled by "
BLOCKS_MAX: Final = 2 * (PID_MAX - PID_MIN) // SUBMIT_BATCH_MAX
"""So many blocks of numbers are looked at before a submission of many gives up."""


class Pids:
    """Takes numbers from the system's counter. Those that are in use are passed over by the transaction that uses them."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._left: deque[int] = deque()
        self._taking = asyncio.Lock()

    async def next(self) -> int:
        """Return the next number."""
        async with self._taking:
            while not self._left:
                self._left.extend(await self._take(TAKEN_AT_A_TIME))
            return self._left.popleft()

    async def block(self, count: int) -> range:
        """Return `count` numbers in a row of which this observer knows no process. Raises Unavailable."""
        values = self._view.processes.values
        for _attempt in range(BLOCKS_MAX):
            block = await self._take(count)
            if len(block) == count and not any(process_key(pid) in values for pid in block):
                return block
        raise Unavailable(f"no {count} numbers in a row are free for processes: too many records are kept")

    async def _take(self, count: int) -> range:
        while True:
            result, _revision = await self._view.store.range(NEXT)
            old = result.records[0] if result.records else None
            first = int(old.value) if old else PID_MIN
            after = first + count if first + count <= PID_MAX else PID_MIN
            done = await self._view.store.transact(
                Transaction((Compare(NEXT, "modified", "==", old.modified if old else 0),), (Put(NEXT, b"%d" % after),))
            )
            if done.succeeded:
                return range(first, min(first + count, PID_MAX + 1))


def check_request(request: str) -> None:
    """Raise CallerError if that is no id of a request."""
    if not request or len(request) > 64 or not request.isascii() or not request.isalnum():
        raise CallerError("a request id is 1 to 64 letters and digits")


class Batches:
    """Those of one placement service."""

    def __init__(self, view: View, queueing: Queueing, pids: Pids) -> None:
        self._view = view
        self._queueing = queueing
        self._pids = pids

    async def check(self, spec: ProcessSpec, count: int) -> None:
        """Raise why so many such processes cannot be taken in now: NodeUnknown, or Misused for another name of nothing, CallerError, or Unavailable at the bound."""
        known = {record.name for record in self._view.nodes.values.values()}
        for name in (spec.node, *spec.placing.forbidden):
            if name and name not in known:
                raise NodeUnknown(f"there is no node {name[:80]}; `unios nodes` lists them")
        for after in spec.queueing.after:
            if not self._queueing.queue.dependencies.knows(after.pid, spec.user) and not await self._comes_to_know(after.pid):
                raise Misused(f"there is no process {after.pid} to wait for; `unios ps --all` lists them")
        check_policy(spec.placing.policy)
        offered = (device.kind for record in self._view.nodes.values.values() for device in record.devices)
        check_kinds(spec.resources.devices, {*device_kinds.KINDS, *offered})
        if len(self._queueing.queue) + count > WAITING_MAX:
            raise Unavailable(
                f"{len(self._queueing.queue)} processes wait already, and no more than {WAITING_MAX} may: try again when some have begun"
            )

    async def submit(self, stamp: Accepted, body: SubmitMany) -> SubmittedMany:
        """Write the records of many, all or none. Idempotent by the request."""
        check_request(body.request)
        if not 0 < len(body.elements) <= SUBMIT_BATCH_MAX:
            raise CallerError(f"from 1 to {SUBMIT_BATCH_MAX} processes are submitted at a time")
        user = user_of(body.program, stamp)
        shared = spec_of(body.program, user)
        specs = [spec_of(msgspec.structs.replace(body.program, argv=each.argv), user) if each.argv else shared for each in body.elements]
        await self.check(specs[0], len(specs))
        await self._check_array(body.array, user)
        for _attempt in range(BLOCKS_MAX):
            block = await self._pids.block(len(specs))
            records = self._records(body, specs, user, block)
            result = await self._view.store.transact(_write(records, specs, body.request))
            if result.succeeded:
                for record in records:
                    self._queueing.waits_now(record)
                return SubmittedMany(tuple(block), records[-1].reason)
            raced = result.results[0]
            if isinstance(raced, RangeResult) and raced.records:
                first = int(raced.records[0].value)
                return SubmittedMany(tuple(range(first, first + len(specs))))
        raise Unavailable("no numbers are free for the processes")

    async def _check_array(self, array: int, user: str) -> None:
        if array <= 0:
            return
        known = self._queueing.queue.dependencies.get(array) or await self._stored(array)
        if known is None or known.queueing.array != array:
            raise CallerError(f"{array} is not the first of an array")
        if known.user != user:
            raise Denied(f"array {array} belongs to {known.user}")

    def _records(self, body: SubmitMany, specs: list[ProcessSpec], user: str, block: range) -> list[ProcessRecord]:
        array = block[0] if body.array < 0 else body.array
        now = wall_ms()
        reason = self._queueing.reason(claims.submitted(block[0], specs[0], user, "", "", now))
        records = []
        for pid, spec, element in zip(block, specs, body.elements, strict=True):
            record = claims.submitted(pid, spec, user, "", reason, now)
            queueing = msgspec.structs.replace(record.queueing, array=array, index=element.index)
            shared = block[0] if pid != block[0] and not element.argv and not body.elements[0].argv else 0
            records.append(msgspec.structs.replace(record, queueing=queueing, spec_pid=shared))
        return records

    async def alter(self, stamp: Accepted, pid: int, how: str) -> Empty:
        """Hold, release or cancel what waits: a process, or all of an array that wait. Idempotent. Raises NotFound, Denied, CallerError."""
        first = await self._stored(pid)
        if first is None:
            raise NotFound(f"there is no process {pid}")
        array = [record for record in await self._waiting_of(pid) if record.user == first.user] if first.queueing.array == pid else []
        wanted = array or [first]
        for record in wanted:
            if record.user != stamp.user and not stamp.privileged:
                raise Denied(f"process {record.pid} belongs to {record.user}")
        if not waits(wanted[0]):
            return _too_late(wanted[0], how)
        missed: list[ProcessRecord] = []
        for start in range(0, len(wanted), ALTERED_AT_A_TIME):
            chunk = wanted[start : start + ALTERED_AT_A_TIME]
            found = await asyncio.gather(*(self._alter(record.pid, lambda seen: _altered(seen, how, stamp.user)) for record in chunk))
            missed += [record for record in found if record is not None]
        if len(missed) == len(wanted):  # none waited any more when it was to be written
            return _too_late(missed[0], how)
        return Empty()

    async def _stored(self, pid: int) -> ProcessRecord | None:
        """Return a record as the store has it: the copy here may not know yet what was acknowledged a moment ago."""
        result, _revision = await self._view.store.range(process_key(pid))
        return msgspec.msgpack.decode(result.records[0].value, type=ProcessRecord) if result.records else None

    async def _comes_to_know(self, pid: int) -> bool:
        """Return whether there is such a process; if so the queue knows it now."""
        if await self._stored(pid) is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_S):
                await self._view.processes.wait_for(process_key(pid), lambda record: record is not None)
        return True

    async def _waiting_of(self, array: int) -> list[ProcessRecord]:
        """Return the elements of an array that wait, as the store has them: its last batch may have been acknowledged a moment ago."""
        records = await self._view.processes.latest()
        return [record for record in records.values() if record.queueing.array == array and waits(record)]

    async def _alter(self, pid: int, change: Callable[[ProcessRecord], ProcessRecord]) -> ProcessRecord | None:
        """Change the record of one that waits; return it if it does not any more."""
        for _attempt in range(10):
            result, _revision = await self._view.store.range(process_key(pid))
            if not result.records:
                return None
            record = msgspec.msgpack.decode(result.records[0].value, type=ProcessRecord)
            altered = change(record)
            if not waits(record):
                return record
            if altered == record:
                return None
            put = Put(process_key(pid), msgspec.msgpack.encode(altered))
            if (await self._view.store.transact(Transaction((Compare(put.key, "modified", "==", result.records[0].modified),), (put,)))).succeeded:
                return None
        raise OutcomeUnknown(f"the record of process {pid} keeps changing: try again")


def _too_late(record: ProcessRecord, how: str) -> Empty:
    """Say why one that does not wait cannot be altered; nothing if it has been cancelled, as was asked: the answer to that may have been lost."""
    if how == "cancel" and record.state == "exited" and record.reason.startswith(_CANCELLED_BY):
        return Empty()
    is_ = "has ended" if record.state in ENDED else f"is {record.state}"
    kill = f"; `unios kill {record.pid}` ends it" if how == "cancel" and record.state not in ENDED else ""
    raise CallerError(f"process {record.pid} does not wait: it {is_}{f' on {record.node}' if record.node else ''}{kill}")


def _altered(record: ProcessRecord, how: str, by: str) -> ProcessRecord:
    if how == "cancel":
        return claims.ended(claims.stopped(record), CANCELLED, None, f"{_CANCELLED_BY}{by} while it waited", wall_ms()) if waits(record) else record
    held = how == "hold"
    if record.queueing.held == held:
        return record
    reason = "held by its user; `unios release` lets it go on" if held else "released; waits for its turn"
    return msgspec.structs.replace(record, queueing=msgspec.structs.replace(record.queueing, held=held), reason=reason)


def _write(records: list[ProcessRecord], specs: list[ProcessSpec], request: str) -> Transaction:
    request_key = f"/requests/{request}"
    compares = [Compare(request_key, "version", "==", 0)]
    puts = [Put(request_key, b"%d" % records[0].pid)]
    for record, spec in zip(records, specs, strict=True):
        compares += [Compare(process_key(record.pid), "version", "==", 0), Compare(spec_key(record.pid), "version", "==", 0)]
        puts.append(Put(process_key(record.pid), msgspec.msgpack.encode(record)))
        if not record.spec_pid:
            puts.append(Put(spec_key(record.pid), msgspec.msgpack.encode(spec)))
    return Transaction(tuple(compares), tuple(puts), (Range(request_key),))
