"""A log from the caller's side: write it, read it, trim it, look after its copies. In asyncio, over the kernel that the connection talks to.

core/log_recovery.py and core/log_writer.py decide; this carries out what they order, one task for each order, and tells them what came of it. What a kernel did
not answer is asked again, since everything asked of a replica is idempotent, until LOG_REPLICA_MS have passed.
"""

import asyncio
import contextlib
import os
import pwd
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any, Self
from zlib import crc32

from unios.client.aio import Kernel
from unios.client.log_repair import repair
from unios.core import log_recovery, log_writer
from unios.core.log_recovery import Recovery
from unios.core.log_replica import Refused
from unios.core.log_writer import Acknowledge, Change, Create, Send, Stop, Tell, Writer
from unios.core.logs import Candidate, LogRecord, Span, check_name, find, moved, trimmed
from unios.errors import CallerError, Compacted, DataLost, LeaseLost, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.log_limits import (
    LOG_AHEAD_BYTES,
    LOG_AHEAD_ENTRIES_MAX,
    LOG_COPIES,
    LOG_ENTRY_BYTES_MAX,
    LOG_NODES_S,
    LOG_QUIET_TICKS,
    LOG_REPLICA_MS,
    LOG_RETRY_MS,
    LOG_SEAL_MS,
    LOG_TICK_MS,
)
from unios.wire.logs import AppendLog, LogAnswer, LogPart, LogRecordView, OfLogRecord, ReadLog, SealLog, TrimLog
from unios.wire.operations import Empty, NodeView

PASSING = (Unavailable, OutcomeUnknown)


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"#{os.geteuid()}"


class LogCalls:
    """What may be asked about one log, asked again where that may help."""

    def __init__(self, kernel: Kernel, name: str, *, user: str = "") -> None:
        """`user`: whose log it is, for the privileged; one's own without."""
        check_name(name)
        self._kernel, self.name, self.user = kernel, name, user
        self.near = kernel.folder.name
        """The node of the kernel that is asked."""

    async def once(self, op: str, body: object, type_: Any, *, node: str = "", timeout_ms: int = LOG_REPLICA_MS) -> Any:
        """Ask. Unavailable or OutcomeUnknown if no answer comes in time."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._kernel.call(op, body, type_, node=node, timeout_ms=timeout_ms)
        except TimeoutError as error:
            raise OutcomeUnknown(f"no kernel has answered {op} within {timeout_ms} ms") from error

    async def replica(self, node: str, op: str, body: object) -> int | Refused | None:
        """Ask a replica; None if it did not answer within LOG_REPLICA_MS, however often it was asked."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LOG_REPLICA_MS / 1000
        while (left := until - loop.time()) > 0:
            try:
                answer: LogAnswer = await self.once(op, body, LogAnswer, node=node, timeout_ms=max(1, int(1000 * left)))
            except PASSING:
                await asyncio.sleep(LOG_RETRY_MS / 1000)
                continue
            except DataLost as error:
                return Refused("gone", 0, str(error))
            except CallerError:  # there is no such node any more
                return None
            if answer.refused == "full":
                await asyncio.sleep(LOG_RETRY_MS / 1000)
                continue
            return Refused(answer.refused, answer.at, answer.why) if answer.refused else answer.end  # type: ignore[arg-type]
        return None

    async def record(self) -> LogRecordView:
        """Read the record, however long that takes."""
        while True:
            try:
                found: LogRecordView = await self.once("logs.record", OfLogRecord(self.name, user=self.user), LogRecordView)
                return found
            except PASSING:
                await asyncio.sleep(LOG_RETRY_MS / 1000)

    async def change(self, record: LogRecord, version: int) -> LogRecordView:
        """Put the record once; return what is there then, `changed` only if that is sure."""
        try:
            found: LogRecordView = await self.once("logs.record", OfLogRecord(self.name, record, version, self.user), LogRecordView)
            return found
        except PASSING:
            await asyncio.sleep(LOG_RETRY_MS / 1000)
            return await self.record()

    async def present(self) -> LogRecord:
        """Read the record. NotFound if there is no such log."""
        found = (await self.record()).record
        if found is None:
            raise NotFound(f"there is no log {self.name}")
        return found

    async def nodes(self, *, suspect: bool = False) -> list[Candidate]:
        """Return the nodes that are ready, or that may be: the nearest first, then in another order for each log."""
        views: tuple[NodeView, ...] = await self.once("node.list", Empty(), tuple[NodeView, ...])
        salt = self.name.encode()
        ready = [view for view in views if view.state == "ready" or (suspect and view.state == "suspect")]
        ready.sort(key=lambda view: (view.name != self.near, crc32(salt + view.name.encode())))
        return [Candidate(view.name, view.machine) for view in ready]

    async def part(self, node: str, span: Span, offset: int, *, closed: int, wait_ms: int = 0) -> LogPart:
        """Read from one replica."""
        body = ReadLog(self.name, span.number, span.epoch, offset, closed, wait_ms, self.user)
        found: LogPart = await self.once("logs.read", body, LogPart, node=node, timeout_ms=LOG_REPLICA_MS + wait_ms)
        return found

    async def trim(self, upto: int) -> None:
        """What is before `upto` is needed no more. The asker has read it, or has had it acknowledged. Idempotent."""
        while True:
            view = await self.record()
            if view.record is None:
                raise NotFound(f"there is no log {self.name}")
            record = view.record
            if record.first >= upto or (await self.change(trimmed(record, upto), view.version)).changed:
                break
        replicas = {replica for span in record.spans for replica in span.replicas}
        await asyncio.gather(*(self.replica(node, "logs.trim", TrimLog(self.name, upto, self.user)) for node in replicas))


class _Loop:
    """Carries out orders in tasks of its own."""

    def __init__(self, calls: LogCalls) -> None:
        self.calls = calls
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """A task has met what does not pass, or a defect."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End the tasks."""
        me = asyncio.current_task()
        for task in self._tasks:
            if task is not me:
                task.cancel()


class TakingOver(_Loop):
    """Takes a log over; see core/log_recovery.py."""

    def __init__(self, calls: LogCalls, recovery: Recovery) -> None:
        super().__init__(calls)
        self.recovery = recovery
        self._over = asyncio.Event()
        self._error: BaseException | None = None

    def failed(self, error: BaseException) -> None:
        self._error = error
        self._over.set()

    async def run(self) -> Recovery:
        """Return when its end stands. LeaseLost if another one takes it over."""
        try:
            self._carry_out(self.recovery.start())
            self.start(self._be_patient())
            await self._over.wait()
        finally:
            self.cancel()
        if self._error is not None:
            raise self._error
        if self.recovery.state == "stopped":
            raise LeaseLost(f"another writer has taken the log {self.calls.name} over")
        return self.recovery

    async def _be_patient(self) -> None:
        while True:
            await asyncio.sleep(LOG_SEAL_MS / 1000)
            self._carry_out(self.recovery.patience())

    def _carry_out(self, orders: list[log_recovery.Order]) -> None:
        for order in orders:
            if isinstance(order, Change):
                self.start(self._change(order))
            elif isinstance(order, log_recovery.Seal):
                self.start(self._seal(order))
            elif isinstance(order, log_recovery.Copy):
                self.start(self._copy(order))
        if self.recovery.state in ("done", "stopped"):
            self._over.set()

    async def _change(self, order: Change) -> None:
        view = await self.calls.change(order.record, order.version)
        if view.changed:
            self._carry_out(self.recovery.changed(view.version))
        elif view.record is not None:
            self._carry_out(self.recovery.found(view.record, view.version))

    async def _seal(self, order: log_recovery.Seal) -> None:
        result = await self.calls.replica(order.replica, "logs.seal", SealLog(self.calls.name, order.number, order.of, order.epoch, self.calls.user))
        if result is None:
            self._carry_out(self.recovery.away(order.replica))
        elif isinstance(result, Refused):
            self._carry_out(self.recovery.refused(order.replica, result))
        else:
            self._carry_out(self.recovery.sealed(order.replica, result))

    async def _copy(self, order: log_recovery.Copy) -> None:
        at = order.first
        while at < order.upto:
            try:
                part = await self.calls.part(order.source, order.span, at, closed=order.upto)
            except UniosError:
                self._carry_out(self.recovery.source_away(order.source))
                return
            if part.refused or not part.entries:
                self._carry_out(self.recovery.source_ends(order.source, at))
                return
            body = AppendLog(self.calls.name, order.span.number, at, order.epoch, order.span.epoch, part.entries, user=self.calls.user)
            end = await self.calls.replica(order.target, "logs.append", body)
            at += len(part.entries)
            if not isinstance(end, int) or end < at:
                self._carry_out(self.recovery.not_copied(order.target))
                return
        self._carry_out(self.recovery.copied(order.target))


class LogWriter(_Loop):
    """The one writer of a log, from `open` until another one opens it. Acknowledged entries are on the disks of all its replicas."""

    def __init__(self, calls: LogCalls, writer: Writer) -> None:
        super().__init__(calls)
        self._writer = writer
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._why = ""
        self._stirred = asyncio.Event()
        self._nodes: Sequence[Candidate] = ()

    @classmethod
    async def open(cls, kernel: Kernel, name: str, *, copies: int = LOG_COPIES, least: int = 0) -> Self:
        """Take a log over, and make it if there is none: on `copies` nodes, on at least `least` (0: as many) where there are not more."""
        calls = LogCalls(kernel, name)
        view = await calls.record()
        record = view.record or LogRecord(name, _me(), copies, least or copies)
        recovery = await TakingOver(calls, Recovery(record, view.version, f"{kernel.folder.name}/{secrets.token_hex(8)}")).run()
        nodes = await calls.nodes()
        writer = Writer(recovery.record, recovery.version, at=recovery.at, holders=recovery.holders, nodes=nodes)
        made = cls(calls, writer)
        made._nodes = nodes
        made._carry_out(writer.start())
        made.start(made._tick())
        made.start(made._look())
        return made

    @property
    def end(self) -> int:
        """What is before that is acknowledged."""
        return self._writer.confirmed

    @property
    def replicas(self) -> tuple[str, ...]:
        return self._writer.replicas

    async def append(self, *entries: bytes) -> int:
        """Append; return the first one's offset when all are acknowledged. LeaseLost: another one writes now. OutcomeUnknown: so it is, and they may be in the
        log or not. Waits while more than LOG_AHEAD_BYTES are on the way, and while no nodes are there for the replicas."""
        if any(len(entry) > LOG_ENTRY_BYTES_MAX for entry in entries):
            raise CallerError(f"an entry of a log has at most {LOG_ENTRY_BYTES_MAX} bytes")
        while not self._why and not self._room.is_set():
            await self._room.wait()
        if self._why:
            raise LeaseLost(self._why)
        first = self._writer.end
        if not entries:
            return first
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((first + len(entries), done))
        self._stirred.set()
        self._carry_out(self._writer.submit(entries))
        self._look_at_room()
        await asyncio.shield(done)
        return first

    async def trim(self, upto: int) -> None:
        """Forget what is before `upto`, as far as it is acknowledged."""
        await self.calls.trim(min(upto, self.end))

    def close(self) -> None:
        """Write no more. The log stays open for whoever comes next."""
        self._stop(f"the log {self.calls.name} was closed here")

    def _look_at_room(self) -> None:
        if self._writer.pending_bytes > LOG_AHEAD_BYTES or self._writer.end - self._writer.confirmed > LOG_AHEAD_ENTRIES_MAX:
            self._room.clear()
        else:
            self._room.set()

    def _stop(self, why: str) -> None:
        self._why = self._why or why
        self._room.set()
        self.cancel()
        for _end, done in self._waiting:
            if not done.done():
                done.set_exception(OutcomeUnknown(f"{self._why}: what was not acknowledged may be in the log or not"))
                done.exception()  # who has given up does not ask
        self._waiting.clear()

    def failed(self, error: BaseException) -> None:
        self._stop(f"the writer of the log {self.calls.name} has ended: {error}")

    async def _tick(self) -> None:
        quiet = 0
        while True:
            if quiet >= LOG_QUIET_TICKS:  # who has nothing to tell sleeps until there is something, or until replicas may have changed
                self._stirred.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stirred.wait(), LOG_NODES_S)
            await asyncio.sleep(LOG_TICK_MS / 1000)
            orders = self._writer.tick(self._nodes)
            quiet = 0 if orders or self._waiting else quiet + 1
            self._carry_out(orders)

    async def _look(self) -> None:
        """Keep to know who is there, and have copies made of what has too few."""
        looked: object = None
        while True:
            with contextlib.suppress(UniosError):
                self._nodes = await self.calls.nodes()
                now = (frozenset(self._nodes), self._writer.record.numbers)
                if self._writer.state == "open" and now != looked and await repair(self.calls):
                    looked = now
            await asyncio.sleep(LOG_NODES_S)

    def _carry_out(self, orders: Sequence[log_writer.Order]) -> None:
        if len(orders) > 1:  # what goes far goes first: the kernel here passes it on before it writes its own
            orders = sorted(orders, key=lambda order: isinstance(order, Send) and order.replica == self.calls.near)
        for order in orders:
            if isinstance(order, Acknowledge):
                self._acknowledge(order.upto)
            elif isinstance(order, Stop):
                self._stop(order.why)
            elif isinstance(order, Change):
                self.start(self._change(order))
            else:
                self.start(self._to_replica(order))

    def _acknowledge(self, upto: int) -> None:
        while self._waiting and self._waiting[0][0] <= upto:
            _end, done = self._waiting.popleft()
            if not done.done():
                done.set_result(None)
        self._look_at_room()

    async def _change(self, order: Change) -> None:
        view = await self.calls.change(order.record, order.version)
        if view.changed:
            self._carry_out(self._writer.changed(view.version))
        elif view.record is None:
            self._stop(f"there is no log {self.calls.name} any more")
        else:
            self._carry_out(self._writer.found(view.record, view.version))

    async def _to_replica(self, order: Create | Send | Tell) -> None:
        name, writer = self.calls.name, self._writer
        if isinstance(order, Tell):
            body = AppendLog(name, order.number, order.confirmed, order.epoch, order.epoch, (), order.confirmed)
            await self.calls.replica(order.replica, "logs.append", body)
            return
        if isinstance(order, Create):
            body = AppendLog(name, order.number, order.first, order.epoch, order.epoch, creates=True)
        else:
            body = AppendLog(name, order.number, order.first, order.epoch, order.epoch, order.entries, order.confirmed)
        result = await self.calls.replica(order.replica, "logs.append", body)
        if result is None:
            self._carry_out(writer.lost(order.replica, order.number))
        elif isinstance(result, Refused):
            self._carry_out(writer.refused(order.replica, order.number, result))
        elif isinstance(order, Create):
            self._carry_out(writer.prepared(order.replica, order.number))
        else:
            self._carry_out(writer.answered(order.replica, order.number, result))


async def seal(kernel: Kernel, name: str, *, user: str = "") -> int:
    """End a log: whoever writes it is shut out, all that was acknowledged stays, and nobody writes until it is opened anew. Return its end. NotFound."""
    calls = LogCalls(kernel, name, user=user)
    view = await calls.record()
    if view.record is None:
        raise NotFound(f"there is no log {name}")
    recovery = await TakingOver(calls, Recovery(view.record, view.version, f"{kernel.folder.name}/{secrets.token_hex(8)}")).run()
    record, version = recovery.record, recovery.version
    while True:
        closed = moved(record, at=recovery.at, holders=recovery.holders, replicas=())
        found = await calls.change(closed, version)
        if found.changed or found.record == closed:
            return recovery.at
        if found.record is None or found.record.epoch != recovery.record.epoch:
            raise LeaseLost(f"another writer has taken the log {name} over")
        record, version = found.record, found.version


class LogReader:
    """Reads a log from an offset on, from whichever replica answers; the nearest is asked first. Sees only what is acknowledged."""

    def __init__(self, kernel: Kernel, name: str, offset: int = 0, *, user: str = "") -> None:
        self.calls = LogCalls(kernel, name, user=user)
        self.offset = offset
        self._record: LogRecord | None = None
        self._ready: set[str] = set()
        """Nodes that are asked before others."""
        self.masked = 0
        """How often a replica could not give what it should have, and another one did."""

    async def read(self, wait_ms: int = 0) -> list[bytes]:
        """Return the next entries; none if none come within `wait_ms`. Compacted: they are trimmed. Unavailable: no replica answers that may have them.
        DataLost: all have answered, and none has them."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_ms / 1000
        while True:
            left_ms = max(0, int(1000 * (until - loop.time())))
            record = self._record = self._record or await self.calls.present()
            span = find(record, self.offset)
            found = await self._of(span, left_ms) if span is not None else ()
            if found:
                self.offset += len(found)
                return list(found)
            self._record = None  # the span may have been closed meanwhile, and another one begun
            if loop.time() >= until:
                if record == await self.calls.present():
                    return []
            elif span is None:
                await asyncio.sleep(min(LOG_RETRY_MS, left_ms) / 1000)

    async def _of(self, span: Span, wait_ms: int) -> Sequence[bytes]:
        away: UniosError | None = None
        failed = 0
        if not self._ready:
            with contextlib.suppress(UniosError):
                self._ready = {each.node for each in await self.calls.nodes()}
        for node in sorted(span.replicas, key=lambda node: (node not in self._ready, node != self.calls.near)):
            wait = 0 if not span.is_open else min(wait_ms, LOG_SEAL_MS)
            try:
                part = await self.calls.part(node, span, self.offset, closed=0 if span.is_open else span.end, wait_ms=wait)
            except (*PASSING, CallerError, DataLost) as error:
                away = error
                self._ready.discard(node)
                continue
            if part.refused == "trimmed":
                raise Compacted(f"the log {self.calls.name} is trimmed up to {part.at}: {self.offset} is gone")
            if part.entries or (span.is_open and not part.refused):
                self.masked += failed
                return part.entries
            failed += 1
        if away is not None:
            raise Unavailable(f"no replica that answers has {self.offset} of the log {self.calls.name}: {away}") from away
        if not span.is_open:
            raise DataLost(f"{self.offset} of the log {self.calls.name} is lost: none of {', '.join(span.replicas)} has it")
        return ()
