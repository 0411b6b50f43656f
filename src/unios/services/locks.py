"""The locks' service: the manager of what synchronises programs across nodes. One in the system; started when somebody first wants it.

Whoever takes /locks/manager in the store, under its node's lease, is the manager, in the epoch that comes with it; all others end. Sessions come over
the port `locks`, from other nodes through their kernels. What is granted is decided by core/locks.py and is in memory only: an acquisition syncs no disk.

While the node's lease page says that its deadline has passed nothing is said or granted; with another lease the manager's time is over. So when the store
has ended the lease and another manager begins, this one has acknowledged no renewal of a session for longer than sessions trust in.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from unios.client.aio import Kernel, serve
from unios.core.grants import Ask, Bye, More, Open, Out, Renew, Told, Withdraw
from unios.core.locks import Locks
from unios.core.nodes import Alive, alive_key
from unios.core.processes import ProcessRecord, process_key
from unios.errors import CallerError, Denied, OutcomeUnknown, UniosError
from unios.limits import BEAT_MS, SEND_QUEUE_BYTES_MAX
from unios.services.lease_seen import LeaseSeen
from unios.services.process_gone import is_gone
from unios.store.client import StoreClient
from unios.store.model import Compare, Delete, Put, Range, RangeResult, Record, Transaction
from unios.synchronisation_limits import SYNC_IDLE_S, SYNC_LOOK_MS, SYNC_TTL_MS
from unios.undecodable import UNDECODABLE
from unios.wire.home import NodeFolder
from unios.wire.operations import Accepted
from unios.wire.peer import Call
from unios.wire.synchronising import OPERATION, PORT, pack, said

MANAGER: Final = "/locks/manager"
EPOCH: Final = "/locks/epoch"
DYING_S: Final = 0.01
"""Linux closes the descriptors of one that is killed a moment before it is gone."""
ENDED_S: Final = (0.02, 0.1, 0.3, 1.0)
"""Between a connection's end, if it was of a process of the system, and the looks whether that has ended: its node writes that down by then."""
REST_S: Final = 1.0
"""How often a manager looks whose locks nobody uses."""
RETRY_S: Final = 0.05
FROZEN_S: Final = 0.02
"""So often is looked whether the node's deadline has moved on."""


class ManagerRecord(msgspec.Struct, frozen=True):
    """At /locks/manager, attached to the node's lease."""

    node: str
    epoch: int


class EpochRecord(msgspec.Struct, frozen=True):
    """At /locks/epoch. `clean`: when its manager ended nobody held anything. `since`: no manager since that one has lost anything; 0: this one."""

    epoch: int
    clean: bool
    since: int = 0


def now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Line:
    """The connection of one session: what it is told goes out in order; what it does not read is kept up to a bound, then the line is cut."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._kept: deque[msgspec.Raw] = deque()
        self._kept_bytes = 0
        self.session = ""
        self.waits: asyncio.TimerHandle | None = None
        """For the node's deadline to move on."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set when nothing more is heard; what was wrong is its exception."""
        self._sending: asyncio.Task[None] | None = None

    def end(self, error: UniosError | None = None) -> None:
        """Hear nothing more. Idempotent."""
        if not self.over.done():
            self.over.set_exception(error) if error is not None else self.over.set_result(None)

    def tell(self, message: Told) -> None:
        body = pack(message)
        if not self._kept and self.call.send_now(body):
            return
        self._kept.append(body)
        self._kept_bytes += len(memoryview(body))
        if self._kept_bytes > 4 * SEND_QUEUE_BYTES_MAX:
            self.call.peer.close("it does not read what it is told")
        elif self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        with contextlib.suppress(UniosError):
            while self._kept:
                body = self._kept[0]
                await self.call.send(body)
                self._kept.popleft()
                self._kept_bytes -= len(memoryview(body))
        self._sending = None


class Manager:
    """The service."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._me = kernel.folder.name
        self._store = StoreClient(lambda: kernel.connect("store"))
        self._lease = LeaseSeen(str(kernel.folder.lease))
        self._number = 0
        self._record = b""
        self._locks: Locks | None = None
        self._lines: dict[str, Line] = {}
        self._linux: dict[str, tuple[str, int, int, int]] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._used_s = time.monotonic()

    async def run(self) -> bool:
        """Serve until nobody needs it, or another is the manager: then return True."""
        locks = await self._win()
        if locks is None:
            return True
        self._locks = locks
        await self._kernel.listen(PORT, 0o666, self._serve)
        while True:
            await asyncio.sleep(SYNC_LOOK_MS / 1000 if locks.sessions or locks.is_shut else REST_S)
            if self._number != self._lease.number:
                return True  # the node's lease has ended
            if not self._lease.holds:
                continue
            self._tell(locks.tick(now_ms()))
            self._look_for_dead()
            if not locks.is_idle:
                self._used_s = time.monotonic()
            elif time.monotonic() - self._used_s > SYNC_IDLE_S and not self._lines and await self._resign():
                return True

    # being the manager

    async def _win(self) -> Locks | None:
        """Become the manager; None if another is it, or this node may not be it. What keeps it from that for the moment is said once on stdout, for the log."""
        said = ""
        while True:
            try:
                found = await self._look()
                manager, epoch, alive = found.get(MANAGER), found.get(EPOCH), found.get(alive_key(self._me))
                if manager is not None and msgspec.msgpack.decode(manager.value, type=ManagerRecord).node != self._me:
                    return None
                if alive is not None and (locks := await self._take(manager, epoch, alive)) is not None:
                    return locks
            except Denied as error:
                print(f"this node may not keep the locks: {error}", flush=True)
                return None
            except UniosError as error:
                text = f"the locks are kept by nobody yet, and what asks for them waits: {error}"
                with contextlib.suppress(OSError):  # the log may be on the disk that is full
                    if text != said:
                        print(text, flush=True)
                        said = text
            await asyncio.sleep(RETRY_S)

    async def _look(self) -> dict[str, Record]:
        keys = (MANAGER, EPOCH, alive_key(self._me))
        result = await self._store.transact(Transaction(then=tuple(Range(key) for key in keys)))
        return {record.key: record for one in result.results if isinstance(one, RangeResult) for record in one.records}

    async def _take(self, manager: Record | None, epoch: Record | None, alive: Record) -> Locks | None:
        """Take the epoch after the last one, if nothing has changed and the node's lease stands. Not while the kernel has registered a node that comes back
        and not moved its deadline: the lease would seem to have ended, and the record, which goes with it, would keep every other node from it."""
        self._number = msgspec.msgpack.decode(alive.value, type=Alive).incarnation
        if self._number != self._lease.number:
            return None
        last = msgspec.msgpack.decode(epoch.value, type=EpochRecord) if epoch is not None else EpochRecord(0, True)
        mine = ManagerRecord(self._me, last.epoch + 1)
        since = last.since or last.epoch if last.clean and last.epoch else mine.epoch
        self._record = msgspec.msgpack.encode(mine)
        compares = (
            Compare(MANAGER, "modified", "==", manager.modified if manager is not None else 0),
            Compare(EPOCH, "modified", "==", epoch.modified if epoch is not None else 0),
            Compare(alive.key, "modified", "==", alive.modified),
        )
        puts = (Put(MANAGER, self._record, alive.lease), Put(EPOCH, msgspec.msgpack.encode(EpochRecord(mine.epoch, False, since))))
        if not (await self._store.transact(Transaction(compares, puts))).succeeded:
            return None
        return Locks(mine.epoch, now_ms(), grace_ms=0 if last.clean else SYNC_TTL_MS, since=since)

    async def _resign(self) -> bool:
        """Say that nobody holds anything: who is the next need not wait. False if that cannot be said: who ended then would leave a manager that is not there."""
        assert self._locks is not None
        clean = msgspec.msgpack.encode(EpochRecord(self._locks.epoch, True, self._locks.since))
        number, self._number = self._number, -1  # from here on nobody is served
        unknown = False
        while True:
            try:
                await self._store.transact(Transaction((Compare(MANAGER, "value", "==", self._record),), (Delete(MANAGER), Put(EPOCH, clean))))
                return True
            except UniosError as error:
                unknown = unknown or isinstance(error, OutcomeUnknown)
                if not unknown:
                    self._number = number
                    return False
            await asyncio.sleep(RETRY_S)

    # sessions

    async def _serve(self, stamp: Accepted, call: Call) -> object:
        if call.op != OPERATION:
            raise CallerError(f"the service of locks has no operation {call.op[:80]}")
        line = Line(call)
        call.on_arrival(lambda: self._hear(stamp, line))
        try:
            await line.over
        finally:
            if self._lines.get(line.session) is line:
                del self._lines[line.session]
                asyncio.get_running_loop().call_later(DYING_S, self._look_for_dead)
                if stamp.pid:
                    task = asyncio.get_running_loop().create_task(self._look_for_end(line.session, stamp))
                    self._looking.add(task)
                    task.add_done_callback(self._looking.discard)
        return None

    async def _look_for_end(self, session: str, stamp: Accepted) -> None:
        """End the session if the records say that the process is over that it was in: its init writes that down when nothing of it lives."""
        locks = self._locks
        assert locks is not None
        for wait_s in ENDED_S:
            await asyncio.sleep(wait_s)
            if session in self._lines or session not in locks.sessions:
                return
            with contextlib.suppress(UniosError, *UNDECODABLE):
                found = (await self._store.range(process_key(stamp.pid)))[0].records
                record = msgspec.msgpack.decode(found[0].value, type=ProcessRecord) if found else None
                over = record is not None and (record.state, record.incarnation) == ("exited", stamp.incarnation)
                if over and session not in self._lines and self._lease.holds_as(self._number):
                    self._tell(locks.ended(session))
                    return

    def _hear(self, stamp: Accepted, line: Line) -> None:
        """Take in what has come, in the step in which it has: a task for it would cost a handover another turn of the loop."""
        if line.over.done():
            return
        try:
            while self._lease.holds_as(self._number):
                if (body := next(line.call.arrived(), None)) is None:
                    break
                line.session = self._take_in(stamp, line.session, line, body)
            else:
                if self._number != self._lease.number:
                    line.call.peer.close("this manager's time is over")
                    line.end()
                elif line.waits is None:
                    line.waits = asyncio.get_running_loop().call_later(FROZEN_S, self._hear_later, stamp, line)
                return
        except UniosError as error:
            line.end(error)
        if line.call.has_no_more:
            line.end()

    def _hear_later(self, stamp: Accepted, line: Line) -> None:
        line.waits = None
        self._hear(stamp, line)

    def _look_for_dead(self) -> None:
        """End the sessions whose connection has broken and whose process is known to have ended: nobody need wait for their leases."""
        if self._locks is None or not self._lease.holds_as(self._number):
            return
        for session in [session for session in self._linux if session not in self._lines]:
            if session not in self._locks.sessions or is_gone(self._linux[session]):
                del self._linux[session]
                self._tell(self._locks.ended(session))

    def _take_in(self, stamp: Accepted, session: str, line: Line, body: msgspec.Raw) -> str:
        """Do what a session says; return which it is."""
        locks = self._locks
        assert locks is not None
        message = said(body)
        if not session and not isinstance(message, Open):
            raise CallerError("a session begins with Open")
        if locks.is_stale(stamp.user, message) if isinstance(message, Open) else self._lines.get(session) is not line:
            line.call.peer.close("the session has gone on over another connection")  # which has said what is held: this would be held by nobody
            return session
        match message:
            case Ask():
                self._tell(locks.asked(session, message, now_ms()))
            case Renew():
                self._tell(locks.renewed(session, message, now_ms()))
            case More(waiting):
                self._tell(locks.waits(session, waiting, now_ms()))
            case Withdraw():
                self._tell(locks.withdrawn(session, message))
            case Bye():
                self._tell(locks.ended(session))
            case Open() if session not in ("", message.session):
                raise CallerError("a connection is of one session")  # whose end is known by the end of the connection
            case Open():
                session = message.session
                opened = locks.open(stamp.user, message, now_ms(), is_privileged=stamp.privileged)
                if session in locks.sessions and locks.sessions[session].user == stamp.user:
                    self._lines[session] = line
                    self._linux[session] = message.linux
                    self._tell(opened)
                else:
                    self._tell([one for one in opened if one[0] != session])
                    for told in [told for one, told in opened if one == session]:
                        line.tell(told)
        return session

    def _tell(self, out: Out) -> None:
        for session, message in out:
            line = self._lines.get(session)
            if line is not None:
                line.tell(message)


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the service, on one node."""
    return serve(folder, beat, BEAT_MS / 1000, lambda kernel: Manager(kernel).run(), "locks")
