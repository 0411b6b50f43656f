"""The kernel's operations on logs: append, read, seal, trim, and record, through which the record in the store is read and changed.

Rights are those of blocks: each user has logs of his own, and a replica is looked for among his. Decides nothing: core/log_replica.py says what a replica takes,
and whoever writes or takes over, what becomes of the record.
"""

from typing import TYPE_CHECKING

import msgspec

from unios.core.log_replica import Refused
from unios.core.logs import LogRecord, check_name, log_key
from unios.errors import CallerError, DataLost, Denied, Unavailable
from unios.kernel.callers import Caller
from unios.kernel.log_keeping import HeldLog, LogKeeping, Result
from unios.log_limits import LOG_BATCH_ENTRIES_MAX, LOG_COPIES_MAX
from unios.store.model import UNDECODABLE, Compare, Put, Range, RangeResult, Transaction
from unios.wire.logs import AppendLog, LogAnswer, LogPart, LogRecordView, OfLogRecord, ReadLog, SealLog, TrimLog
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

WAIT_MS_MAX = 30_000


def _owner(caller: Caller, user: str) -> str:
    if user and user != caller.user and not caller.privileged:
        raise Denied(f"logs of {user[:80]} are his own")
    return user or caller.user


def _answer(result: Result) -> LogAnswer:
    if isinstance(result, Refused):
        return LogAnswer(0, result.kind, result.number, result.why)
    return LogAnswer(result)


class LogOperations:
    """Serves `logs.*`."""

    def __init__(self, node: "Node", keeping: LogKeeping) -> None:
        self._node, self._keeping = node, keeping

    async def _held(self, caller: Caller, user: str, name: str) -> HeldLog:
        check_name(name)
        return await self._keeping.held(_owner(caller, user), name, bounded=not caller.privileged)

    async def append(self, caller: Caller, call: Call) -> object:
        """Take entries in; answered when they are on disk. Idempotent."""
        body = call.decode(AppendLog)
        if len(body.entries) > LOG_BATCH_ENTRIES_MAX or min(body.number, body.first, body.epoch, body.of) < 0 or not body.number:
            raise CallerError(f"at most {LOG_BATCH_ENTRIES_MAX} entries are appended at once, to a span with a number from 1 on")
        held = await self._held(caller, body.user, body.name)
        replica = held.replica
        if body.restores:
            where = {"number": body.number, "of": body.of, "first": body.first}
            return _answer(await held.do(replica.restore, **where, entries=body.entries))
        if body.creates:
            return _answer(await held.do(replica.create, epoch=body.epoch, number=body.number, first=body.first))
        if not body.entries:
            replica.confirm(number=body.number, of=body.of, confirmed=body.confirmed)
            held.tell()
            return LogAnswer(body.first)
        where = {"epoch": body.epoch, "number": body.number, "of": body.of, "first": body.first}
        return _answer(await held.do(replica.append, **where, entries=body.entries, confirmed=body.confirmed))

    async def read(self, caller: Caller, call: Call) -> object:
        """Entries that may be seen, checked."""
        body = call.decode(ReadLog)
        held = await self._held(caller, body.user, body.name)
        found = await held.read(body.number, body.of, body.offset, body.closed, min(body.wait_ms, WAIT_MS_MAX))
        if isinstance(found, Refused):
            return LogPart((), found.kind, found.number, found.why)
        return LogPart(tuple(found))

    async def seal(self, caller: Caller, call: Call) -> object:
        """Shut older writers out. Idempotent."""
        body = call.decode(SealLog)
        held = await self._held(caller, body.user, body.name)
        return _answer(await held.do(held.replica.seal, epoch=body.epoch, number=body.number, of=body.of))

    async def trim(self, caller: Caller, call: Call) -> object:
        """Never show again what is before an offset. Idempotent."""
        body = call.decode(TrimLog)
        held = await self._held(caller, body.user, body.name)
        return _answer(await held.do(held.replica.trim, upto=body.upto))

    async def record(self, caller: Caller, call: Call) -> object:
        """Read the record in the store, or change it if it is still as the asker has seen it. OutcomeUnknown if the store's answer is lost: read it then."""
        body = call.decode(OfLogRecord)
        check_name(body.name)
        user = _owner(caller, body.user)
        key = log_key(user, body.name)
        there = Range(key)
        if body.record is None:
            result = await self._node.store.transact(Transaction(then=(there,)))
            return _view(result.results[0], changed=False)
        record = body.record
        if (record.user, record.name) != (user, body.name) or not 1 <= record.least <= record.copies <= LOG_COPIES_MAX:
            raise CallerError(f"a log's record names its user and itself, and 1 to {LOG_COPIES_MAX} replicas")
        put = Put(key, msgspec.msgpack.encode(record))
        result = await self._node.store.transact(Transaction((Compare(key, "modified", "==", body.version),), (put, there), (there,)))
        return _view(result.results[-1], changed=result.succeeded)


def _view(found: RangeResult | int, *, changed: bool) -> LogRecordView:
    if not isinstance(found, RangeResult):
        raise Unavailable("the store has not said what it has")
    if not found.records:
        return LogRecordView()
    try:
        return LogRecordView(msgspec.msgpack.decode(found.records[0].value, type=LogRecord), found.records[0].modified, changed)
    except UNDECODABLE as error:
        raise DataLost(f"the record {found.records[0].key} makes no sense: {error}") from error
