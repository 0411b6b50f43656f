"""Spawning: from a record that is assigned to this node to a tree that runs, and from the end of a tree to the record that says so.

The start is answered as soon as the program has been executed; that it runs, and how it ended, is recorded in the order in which it happened, by one
task per process, each change guarded by the claim. What the store does not take at once is tried until it does.
"""

import asyncio
import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from unios.core import claims
from unios.core.exhaustion import size
from unios.core.nodes import may_speak_for
from unios.core.processes import LIVE, ProcessRecord, ProcessSpec
from unios.demands import RESOURCES, Device, Resources, Usage
from unios.errors import (
    CallerError,
    Denied,
    DiskFull,
    NotFound,
    PeerRestarted,
    ProgramNotFound,
    ProgramNotRunnable,
    Unavailable,
    UniosError,
    UserUnknown,
)
from unios.kernel.callers import account_of, user_of
from unios.kernel.records import Change
from unios.kernel.tree_peer import to_error
from unios.limits import MEMORY_BYTES_MIN, SPAWN_TIMEOUT_MS, START_LEASE_WAIT_MS
from unios.store.model import UNDECODABLE, Put
from unios.wire.operations import Spawn

if TYPE_CHECKING:
    from unios.kernel.node import Node

RUNNING_S = 0.015
"""What ends so soon after its start needs no record that it ran: most short programs cost one write less. Less than a command takes to be started."""
FORBIDDEN_MAX: Final = 4096
FS: Final = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
"""What os.fsdecode uses."""
PATH_DEFAULT = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Starts:
    """The starts that are under way on a node, by (pid, incarnation)."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._forbidden: dict[tuple[int, int], None] = {}

    def forbid(self, pid: int, incarnation: int) -> None:
        """It was ended before it began: a start that comes yet, with a record from before, is refused. The newest FORBIDDEN_MAX are remembered."""
        self._forbidden[pid, incarnation] = None
        while len(self._forbidden) > FORBIDDEN_MAX:
            del self._forbidden[next(iter(self._forbidden))]

    def forbidden(self, pid: int, incarnation: int) -> bool:
        return (pid, incarnation) in self._forbidden


class Given(NamedTuple):
    """A record that whoever wrote it has sent along, true under the lease of that number."""

    record: ProcessRecord
    spec: ProcessSpec
    modified: int
    lease: int


def sent_along(body: Spawn) -> Given | None:
    """Return what came with a request. Raises CallerError."""
    if not body.record or not body.lease:
        return None
    try:
        record = msgspec.msgpack.decode(body.record, type=ProcessRecord)
        spec = msgspec.msgpack.decode(body.spec, type=ProcessSpec)
    except UNDECODABLE as error:
        raise CallerError(f"the record that was sent along is none: {error}") from error
    return Given(record, spec, body.modified, body.lease)


async def start(node: "Node", pid: int, incarnation: int, given: Given | None = None) -> None:
    """Start the tree and return when its program has been executed; raises why it was not. Idempotent, and one start at a time."""
    await node.leasing.wait_standing(START_LEASE_WAIT_MS)  # not as a start that is under way: the check of claims would wait for its init
    key = (pid, incarnation)
    task = node.starts.tasks.get(key)
    if task is None:
        task = node.starts.tasks[key] = asyncio.get_running_loop().create_task(_start(node, pid, incarnation, given))
        task.add_done_callback(lambda done: _started(node, key, done))
    await asyncio.shield(task)


def _started(node: "Node", key: tuple[int, int], done: asyncio.Task[None]) -> None:
    node.starts.tasks.pop(key, None)
    if done.cancelled() or done.exception() is not None:  # which is told to whoever waits; nobody need wait
        node.recorder.forget(*key)
        node.admission.give_back(*key)  # unless an earlier start of it has come about


async def settled(node: "Node", pid: int, incarnation: int) -> None:
    """Wait for a start that is under way, however it ends; then for the guard to tell its trees."""
    task = node.starts.tasks.get((pid, incarnation))
    if task is not None:
        await asyncio.wait([task])
    elif (pid, incarnation) not in node.trees.trees:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await node.trees.wait_up()
                while (pid, incarnation) not in node.trees.trees and node.holds_pending(pid, incarnation):
                    await asyncio.sleep(0.02)


async def _start(node: "Node", pid: int, incarnation: int, given: Given | None) -> None:
    lease = node.leasing.incarnation  # before the record is read: what is read then is true under this lease, and under no later one
    if given is not None and given.lease == lease:
        record, spec = given.record, given.spec
        node.recorder.know(record, given.modified)
    else:
        record, spec = await node.records.read_both(pid)
    if not claims.holds(record, node.name, incarnation):
        raise PeerRestarted(f"process {pid} is not assigned to {node.name} as incarnation {incarnation} any more")
    if record.wanted == "stopped" or node.starts.forbidden(pid, incarnation):
        raise Unavailable(f"process {pid} was ended before it began")
    if node.leasing.left_ms() <= 0:
        raise Unavailable(f"the lease of {node.name} has ended: it starts nothing until it is renewed")
    if spec.user != record.user:
        raise Denied(f"process {pid} of {record.user} may not run what {spec.user} has specified")
    await node.admission.admit(record)
    if spec.carry.manifest:
        job = job_of(node, record, spec)
        await node.devices.check(record)  # before a folder is laid out for nothing: that may take minutes
        await node.carrying.lay_out(record, spec, job)
    async with node.devices.given(record) as devices:
        job = node.carrying.placed(record, spec, job_of(node, record, spec, devices))
        tree = await node.trees.spawn({**job, "lease": lease}, SPAWN_TIMEOUT_MS)
    # It runs: from here on nothing may fail, or it would be started elsewhere under the same incarnation.
    node.carrying.begun(record, spec)
    node.keep_output()
    with contextlib.suppress(UniosError):
        if record.wanted == "frozen":
            await node.trees.init(pid, incarnation).ask("freeze")
    with contextlib.suppress(UniosError):  # a node without the right to favour, or an init that does not know this yet: it runs as others do
        if record.nice:
            await node.trees.init(pid, incarnation).ask("renice", nice=record.nice, favour=True)
    node.recorder.running(pid, incarnation)
    if tree.state == "ended":
        node.recorder.ended(pid, incarnation, tree.exit)


def job_of(node: "Node", record: ProcessRecord, spec: ProcessSpec, devices: tuple[Device, ...] = ()) -> dict[str, Any]:
    """Return the spawn request for the guard. Raises UserUnknown or Denied if this node cannot be that user."""
    account = account_of(record.user)
    if account is None:
        raise UserUnknown(f"there is no user {record.user}: add it there (useradd {record.user}), or run it as another user")
    if not may_speak_for(node.identity.users, record.user):
        raise Denied(f"it runs nothing as {record.user}: it was let in for {', '.join(node.identity.users)}")
    uid, gid, groups, home = account
    if os.geteuid() not in (0, uid):
        raise Denied(f"it belongs to {user_of(os.geteuid())} and runs nothing as {record.user}")
    env = dict(spec.env)
    for name, value in ((b"PATH", PATH_DEFAULT), (b"HOME", home.encode()), (b"USER", record.user.encode()), (b"LOGNAME", record.user.encode())):
        env.setdefault(name, value)
    env.update(
        {
            b"UNIOS_HOME": os.fsencode(node.home.path),
            b"UNIOS_PID": b"%d" % record.pid,
            b"UNIOS_INCARNATION": b"%d" % record.incarnation,
            b"UNIOS_NODE": node.name.encode(),
            **node.devices.environment(devices),
        }
    )
    if record.queueing.array:
        env.update({b"UNIOS_ARRAY": b"%d" % record.queueing.array, b"UNIOS_ARRAY_INDEX": b"%d" % record.queueing.index})
    return {
        "pid": record.pid,
        "incarnation": record.incarnation,
        "argv": [argument.decode(*FS) for argument in spec.argv],
        "env": [[name.decode(*FS), value.decode(*FS)] for name, value in env.items()],
        "cwd": os.fsdecode(spec.cwd),
        "uid": uid,
        "gid": gid,
        "groups": groups,
        "umask": spec.umask,
        "limits": {name: list(pair) for name, pair in spec.limits.items()},
        "stdin": spec.stdin and record.incarnation == 1,  # what its predecessor has read is gone: the next begins with an empty one
        "hold": spec.hold,
        "on_partition": spec.on_partition,
        "terminal": list(spec.terminal),
        **({"devices": [device.path for device in devices]} if devices else {}),
        **({"denied": denied} if (denied := node.devices.denied(devices)) else {}),
        **({"bounds": asked} if (asked := bounds_of(record.resources)) else {}),
    }


def bounds_of(resources: Resources) -> dict[str, int]:
    """Return what of a process's resources is other than what every tree gets by itself. Raises CallerError."""
    if 0 < resources.memory_bytes < MEMORY_BYTES_MIN:
        raise CallerError(f"{size(resources.memory_bytes)} of memory are asked for; the least that can be is {size(MEMORY_BYTES_MIN)}")
    asked = {name: getattr(resources, name) for name in ("cpu_milli", "cpu_milli_max", "memory_bytes", "tasks")}
    return {name: value for name, value in asked.items() if value != getattr(RESOURCES, name)}


def unbounded(resources: Resources, bounded: frozenset[str], node: str) -> str:
    """Return the note on a process that asked for what its node cannot enforce; "" if it can."""
    wishes = (("memory", resources.memory_bytes), ("cpu", resources.cpu_milli_max), ("pids", resources.tasks))
    lacking = [
        {"memory": "memory", "cpu": "processor time", "pids": "number of processes"}[kind] for kind, asked in wishes if asked and kind not in bounded
    ]
    found = [f"{node} cannot enforce the bound of its {' and '.join(lacking)}"] if lacking else []
    if resources.devices and "devices" not in bounded:
        found.append(f"{node} cannot keep others from its devices")
    return f"{', and '.join(found)}; see `unios doctor`" if found else ""


def used(before: Usage, fields: dict[str, Any]) -> Usage:
    """Return what a process has used with the incarnation that has just ended."""
    return Usage(before.cpu_ms + int(fields.get("cpu_ms", 0)), max(before.memory_peak_bytes, int(fields.get("memory_peak_bytes", 0))))


class Recorder:
    """Writes into the store what happens to this node's processes: per process one task, which writes the latest that is known."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._wanted: dict[tuple[int, int], dict[str, Any] | None] = {}
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._soon: dict[tuple[int, int], asyncio.TimerHandle] = {}
        """Those that run and are not recorded so yet."""
        self._known: dict[tuple[int, int], tuple[ProcessRecord, int]] = {}
        """The latest that this node wrote or was told, with its revision: spares a read when nobody else has written meanwhile."""
        self._refused: dict[tuple[int, int], UniosError] = {}
        """Why what is being written is not written yet; no more than there are tasks."""

    def know(self, record: ProcessRecord, modified: int) -> None:
        """That is the record, as whoever wrote it says."""
        self._known[record.pid, record.incarnation] = (record, modified)

    def forget(self, pid: int, incarnation: int) -> None:
        """It is not started here."""
        self._known.pop((pid, incarnation), None)

    async def _change(self, pid: int, incarnation: int, change: Change, event: Put) -> None:
        key = (pid, incarnation)
        with contextlib.suppress(NotFound):
            known = await self._node.records.change_own(
                self._node.name, pid, incarnation, change, event=event, known=self._known.pop(key, None), refused=functools.partial(self._refuse, key)
            )
            if known is not None and known[0].state in LIVE:
                self._known[key] = known

    def _refuse(self, key: tuple[int, int], error: UniosError) -> None:
        self._refused[key] = error

    def check(self, pid: int, incarnation: int) -> None:
        """Raise DiskFull if what has become of it is not recorded for want of room."""
        error = self._refused.get((pid, incarnation))
        if isinstance(error, DiskFull):
            raise DiskFull(f"what has become of process {pid} cannot be recorded: {error}")

    def running(self, pid: int, incarnation: int) -> None:
        """It has been executed."""
        key = (pid, incarnation)
        if key not in self._wanted:
            self._wanted[key] = None
            if key not in self._tasks:
                self._soon[key] = asyncio.get_running_loop().call_later(RUNNING_S, self._kick, pid, incarnation)

    def ended(self, pid: int, incarnation: int, fields: dict[str, Any]) -> None:
        """It has ended; `fields` as in exit.json. What a leash killed counts for nothing any more."""
        if not fields.get("fenced"):
            self._wanted[pid, incarnation] = fields
            self._kick(pid, incarnation)

    def _kick(self, pid: int, incarnation: int) -> None:
        key = (pid, incarnation)
        soon = self._soon.pop(key, None)
        if soon is not None:
            soon.cancel()
        if key not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._write(*key))
            self._tasks[key] = task
            task.add_done_callback(lambda _task: self._done(key))

    def _done(self, key: tuple[int, int]) -> None:
        del self._tasks[key]
        self._refused.pop(key, None)
        if key in self._wanted:  # told after the task had looked for the last time
            self._kick(*key)

    async def _write(self, pid: int, incarnation: int) -> None:
        key = (pid, incarnation)
        while key in self._wanted:
            fields = self._wanted.pop(key)
            if fields is None:
                await self._write_running(pid, incarnation)
            else:
                await self._write_ended(pid, incarnation, fields)

    async def _write_running(self, pid: int, incarnation: int) -> None:
        def change(record: ProcessRecord) -> ProcessRecord | None:
            if record.state != "pending" or (pid, incarnation) in self._wanted:
                return None  # it has even ended by now: that is written next
            now = claims.started(record, self._node.wall_ms())
            now = msgspec.structs.replace(now, reason=unbounded(record.resources, self._node.trees.bounded, self._node.name))
            return claims.frozen(now) if record.wanted == "frozen" else now

        again = f" as incarnation {incarnation}" if incarnation > 1 else ""
        event = self._node.events.put("start", f"process {pid} runs on {self._node.name}{again}", pid)
        await self._change(pid, incarnation, change, event)

    async def _write_ended(self, pid: int, incarnation: int, fields: dict[str, Any]) -> None:
        node = self._node
        if fields.get("lost"):
            await node.reconciling.gone(pid, incarnation, str(fields.get("reason", "")))
            return
        found = await node.carrying.collect(pid, incarnation)  # before the end is told: who hears of it finds the results

        def change(record: ProcessRecord) -> ProcessRecord | None:
            if record.state not in LIVE:
                return None
            if "code" not in fields:  # it was never executed
                error = to_error(str(fields.get("error", "")), str(fields.get("text", "")))
                code = error.exit_code if isinstance(error, (ProgramNotFound, ProgramNotRunnable)) else claims.NO_START
                return claims.not_started(record, code, str(error), node.wall_ms())
            told = str(fields.get("reason", "")) or claims.why_stopped(record)
            reason = "; ".join(filter(None, (told, found.note)))
            over = claims.ended(record, int(fields["code"]), fields.get("signal"), reason, node.wall_ms())
            return msgspec.structs.replace(over, started_ms=over.started_ms or over.ended_ms, usage=used(over.usage, fields), results=found.results)

        how = (
            f"ended of signal {fields['signal']}"
            if fields.get("signal")
            else f"ended with {fields['code']}"
            if "code" in fields
            else "was not started"
        )
        if fields.get("exhausted"):
            event = node.events.put("oom", f"process {pid} {how} on {node.name}: {fields['exhausted']}", pid)
        else:
            event = node.events.put("exit", f"process {pid} {how} on {node.name}", pid)
        await self._change(pid, incarnation, change, event)
        await node.carrying.done(pid, incarnation, found)

    async def drain(self) -> None:
        """Wait until everything that is known has been written."""
        for key in list(self._soon):
            self._kick(*key)
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
