"""The placement service: takes what shall run, gives it a global pid, chooses a node and has it started there. One per node; any may be asked.

A submission is durable before it is answered: pid, record and specification are one transaction, together with the request's id, so that the same
request asked again finds what the first came to. Where it runs is decided by core/placement.py.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from unios.client.aio import Kernel, serve
from unios.core import carries, claims
from unios.core.nodes import Alive, alive_key
from unios.core.processes import ProcessRecord, ProcessSpec, process_key, spec_key
from unios.errors import CallerError, Denied, OutcomeUnknown, ProgramNotRunnable, Unavailable
from unios.limits import ARGUMENT_BYTES_MAX, BEAT_MS, PID_MAX, PID_MIN, RESTARTS_MAX, SPEC_BYTES_MAX
from unios.services.starter import Starter, Tried
from unios.services.view import View
from unios.store.model import Compare, Put, Range, RangeResult, Transaction
from unios.wire.home import NodeFolder
from unios.wire.operations import Accepted, Program, Submit, Submitted
from unios.wire.peer import Call

PORT: Final = "placement"
NEXT: Final = "/next/pid"
ATTEMPTS_MAX: Final = 40
COLLISIONS_MAX: Final = PID_MAX - PID_MIN
"""Numbers that may be found in use before a submission gives up."""
BATCH: Final = 64
"""Pids taken from the counter at a time."""
READY_S: Final = 3.0


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Placement:
    """The service."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._view = View(kernel)
        self._starter = Starter(kernel, self._view, wall_ms)
        self._pids: list[int] = []
        self._taking = asyncio.Lock()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._view.run())
            await self._kernel.listen(PORT, 0o666, self._serve)
            await asyncio.Event().wait()

    async def _serve(self, stamp: Accepted, call: Call) -> object:
        if call.op != "submit":
            raise CallerError(f"the placement service has no operation {call.op[:80]}")
        return await self._submit(stamp, call.decode(Submit))

    async def _submit(self, stamp: Accepted, body: Submit) -> Submitted:
        program = body.program
        user = program.user or stamp.user
        if user != stamp.user and not stamp.privileged:
            raise Denied(f"{stamp.user} may not run programs as {user}")
        if not body.request or len(body.request) > 64 or not body.request.isalnum():
            raise CallerError("a request id is 1 to 64 letters and digits")
        spec = spec_of(program, user)
        try:
            async with asyncio.timeout(READY_S):
                await self._view.wait_complete()
        except TimeoutError:
            raise Unavailable("the store cannot be reached; `unios status` says why") from None
        tried = await self._place(spec, user, body.request)
        return Submitted(tried.record.pid, tried.record.node, _state(tried), tried.record.incarnation, _reason(tried))

    async def _place(self, spec: ProcessSpec, user: str, request: str) -> Tried:
        """Write the record, unless an earlier attempt of the same request did; then start it."""
        if spec.node and not any(record.name == spec.node for record in self._view.nodes.values.values()):
            raise CallerError(f"there is no node {spec.node}; `unios nodes` lists them")
        attempt = collisions = 0
        while attempt < ATTEMPTS_MAX and collisions < COLLISIONS_MAX:
            names = self._starter.order(user, spec.node, {})
            node = names[0] if names else ""
            why = "" if names else self._starter.nowhere(user, spec.node, {})
            record = claims.submitted(await self._next_pid(), spec, user, node, why, wall_ms())
            lease = self._view.lease_of(node)
            result = await self._view.store.transact(_first_write(record, spec, request, lease))
            if result.succeeded:
                if not node:
                    return Tried(record, False)
                self._starter.chose(node)
                return await self._starter.start(record, result.revision.number, spec, lease)
            raced, taken = result.results
            if isinstance(raced, RangeResult) and raced.records:
                return await self._known(int(raced.records[0].value))
            if isinstance(taken, RangeResult) and taken.records:
                collisions += 1  # the numbers have come round, and this one is still in use
                continue
            await asyncio.sleep(0.005 * attempt)  # the node's lease is another by now
            attempt += 1
        if collisions >= COLLISIONS_MAX:
            raise Unavailable(f"no number is free for the process: {COLLISIONS_MAX} in a row are in use")
        raise Unavailable("nodes come and go too fast to place the process: try again")

    async def _known(self, pid: int) -> Tried:
        """Return what an earlier attempt of the same request has come to."""
        found = await self._starter.read(pid)
        if found is None:
            raise OutcomeUnknown("the same request was made before and its process is gone")
        return Tried(found[0], found[0].state != "pending")

    async def _next_pid(self) -> int:
        async with self._taking:
            while not self._pids:
                await self._take_pids()
            return self._pids.pop(0)

    async def _take_pids(self) -> None:
        """Take a few numbers from the counter; those that are in use are passed over by the transaction that uses them."""
        result, _revision = await self._view.store.range(NEXT)
        old = result.records[0] if result.records else None
        first = int(old.value) if old else PID_MIN
        after = first + BATCH if first + BATCH <= PID_MAX else PID_MIN
        done = await self._view.store.transact(
            Transaction((Compare(NEXT, "modified", "==", old.modified if old else 0),), (Put(NEXT, b"%d" % after),))
        )
        if done.succeeded:
            self._pids = [pid for pid in range(first, first + BATCH) if pid <= PID_MAX]


def _first_write(record: ProcessRecord, spec: ProcessSpec, request: str, lease: int) -> Transaction:
    """Return the transaction that makes a process: only with a free pid, a new request, and while the node holds the lease that was seen."""
    request_key = f"/requests/{request}"
    compares = [Compare(process_key(record.pid), "version", "==", 0), Compare(request_key, "version", "==", 0)]
    if record.node:
        compares.append(Compare(alive_key(record.node), "value", "==", msgspec.msgpack.encode(Alive(lease))))
    puts = (
        Put(process_key(record.pid), msgspec.msgpack.encode(record)),
        Put(spec_key(record.pid), msgspec.msgpack.encode(spec)),
        Put(request_key, b"%d" % record.pid),
    )
    return Transaction(tuple(compares), puts, (Range(request_key), Range(process_key(record.pid))))


def _state(tried: Tried) -> str:
    return "running" if tried.running and tried.record.state == "pending" else tried.record.state


def _reason(tried: Tried) -> str:
    return str(tried.failure) if tried.failure is not None else tried.record.reason


def spec_of(program: Program, user: str) -> ProcessSpec:
    """Return the specification of a program. Raises CallerError or ProgramNotRunnable for what no node could run."""
    if not program.argv or not program.argv[0]:
        raise CallerError("no program was named")
    total = 0
    for text in (*program.argv, *(name + b"=" + value for name, value in program.env), program.cwd):
        if b"\0" in text:
            raise CallerError("an argument or environment string holds a zero byte; Linux cannot pass it on")
        if len(text) > ARGUMENT_BYTES_MAX:
            raise ProgramNotRunnable(f"argument list too long: one string has {len(text)} bytes, the limit is {ARGUMENT_BYTES_MAX}")
        total += len(text) + 1
    if total > SPEC_BYTES_MAX:
        raise ProgramNotRunnable(f"argument list too long: {total} bytes together, the limit is {SPEC_BYTES_MAX}")
    if program.restarts_max < 0 or program.restarts_max > RESTARTS_MAX:
        raise CallerError(f"restarts are limited to 0 to {RESTARTS_MAX}")
    if not 0 <= program.umask <= 0o777:
        raise CallerError("the umask is out of range")
    carries.check(program.carry)
    try:
        return msgspec.convert({**msgspec.structs.asdict(program), "user": user}, ProcessSpec, strict=False)
    except msgspec.ValidationError as error:
        raise CallerError(f"the program is described wrongly: {error}") from error


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the service of one node."""
    return serve(folder, beat, BEAT_MS / 1000, lambda kernel: Placement(kernel).run(), "placement")
