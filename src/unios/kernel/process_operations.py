"""The kernel's operations on processes: spawn, signal, wait, freeze, thaw, stats, list, follow, feed.

Any node may be asked about any process: what needs the tree is passed on to the node that the record names. Rights: the process's user, and whoever
is privileged here. Decides nothing about where or whether a process runs.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core import claims
from unios.core.processes import ENDED, LIVE, ProcessRecord, process_key
from unios.errors import CallerError, Denied, DiskFull, NotFound, Unavailable
from unios.kernel import spawning
from unios.kernel.callers import Caller
from unios.kernel.carrying import hand_out
from unios.kernel.output_stream import OutputStream
from unios.kernel.records import decode, unless_full
from unios.kernel.renicing import NICE_MAX, NICE_MIN
from unios.kernel.tree_input import TreeInput
from unios.kernel.tree_peer import TreePeer
from unios.limits import ARGV_SHOWN_BYTES_MAX, LIST_BYTES_MAX
from unios.store.pages import every
from unios.wire.carries import OfResults, Results
from unios.wire.operations import (
    Empty,
    Feed,
    Follow,
    ListProcesses,
    OfProcess,
    ProcessStats,
    ProcessView,
    Renice,
    Signal,
    Signalled,
    Spawn,
    Spawned,
)
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

ENDING: Final = frozenset({signal.SIGKILL, signal.SIGTERM})
"""Who sends one of these wants the process to end for good."""
HOPS_MAX: Final = 3
"""How often a request is passed on after a process, and how often the last kernel looks whether it has come back."""


def view(record: ProcessRecord, stale_ms: int = 0) -> ProcessView:
    """Return what `ps` shows."""
    return ProcessView(
        record.pid,
        record.state,
        record.node,
        record.user,
        record.argv,
        record.incarnation,
        record.exit_code,
        record.signal,
        record.reason,
        record.restart,
        record.restarts,
        record.on_partition,
        record.wanted,
        record.created_ms,
        record.started_ms,
        record.ended_ms,
        record.resources,
        record.queueing,
        record.placing,
        record.usage,
        nice=record.nice,
        carried=bool(record.carried),
        why=record.why,
        stale_ms=stale_ms,
    )


def _bounded(views: "list[ProcessView]") -> tuple[ProcessView, ...]:
    """Return the views with their arguments cut so that the answer stays within its bound."""
    share = LIST_BYTES_MAX // max(1, len(views))
    if share >= ARGV_SHOWN_BYTES_MAX:
        return tuple(views)
    return tuple(msgspec.structs.replace(view, argv=claims.shown(view.argv, max(32, share))) for view in views)


class ProcessOperations:
    """Serves `processes.*`."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    # anywhere

    async def list(self, caller: Caller, call: Call) -> object:
        """The processes of the system, sorted by pid; linearizable, unless it is asked for what this node knows, which says how old it may be."""
        body = call.decode(ListProcesses)
        ended = body.ended
        if body.stale:
            stale_ms = self._node.leasing.stale_ms()
            known = sorted(self._node.processes.values.values(), key=lambda record: record.pid)
            return _bounded([view(record, stale_ms) for record in known if ended or record.state in LIVE])
        records, _revision = await every(self._node.store, "/processes/")
        return _bounded([view(record) for record in map(decode, records) if ended or record.state in LIVE])

    async def wait(self, caller: Caller, call: Call) -> object:
        """The process once it has ended, or as it stands at the timeout."""
        body = call.decode(OfProcess)
        key = process_key(body.pid)
        values = self._node.processes.values
        if key not in values:
            await self._node.records.read(body.pid)  # the mirror may be behind; or there is none

        try:  # what is over stays so: for that the mirror is enough
            async with asyncio.timeout(body.timeout_ms / 1000) if body.timeout_ms else contextlib.nullcontext():
                seen = await self._node.processes.wait_for(key, lambda record: record is not None and _is_over(record))
            assert seen is not None
            return view(seen)
        except TimeoutError:
            return view((await self._node.records.read(body.pid))[0])

    async def results(self, caller: Caller, call: Call) -> object:
        """What a process took along and what was collected of it; linearizable."""
        record, carry = await hand_out(self._node, call.decode(OfResults).pid, lambda record: self._check(caller, record))
        return Results(carry, record.user, record.state, record.results, record.reason)

    # at the process's node

    async def _at_home(self, caller: Caller, call: Call, pid: int, work: Callable[[ProcessRecord], Awaitable[object]]) -> object:
        """Do `work` if the process is this node's, else have its node do it."""
        for _hop in range(HOPS_MAX):
            record, _modified = await self._node.records.read(pid)
            self._check(caller, record)
            if record.node == self._node.name:
                return await work(record)
            if not record.node:
                raise Unavailable(f"process {pid} has no node yet: {record.reason or 'it waits for one'}")
            if call.hops >= HOPS_MAX:
                await asyncio.sleep(0.05)  # it is moving faster than the request
                continue
            return await self._node.dispatch.forward(caller, call, record.node)
        raise Unavailable(f"process {pid} is being moved; try again")

    def _check(self, caller: Caller, record: ProcessRecord) -> None:
        if not caller.privileged and caller.user != record.user:
            raise Denied(f"process {record.pid} belongs to {record.user}")

    async def spawn(self, caller: Caller, call: Call) -> object:
        """Start the tree of a record that is assigned to this node. Idempotent."""
        body = call.decode(Spawn)
        if not caller.privileged:
            record, _modified = await self._node.records.read(body.pid)
            if caller.user != record.user:
                raise Denied("processes are started by the placement service")
        await spawning.start(self._node, body.pid, body.incarnation, spawning.sent_along(body) if caller.privileged else None)
        return Spawned(body.pid, body.incarnation, 0)

    async def signal(self, caller: Caller, call: Call) -> object:
        """Send a signal to the program, or to every process of its tree; say whether it waits there. What is ended without one has nothing that waits."""
        body = call.decode(Signal)
        if not 0 <= body.number <= 64:
            raise CallerError(f"there is no signal {body.number}")
        return await self._kill_homeless(caller, body) or await self._at_home(
            caller, call, body.pid, lambda record: self._signal(caller, record, body)
        )

    async def _kill_homeless(self, caller: Caller, body: Signal) -> object:
        """End a process that runs nowhere that can be asked: about to be started again, pending without a node, or kept on a node that is lost."""
        record, _modified = await self._node.records.read(body.pid)
        self._check(caller, record)
        if record.state in ENDED:
            return await self._end_for_good(caller, record, body) or await self._kill_homeless(caller, body)
        lost = bool(record.node) and self._node.membership.view(record.node)[0] in ("lost", "left")
        if (record.node and not (lost and record.on_partition == "keep")) or body.number not in (1, 2, 3, 9, 15):
            return None
        why = f"ended by {caller.user} while it {'ran on ' + record.node + ', which is lost' if record.node else 'waited'}"

        def end(seen: ProcessRecord) -> ProcessRecord | None:
            if seen.state in ENDED or seen.node != record.node:
                return None
            return claims.ended(claims.stopped(seen), 128 + body.number, body.number, why, self._node.wall_ms())

        return Empty() if await self._node.records.change(body.pid, end, refused=unless_full) else None

    async def _end_for_good(self, caller: Caller, record: ProcessRecord, body: Signal) -> object:
        """See to it that what has ended is not started again; None: it has been, or somebody else has seen to it."""
        if body.number not in ENDING:
            _check_lives(record)
        if not claims.wants_restart(record):
            raise NotFound(f"process {record.pid} has ended")

        def forgo(seen: ProcessRecord) -> ProcessRecord | None:
            return claims.forgone(seen, f"{caller.user} ended it before it was started again") if claims.wants_restart(seen) else None

        return Empty() if await self._node.records.change(record.pid, forgo, refused=unless_full) else None

    async def _signal(self, caller: Caller, record: ProcessRecord, body: Signal) -> object:
        if body.number in ENDING and record.state not in ENDED:
            record = await self._want_ended(record, body)  # first: what is acknowledged as ended must not be started again, whatever happens now
        if record.state in ENDED:
            if not await self._end_for_good(caller, record, body):
                raise Unavailable(f"process {record.pid} is being started again at this moment; try again")
            return Empty()
        try:
            init = await self._init(record)
        except Unavailable:
            begun = (record.pid, record.incarnation) in self._node.trees.trees
            if begun or body.number not in ENDING or not await self._end_unbegun(caller, record, body):
                raise
            return Empty()
        await init.ask("signal", number=body.number, all=body.tree)
        return Signalled(waits=record.state == "frozen" and body.number not in (0, signal.SIGKILL))

    async def _end_unbegun(self, caller: Caller, record: ProcessRecord, body: Signal) -> bool:
        """End what is assigned to this node and has never begun here: that it shall end is recorded, so no start of it can come about any more."""
        why = f"{caller.user} ended it before it began"

        def end(seen: ProcessRecord) -> ProcessRecord | None:
            return claims.ended(seen, 128 + body.number, body.number, why, self._node.wall_ms()) if seen.state == "pending" else None

        self._node.starts.forbid(record.pid, record.incarnation)
        if await self._node.records.change_own(self._node.name, record.pid, record.incarnation, end, refused=unless_full):
            return True
        found, _modified = await self._node.records.read(record.pid)
        return found.state in ENDED

    async def _want_ended(self, record: ProcessRecord, body: Signal) -> ProcessRecord:
        """Record that it shall not be started again; return it as it was then, or as it is if it has ended by itself just now."""
        try:
            if await self._node.records.change_own(self._node.name, record.pid, record.incarnation, claims.stopped, refused=unless_full):
                return record
        except DiskFull as error:
            if body.number == signal.SIGKILL:  # it may be what fills the disk; to be killed twice is to be killed
                with contextlib.suppress(NotFound, Unavailable):  # it has been killed before
                    await (await self._init(record)).ask("signal", number=body.number, all=body.tree)
                raise DiskFull(f"{record.pid} was killed, but that it shall stay ended cannot be recorded: {error}") from error
            raise DiskFull(
                f"{record.pid} was not signalled, as that it shall stay ended cannot be recorded: {error}; "
                f"`unios kill -s KILL {record.pid}` does not wait for that"
            ) from error
        record, _modified = await self._node.records.read(record.pid)
        if record.state not in ENDED:
            raise Unavailable(f"process {record.pid} is being moved; try again")
        return record

    async def _init(self, record: ProcessRecord) -> TreePeer:
        """Return the connection to the tree's init, waiting for a start that is under way."""
        await spawning.settled(self._node, record.pid, record.incarnation)
        return self._node.trees.init(record.pid, record.incarnation)

    async def freeze(self, caller: Caller, call: Call) -> object:
        """Stop the tree where it stands. Idempotent."""
        return await self._at_home(caller, call, call.decode(OfProcess).pid, self._freeze)

    async def _freeze(self, record: ProcessRecord) -> object:
        _check_lives(record)
        init = await self._init(record)
        await init.ask("freeze")
        try:
            await self._node.records.change_own(self._node.name, record.pid, record.incarnation, claims.frozen, refused=unless_full)
        except DiskFull:  # nobody would know why it stands
            if record.wanted != "frozen":
                await init.ask("thaw")
            raise
        return Empty()

    async def thaw(self, caller: Caller, call: Call) -> object:
        """Let a frozen tree go on. Idempotent."""
        return await self._at_home(caller, call, call.decode(OfProcess).pid, self._thaw)

    async def _thaw(self, record: ProcessRecord) -> object:
        _check_lives(record)
        init = await self._init(record)
        await self._node.records.change_own(self._node.name, record.pid, record.incarnation, claims.thawed, refused=unless_full)
        await init.ask("thaw")
        return Empty()

    async def renice(self, caller: Caller, call: Call) -> object:
        """Give every process of the tree a nice value. Idempotent; favouring takes a privileged caller."""
        body = call.decode(Renice)
        if not NICE_MIN <= body.nice <= NICE_MAX:
            raise CallerError(f"there is no nice value {body.nice}: they go from {NICE_MIN} (favoured) to {NICE_MAX}")
        return await self._at_home(caller, call, body.pid, lambda record: self._renice(record, body.nice, favour=caller.privileged))

    async def _renice(self, record: ProcessRecord, nice: int, *, favour: bool) -> object:
        _check_lives(record)
        await (await self._init(record)).ask("renice", nice=nice, favour=favour)
        await self._node.records.change_own(
            self._node.name, record.pid, record.incarnation, lambda seen: claims.reniced(seen, nice), refused=unless_full
        )
        return Empty()

    async def stats(self, caller: Caller, call: Call) -> object:
        """What the tree uses. DiskFull if what became of it cannot be recorded."""
        return await self._at_home(caller, call, call.decode(OfProcess).pid, self._stats)

    async def _stats(self, record: ProcessRecord) -> object:
        self._node.recorder.check(record.pid, record.incarnation)
        fields = await (await self._init(record)).ask("stats")
        return ProcessStats(int(fields["cpu_ms"]), int(fields["rss_bytes"]), int(fields["processes"]))

    # streams

    async def follow(self, caller: Caller, call: Call) -> object:
        """The output of an incarnation, as it comes."""
        body = call.decode(Follow)
        return await self._at_home(caller, call, body.pid, lambda record: self._follow(record, call, body))

    async def _follow(self, record: ProcessRecord, call: Call, body: Follow) -> object:
        incarnation = body.incarnation or record.incarnation
        if incarnation == record.incarnation and record.state in LIVE:
            await spawning.settled(self._node, record.pid, incarnation)
        if (record.pid, incarnation) not in self._node.trees.trees:
            raise NotFound(f"no output of incarnation {incarnation} of process {record.pid} is kept on {self._node.name}")
        await OutputStream(self._node, record.pid, incarnation, body, call).run()
        return Empty()

    async def feed(self, caller: Caller, call: Call) -> object:
        """Bytes for stdin, in order; the end of the items is its end."""
        return await self._at_home(caller, call, call.decode(Feed).pid, lambda record: self._feed(record, call))

    async def _feed(self, record: ProcessRecord, call: Call) -> object:
        if record.state in ENDED:
            raise NotFound(f"process {record.pid} has ended")
        await spawning.settled(self._node, record.pid, record.incarnation)
        stdin = TreeInput(self._node.trees, record.pid, record.incarnation)
        try:
            while not stdin.closed and (data := await call.receive(bytes)) is not None:
                await stdin.write(data)
            await stdin.end()
        except Unavailable:
            pass  # its init has ended, since the process has: as with a pipe whose reader is gone, what it did not read is nobody's loss
        except asyncio.CancelledError:
            # The feeder is gone: for the program that is the end of its input, as when the writer of a pipe dies.
            self._node.start(stdin.end_and_close())
            raise
        except BaseException:
            stdin.close()
            raise
        stdin.close()
        return Empty()


def _check_lives(record: ProcessRecord) -> None:
    """Raise NotFound if the process has ended, Unavailable if it has and its policy starts it again."""
    if claims.wants_restart(record):
        raise Unavailable(
            f"process {record.pid} has ended with {record.exit_code} and is about to be started again, as its policy is {record.restart}; "
            f"`unios kill {record.pid}` ends it for good"
        )
    if record.state in ENDED:
        raise NotFound(f"process {record.pid} has ended")


def _is_over(record: ProcessRecord) -> bool:
    return record.state in ENDED and not claims.wants_restart(record)
